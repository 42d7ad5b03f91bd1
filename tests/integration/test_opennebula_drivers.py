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

ACTIONS = sorted("clone cp export increment_flatten mkfs monitor rm snap_delete snap_flatten snap_revert stat".split())


def changed(output: str) -> int:
    return sum(int(number) for number in re.findall(r"changed=(\d+)", output))


def files(root: Path) -> dict[str, tuple[int, int, bytes]]:
    return {str(path): (path.stat().st_mode, path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_drivers_are_there(driver_scripts: Path) -> None:
    for name in ("fs", "virtiofs"):
        found = sorted(path for path in (driver_scripts / "datastore" / name).iterdir() if "." not in path.name)
        assert [path.name for path in found] == ACTIONS
        assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in found} == {"0o755"}


def test_a_second_run_changes_nothing(driver_scripts: Path, drivers_play: Callable[..., str]) -> None:
    before = files(driver_scripts.parent)
    assert changed(drivers_play(driver_scripts)) == 0
    assert files(driver_scripts.parent) == before


def test_check_mode_says_what_would_be_changed(driver_scripts: Path, drivers_play: Callable[..., str], tmp_path: Path) -> None:
    (remotes := tmp_path / "remotes").mkdir()
    assert changed(drivers_play(remotes, "--check")) == 1
    assert list(tmp_path.rglob("*")) == [remotes]
    assert changed(drivers_play(driver_scripts, "--check")) == 0


def test_a_driver_that_was_changed_is_replaced_and_kept_beside(driver_scripts: Path, drivers_play: Callable[..., str]) -> None:
    (script := driver_scripts / "datastore" / "fs" / "rm").write_text("another\n")
    drivers_play(driver_scripts, "--check")
    assert script.read_text() == "another\n"
    assert changed(drivers_play(driver_scripts)) == 1
    assert script.read_text() == (driver_scripts / "datastore" / "fs" / "cp").read_text()
    (kept,) = script.parent.glob("rm.*")
    assert kept.read_text() == "another\n"
    assert [path.name for path in script.parent.glob("*.*")] == [kept.name]


def test_another_engine_leaves_nothing_of_the_one_before(driver_scripts: Path, drivers_play: Callable[..., str], tmp_path: Path) -> None:
    """But the one that it replaces stays as a whole until the next one, for actions that are under way."""
    library = tmp_path / "library"
    for name in ("older", "before"):
        (library / name / "granary_vmstore").mkdir(parents=True)
        (library / name / "granary_vmstore" / "stale.py").touch()
    (library / "granary_vmstore").mkdir()
    (library / "current").symlink_to("before")
    (remotes := tmp_path / "remotes").mkdir()
    assert changed(drivers_play(remotes)) == 1
    current = os.readlink(library / "current")
    assert sorted(os.listdir(library)) == sorted(["before", "current", current])
    assert not list((library / current).rglob("stale*"))


def test_the_engine_is_whole_and_compiled(driver_scripts: Path) -> None:
    """Nothing of it is taken from elsewhere, whatever the environment of the front-end says."""
    library = (driver_scripts.parent / "library" / "current").resolve()
    sources = sorted(library.rglob("*.py"))
    assert len(sources) > 20
    for source in sources:
        assert list((source.parent / "__pycache__").glob(f"{source.stem}.*.pyc")), source
    modules = [".".join(source.relative_to(library).with_suffix("").parts) for source in sources]
    program = f"import sys; sys.path.insert(0, {str(library)!r}); import importlib\nfor name in {modules!r}: importlib.import_module(name)"
    subprocess.run(["/usr/bin/python3", "-ISXutf8", "-c", program], check=True)


def test_the_environment_decides_nothing(driver_scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "base64.py").write_text("raise SystemExit('taken from PYTHONPATH')")
    (tmp_path / "dataclasses.py").write_text("raise SystemExit('taken from PYTHONPATH')")
    hostile = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "PYTHONHOME": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "base64.py")}
    done = subprocess.run(
        [driver_scripts / "datastore" / "fs" / "cp", "1"], input="", capture_output=True, text=True, check=False, env=hostile, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "standard input: '' is not accepted: base64 of an XML document is expected.\n"


def test_what_the_front_end_came_with_is_kept_beside(driver_scripts: Path) -> None:
    (kept,) = (driver_scripts / "datastore" / "virtiofs").glob("stat.*")
    assert kept.read_text().endswith("the front-end's own\n")


@pytest.fixture
def remotes(tenant: Path) -> Path:
    """A directory of remotes that belongs to the front-end's user, in a home directory of that user."""
    (path := tenant / "remotes").mkdir()
    owner = tenant.stat().st_uid
    os.chown(path, owner, owner)
    return path


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Path]:
    """A directory of root with programs that are called like actions, which stay what they are."""
    (path := tmp_path / "bin").mkdir()
    for name in ("cp", "rm", "stat"):
        (path / name).write_text("root's own\n")
    yield path
    assert {name.name: name.read_text() for name in path.iterdir()} == dict.fromkeys(("cp", "rm", "stat"), "root's own\n")
    assert {(name.stat().st_uid, name.stat().st_mode & 0o7777) for name in path.iterdir()} == {(0, 0o644)}


