# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role opennebula_drivers on this machine, for a directory of remotes of the test's own."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROLE = Path(__file__).parents[2] / "roles" / "opennebula_drivers"
ACTIONS = sorted("clone cp export increment_flatten mkfs monitor rm snap_delete snap_flatten snap_revert stat".split())
TRANSFERS = (
    "clone ln mvds cpds mv snap_create snap_create_live snap_delete snap_revert context delete mkimage mkswap resize "
    "premigrate failmigrate postmigrate"
).split()
#: Names of each action in mixed mode.
MIXED = [f"{action}.{system}" for action in TRANSFERS for system in ("ssh", "local")]


def count_changes(output: str) -> int:
    return sum(int(number) for number in re.findall(r"changed=(\d+)", output))


def files(root: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path): (path.stat().st_mode, path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_the_drivers_are_there(driver_scripts: Path) -> None:
    for name in ("fs", "virtiofs"):
        found = sorted((driver_scripts / "datastore" / name).iterdir())
        assert [path.name for path in found] == ACTIONS
        assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in found} == {"0o755"}


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("ssh", [*TRANSFERS, "monitor", "monitor_ds"]),
        ("local", [*TRANSFERS, "monitor", "monitor_ds"]),
        ("shared", [*TRANSFERS, *MIXED, "monitor"]),
        ("qcow2", [*TRANSFERS, *MIXED, "monitor"]),
        ("virtiofs", TRANSFERS),
    ],
)
def test_the_transfer_drivers_are_there(driver_scripts: Path, name: str, names: list[str]) -> None:
    found = sorted((driver_scripts / "tm" / name).iterdir())
    assert [path.name for path in found] == sorted(names)
    assert {oct(path.stat().st_mode) for path in found} == {"0o100755"}
    # The script monitor_ds runs where the engine isn't installed.
    assert {path.read_bytes() for path in found if path.name != "monitor_ds"} == {
        (driver_scripts / "datastore" / "fs" / "cp").read_bytes()
    }


def test_a_front_end_can_keep_its_own_transfer_drivers(
    drivers_play: Callable[..., str], remotes: Path, programs: Path
) -> None:
    (remotes / "tm" / "ssh").mkdir()
    (remotes / "tm" / "ssh" / "clone").write_text("the front-end's own\n")
    kept = ["-e", '{"opennebula_drivers_tm_names": []}']
    drivers_play(remotes, *kept, library=programs.parent / "library")
    assert [path.name for path in (remotes / "tm").rglob("*")] == ["ssh", "clone"]
    assert (remotes / "tm" / "ssh" / "clone").read_text() == "the front-end's own\n"


def test_a_second_run_changes_nothing(driver_scripts: Path, drivers_play: Callable[..., str]) -> None:
    before = files(driver_scripts.parent)
    assert count_changes(drivers_play(driver_scripts)) == 0
    assert files(driver_scripts.parent) == before


def make_remotes(path: Path) -> Path:
    """Create a directory of remotes without drivers."""
    for name in ("datastore", "tm"):
        (path / name).mkdir(parents=True)
    return path


def test_check_mode_says_what_would_be_changed(
    driver_scripts: Path, drivers_play: Callable[..., str], tmp_path: Path
) -> None:
    remotes = make_remotes(tmp_path / "remotes")
    before = list(tmp_path.rglob("*"))
    assert count_changes(drivers_play(remotes, "--check")) == 1
    assert list(tmp_path.rglob("*")) == before
    assert count_changes(drivers_play(driver_scripts, "--check")) == 0


@pytest.mark.parametrize("missing", ["", "datastore", "tm"])
def test_what_is_not_a_front_ends_directory_of_remotes(
    drivers_play: Callable[..., str], tmp_path: Path, missing: str
) -> None:
    """A misspelled path creates no directories."""
    if missing:
        (make_remotes(tmp_path / "remotes") / missing).rmdir()
    before = list(tmp_path.rglob("*"))
    for arguments in (["--check"], []):
        said = drivers_play(tmp_path / "remotes", *arguments, fails=True)
        assert f"remotes: '{tmp_path}/remotes' is not the directory of remotes of a front-end on this host: " in said
    assert list(tmp_path.rglob("*")) == before


def find_kept_scripts(remotes: Path, driver: str) -> dict[str, str]:
    """Return the kept scripts of a driver, by name without the date."""
    place = Path(f"{remotes.parent}/kept{remotes}/datastore/{driver}")
    names = sorted(place.iterdir()) if place.exists() else []
    assert {oct(path.stat().st_mode) for path in names} <= {"0o100600"}
    return {
        re.fullmatch(r"([a-z_]+)\.[0-9]{4}-[0-9]{2}-[0-9]{2}@[0-9]{2}:[0-9]{2}:[0-9]{2}~", path.name)[
            1
        ]: path.read_text()
        for path in names
    }


