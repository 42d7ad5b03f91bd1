# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The cache: a thing that takes long to build is built once, as a whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab import LabError, cache
from refusal import refused


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def _make(directory: Path) -> None:
    with open(directory.parent / "made", "a", encoding="ascii") as file:
        file.write("x")
    (directory / "file").write_text("whole", encoding="ascii")


ONE_OF_TWO = """
from pathlib import Path
from lab import cache
def make(directory: Path) -> None:
    with open(directory.parent / "made", "a") as file:
        file.write("x")
    (directory / "file").write_text("whole")
print(cache.build_once("thing", {"a": 1}, make))
"""


def test_made_once_by_two_processes() -> None:
    both = [
        subprocess.Popen([sys.executable, "-c", ONE_OF_TWO], stdout=subprocess.PIPE, text=True) for _process in range(2)
    ]
    first, second = (process.communicate(timeout=60)[0].strip() for process in both)
    assert first == second
    assert Path(first, "file").read_text(encoding="ascii") == "whole"
    assert (cache.root() / "made").read_text(encoding="ascii") == "x"


def test_another_recipe_is_another_thing() -> None:
    assert cache.build_once("thing", {"a": 1}, _make) != cache.build_once("thing", {"a": 2}, _make)


def test_a_failure_leaves_nothing() -> None:
    def fail(directory: Path) -> None:
        _make(directory)
        raise LabError("no")

    with pytest.raises(LabError):
        cache.build_once("thing", 1, fail)
    assert not list(cache.root().glob("*thing-*"))
    assert (cache.build_once("thing", 1, _make) / "file").exists()


KILLED = """
import sys
from pathlib import Path
from lab import cache
def make(directory: Path) -> None:
    (directory / "half").touch()
    print("half", flush=True)
    sys.stdin.read()
cache.build_once("thing", 1, make)
"""


def test_a_killed_one_is_made_anew() -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with refused(LabError, names=[process.pid]):
            cache.build_once("thing", 1, _make, deadline=0.1)
        os.kill(process.pid, signal.SIGKILL)
    path = cache.build_once("thing", 1, _make)
    assert [file.name for file in path.iterdir()] == ["file"]


def test_an_old_version_goes_when_it_was_long_unused() -> None:
    old, recent = cache.build_once("thing", "old", _make), cache.build_once("thing", "recent", _make)
    long_ago = time.time() - cache.KEEP_UNUSED - 60
    os.utime(cache.root() / "locks" / old.name, (long_ago, long_ago))
    new = cache.build_once("thing", "new", _make)
    assert (old.exists(), recent.exists(), new.exists()) == (False, True, True)


def test_an_old_version_stays_while_another_mount_namespace_has_it() -> None:
    old = cache.build_once("thing", "old", _make)
    long_ago = time.time() - cache.KEEP_UNUSED - 60
    os.utime(cache.root() / "locks" / old.name, (long_ago, long_ago))
    script = 'mount --bind "$0" /mnt && echo mounted && read -r line'
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, str(old)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"mounted\n"
        cache.build_once("thing", "new", _make)
        assert old.exists()
        holder.communicate(b"\n")