def put_link(path: Path, target: Path) -> None:
    path.symlink_to(target)
    owner = path.parent.stat().st_uid
    os.chown(path, owner, owner, follow_symlinks=False)


@pytest.mark.parametrize("name", ["datastore", "datastore/fs"])
def test_no_link_of_the_front_ends_user_leads_to_programs_of_root(remotes: Path, programs: Path, drivers_play: Callable[..., str], name: str) -> None:
    owner = remotes.stat().st_uid
    if name == "datastore":
        (programs / "fs").symlink_to(".")
    else:
        (remotes / "datastore").mkdir()
        os.chown(remotes / "datastore", owner, owner)
    put_link(remotes / name, programs)
    said = drivers_play(remotes, library=programs.parent / "library", fails=True)
    assert "leads through a symbolic link that another user can change" in said
    (programs / "fs").unlink(missing_ok=True)


def test_scripts_belong_to_the_front_ends_user_and_its_links_are_replaced(remotes: Path, programs: Path, drivers_play: Callable[..., str]) -> None:
    owner = remotes.stat().st_uid
    (directory := remotes / "datastore" / "fs").mkdir(parents=True)
    for path in (directory.parent, directory):
        os.chown(path, owner, owner)
    put_link(directory / "cp", programs / "cp")
    os.mkfifo(directory / "rm")
    library = programs.parent / "library"
    assert changed(drivers_play(remotes, library=library)) == 1
    assert changed(drivers_play(remotes, "--check", library=library)) == 0
    found = {path for path in (remotes / "datastore").rglob("*") if not path.name.endswith("~")}
    assert {(path.lstat().st_uid, oct(path.lstat().st_mode & 0o7777)) for path in found} == {(owner, "0o755")}
    assert sorted(path.name.partition(".")[0] for path in directory.glob("*~")) == ["cp", "rm"]


def test_a_library_that_others_can_change_is_refused(remotes: Path, programs: Path, drivers_play: Callable[..., str]) -> None:
    """root would compile what is in there, and every user of the drivers would run it."""
    (shared := programs.parent / "shared").mkdir()
    shared.chmod(0o777)
    for library in (remotes / "library", shared, shared / "library"):
        for arguments in (["--check"], []):
            assert "only root can change" in drivers_play(remotes, *arguments, library=library, fails=True)
    assert os.listdir(remotes) == os.listdir(shared) == []


INSTALL = """
import sys
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._service.opennebula_drivers import OpennebulaDriversService
done = 0
for number in range(60):
    try:
        OpennebulaDriversService({"remotes": sys.argv[1], "library": sys.argv[2], "python": sys.executable, "names": ["fs"]}).converge()
        done += 1
    except VmstoreError:
        pass
print(done)
"""


def test_who_changes_names_all_the_time_leads_no_script_elsewhere(
    remotes: Path, programs: Path, swapping: Callable[[Path, Path], contextlib.AbstractContextManager[None]]
) -> None:
    owner = remotes.stat().st_uid
    (directory := remotes / "datastore" / "fs").mkdir(parents=True)
    for path in (directory.parent, directory):
        os.chown(path, owner, owner)
    put_link(other := directory.parent / "other", programs)
    with swapping(directory, other):
        command = [sys.executable, "-c", INSTALL, remotes, programs.parent / "library"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 0