def test_a_driver_that_was_changed_is_replaced_and_kept_outside_the_remotes(
    driver_scripts: Path, drivers_play: Callable[..., str]
) -> None:
    (script := driver_scripts / "datastore" / "fs" / "rm").write_text("another\n")
    drivers_play(driver_scripts, "--check")
    assert script.read_text() == "another\n"
    assert count_changes(drivers_play(driver_scripts)) == 1
    assert script.read_text() == (driver_scripts / "datastore" / "fs" / "cp").read_text()
    assert find_kept_scripts(driver_scripts, "fs") == {"rm": "another\n"}
    assert sorted(os.listdir(script.parent)) == ACTIONS


def test_our_own_scripts_are_not_kept(driver_scripts: Path, drivers_play: Callable[..., str]) -> None:
    """A restored script of ours would start a missing engine."""
    script = driver_scripts / "datastore" / "virtiofs" / "rm"
    script.write_text(script.read_text().replace("#!/", "#!/usr/../"))
    assert count_changes(drivers_play(driver_scripts)) == 1
    assert find_kept_scripts(driver_scripts, "virtiofs").keys() == {"stat"}


def test_what_an_older_version_kept_in_the_remotes_is_moved(
    drivers_play: Callable[..., str], remotes: Path, programs: Path
) -> None:
    """Older versions left an executable script there, and the front-end copied it to every host."""
    library = programs.parent / "library"
    drivers_play(remotes, library=library)
    directory = remotes / "datastore" / "fs"
    older = {"cp.2025-01-02@03:04:05~": "the front-end's own\n", "rm.1234.2025-01-02@03:04:05~": "from a play\n"}
    ours = {"stat.2025-01-02@03:04:05~": (directory / "stat").read_text()}
    others = {"cp.orig": "an admin's\n", "other.2025-01-02@03:04:05~": "an admin's\n"}
    for name, text in {**older, **ours, **others}.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    assert "move kept scripts" in drivers_play(remotes, "--check", "--diff", library=library)
    assert (directory / "cp.2025-01-02@03:04:05~").exists()
    assert count_changes(drivers_play(remotes, library=library)) == 1
    assert count_changes(drivers_play(remotes, library=library)) == 0
    assert sorted(os.listdir(directory)) == sorted([*ACTIONS, *others])
    place = Path(f"{programs.parent}/kept{directory}")
    assert {path.name: path.read_text() for path in place.iterdir()} == {
        "cp.2025-01-02@03:04:05~": "the front-end's own\n",
        "rm.2025-01-02@03:04:05~": "from a play\n",
    }
    assert {(path.stat().st_uid, oct(path.stat().st_mode)) for path in place.iterdir()} == {(0, "0o100600")}
    assert oct(place.stat().st_mode) == "0o40700"


def test_a_directory_that_others_can_change_keeps_nothing(
    remotes: Path, programs: Path, drivers_play: Callable[..., str]
) -> None:
    """A script restored from there could belong to another user."""
    (directory := remotes / "datastore" / "fs").mkdir()
    (directory / "cp").write_text("the front-end's own\n")
    (programs.parent / "kept").mkdir()
    (programs.parent / "kept").chmod(0o777)
    said = drivers_play(remotes, library=programs.parent / "library", fails=True)
    assert "only root can change, because the front-end's own scripts are restored from there" in said
    assert (directory / "cp").read_text() == "the front-end's own\n"


def test_the_way_back_in_the_readme(drivers_play: Callable[..., str], remotes: Path, programs: Path) -> None:
    """The commands restore the front-end's newest script of each action, and leave no script of ours."""
    own = {
        "datastore/fs": {"cp": "#!/bin/sh\necho cp\n", "stat": "#!/bin/sh\necho stat\n"},
        "datastore/virtiofs": {"cp": "#!/bin/sh\necho virtiofs\n"},
        "tm/shared": {"clone": "#!/bin/sh\necho clone\n", "clone.ssh": "#!/bin/sh\n", "monitor": "#!/bin/sh\n"},
    }
    owner = remotes.stat().st_uid
    for name, scripts in own.items():
        (remotes / name).mkdir()
        os.chown(remotes / name, owner, owner)
        for action, text in scripts.items():
            (remotes / name / action).write_text(text)
            (remotes / name / action).chmod(0o755)
            os.chown(remotes / name / action, owner, owner)
    (remotes / "datastore" / "fs" / "cp.2025-01-02@03:04:05~").write_text("older\n")
    drivers_play(remotes, library=programs.parent / "library")
    way = (ROLE / "README.md").read_text().partition("## The way back")[2]
    (block,) = re.findall(r"^```sh\n(.*?)^```", way, re.MULTILINE | re.DOTALL)
    for default, here in (
        ("/var/lib/granary-vmstore", programs.parent),
        ("/var/lib/one/remotes", remotes),
        ("oneadmin", owner),
    ):
        block = block.replace(default, str(here))
    subprocess.run(["sh", "-ec", block], check=True)
    assert {
        path.relative_to(remotes): (path.read_text(), path.stat().st_uid, oct(path.stat().st_mode))
        for name in ("datastore", "tm")
        for path in (remotes / name).rglob("*")
        if path.is_file()
    } == {
        Path(name, action): (text, owner, "0o100755")
        for name, scripts in own.items()
        for action, text in scripts.items()
    }


