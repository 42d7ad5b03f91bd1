# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role opennebula_drivers on this machine, for a directory of remotes of the test's own."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

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
    assert changed(drivers_play(remotes, "--check")) == 4  # engine, link, directories and scripts of the drivers
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
    assert changed(drivers_play(remotes)) == 6
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