def test_another_engine_leaves_nothing_of_the_one_before(
    driver_scripts: Path, drivers_play: Callable[..., str], tmp_path: Path
) -> None:
    """The previous engine stays whole until the next change, for actions in progress."""
    library = tmp_path / "library"
    for name in ("older", "before"):
        (library / name / "granary_vmstore").mkdir(parents=True)
        (library / name / "granary_vmstore" / "stale.py").touch()
    (library / "granary_vmstore").mkdir()
    (library / "current").symlink_to("before")
    remotes = make_remotes(tmp_path / "remotes")
    assert count_changes(drivers_play(remotes)) == 1
    current = os.readlink(library / "current")
    assert sorted(os.listdir(library)) == sorted(["before", "current", current])
    assert not list((library / current).rglob("stale*"))


def test_the_engine_is_whole_and_compiled(driver_scripts: Path) -> None:
    """No part comes from elsewhere, whatever the environment of the front-end contains."""
    library = (driver_scripts.parent / "library" / "current").resolve()
    sources = sorted(library.rglob("*.py"))
    assert len(sources) > 20
    for source in sources:
        assert list((source.parent / "__pycache__").glob(f"{source.stem}.*.pyc")), source
    modules = [".".join(source.relative_to(library).with_suffix("").parts) for source in sources]
    program = (
        f"import sys; sys.path.insert(0, {str(library)!r}); import importlib\nfor name in {modules!r}: "
        "importlib.import_module(name)"
    )
    subprocess.run(["/usr/bin/python3", "-ISXutf8", "-c", program], check=True)


def test_nothing_is_compiled_again(driver_scripts: Path) -> None:
    """The test includes sources with another time, for example after a backup or a copy."""
    library = (driver_scripts.parent / "library" / "current").resolve()
    source = library / "granary_vmstore" / "_face" / "driver_script" / "entry.py"
    before = source.stat()
    os.utime(source, (1, 1))
    try:
        command = ["/usr/bin/python3", "-ISXutf8", "-v", driver_scripts / "datastore" / "fs" / "rm", "1"]
        done = subprocess.run(command, input="", capture_output=True, text=True, check=False)
    finally:
        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    # The message doesn't quote the name of a compiled source.
    assert f"# code object from '{source.parent}/__pycache__/entry." in done.stderr
    assert f"# code object from {library}" not in done.stderr


def test_the_environment_decides_nothing(driver_scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "base64.py").write_text("raise SystemExit('taken from PYTHONPATH')")
    (tmp_path / "contextlib.py").write_text("raise SystemExit('taken from PYTHONPATH')")
    hostile = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(tmp_path),
        "PYTHONHOME": str(tmp_path),
        "PYTHONSTARTUP": str(tmp_path / "base64.py"),
    }
    done = subprocess.run(
        [driver_scripts / "datastore" / "fs" / "cp", "1"],
        input="",
        capture_output=True,
        text=True,
        check=False,
        env=hostile,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "standard input: '' is not accepted: base64 of an XML document is expected.\n"


def test_what_the_front_end_came_with_is_kept(driver_scripts: Path) -> None:
    assert find_kept_scripts(driver_scripts, "virtiofs")["stat"].endswith("the front-end's own\n")


@pytest.fixture
def remotes(tenant: Path) -> Path:
    """Return a directory of remotes in the home directory of the front-end's user, to whom it belongs."""
    path = make_remotes(tenant / "remotes")
    owner = tenant.stat().st_uid
    for name in ("", "datastore", "tm"):
        os.chown(path / name, owner, owner)
    return path


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Path]:
    """Return a directory of root with programs that have names of actions. These programs must stay unchanged."""
    (path := tmp_path / "bin").mkdir()
    for name in ("cp", "rm", "stat"):
        (path / name).write_text("root's own\n")
    yield path
    assert {name.name: name.read_text() for name in path.iterdir()} == dict.fromkeys(
        ("cp", "rm", "stat"), "root's own\n"
    )
    assert {(name.stat().st_uid, name.stat().st_mode & 0o7777) for name in path.iterdir()} == {(0, 0o644)}


def put_link(path: Path, target: Path) -> None:
    path.symlink_to(target)
    owner = path.parent.stat().st_uid
    os.chown(path, owner, owner, follow_symlinks=False)


@pytest.mark.parametrize("name", ["datastore", "datastore/fs"])
def test_no_link_of_the_front_ends_user_leads_to_programs_of_root(
    remotes: Path, programs: Path, drivers_play: Callable[..., str], name: str
) -> None:
    if name == "datastore":
        (programs / "fs").symlink_to(".")
        (remotes / "datastore").rmdir()
    put_link(remotes / name, programs)
    said = drivers_play(remotes, library=programs.parent / "library", fails=True)
    assert "leads through a symbolic link that another user can change" in said
    (programs / "fs").unlink(missing_ok=True)


def test_scripts_belong_to_the_front_ends_user_and_its_links_are_replaced(
    remotes: Path, programs: Path, drivers_play: Callable[..., str]
) -> None:
    owner = remotes.stat().st_uid
    (directory := remotes / "datastore" / "fs").mkdir()
    os.chown(directory, owner, owner)
    put_link(directory / "cp", programs / "cp")
    os.mkfifo(directory / "rm")
    library = programs.parent / "library"
    assert count_changes(drivers_play(remotes, library=library)) == 1
    assert count_changes(drivers_play(remotes, "--check", library=library)) == 0
    found = set((remotes / "datastore").rglob("*"))
    assert {(path.lstat().st_uid, oct(path.lstat().st_mode & 0o7777)) for path in found} == {(owner, "0o755")}
    assert sorted(os.listdir(directory)) == ACTIONS


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_no_link_of_the_front_ends_user_leads_to_a_secret_that_is_kept_and_restored(
    remotes: Path, programs: Path, drivers_play: Callable[..., str], mode: int
) -> None:
    """The link is in a directory of this user or, where all users may write, of root."""
    owner = remotes.stat().st_uid
    (secret := remotes.parent / "secret").write_text("secret\n")
    secret.chmod(0o600)
    (directory := remotes / "datastore" / "fs").mkdir()
    put_link(directory / "cp", secret)
    os.chown(directory / "cp", owner, owner, follow_symlinks=False)
    directory.chmod(mode)
    if mode == 0o755:
        os.chown(directory, owner, owner)
    drivers_play(remotes, library=programs.parent / "library")
    assert not list((programs.parent / "kept").rglob("cp*"))
    assert sorted(os.listdir(directory)) == ACTIONS


def test_a_library_that_others_can_change_is_refused(
    remotes: Path, programs: Path, drivers_play: Callable[..., str]
) -> None:
    """root would compile the files in there, and every user of the drivers would run them."""
    (shared := programs.parent / "shared").mkdir()
    shared.chmod(0o777)
    for library in (remotes / "library", shared, shared / "library"):
        for arguments in (["--check"], []):
            assert "only root can change" in drivers_play(remotes, *arguments, library=library, fails=True)
    assert sorted(os.listdir(remotes)) == ["datastore", "tm"]
    assert os.listdir(remotes / "datastore") == os.listdir(remotes / "tm") == os.listdir(shared) == []


INSTALL = """
import sys
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script import entry
from ansible_collections.granary.vmstore.plugins.module_utils._remote.engine import engine_sources
from ansible_collections.granary.vmstore.plugins.module_utils._service.drivers.opennebula import (
    OpennebulaDriversService,
)
done = 0
for number in range(60):
    try:
        options = {"remotes": sys.argv[1], "library": sys.argv[2], "kept": sys.argv[3]}
        options.update(python=sys.executable, names=["fs"], tm_names=[])
        OpennebulaDriversService(options, engine_sources(entry.__name__)).converge()
        done += 1
    except VmstoreError:
        pass
print(done)
"""


def test_who_changes_names_all_the_time_leads_no_script_elsewhere(
    remotes: Path, programs: Path, swapping: Callable[[Path, Path], contextlib.AbstractContextManager[None]]
) -> None:
    owner = remotes.stat().st_uid
    (directory := remotes / "datastore" / "fs").mkdir()
    os.chown(directory, owner, owner)
    put_link(other := directory.parent / "other", programs)
    with swapping(directory, other):
        command = [sys.executable, "-c", INSTALL, remotes, programs.parent / "library", programs.parent / "kept"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 0
