# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""A tree of files from another host: with a fault, a kill or a crash at each step, each name has its old files or its
new ones, and a repeat leaves the new ones only.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.part_directory import create_part_directory
from ansible_collections.granary.vmstore.plugins.module_utils._remote.staging import sweep_parts
from ansible_collections.granary.vmstore.plugins.module_utils._remote.tree import Source
from simulated_datastore.testing import CrashWalker, FaultWalker, KillWalker
from trees import receive, record

OLD = {"x": b"old", "x.snap": {"0": b"old 0", "inner": {"y": b"old y"}}}
NEW = {"x": b"new", "x.snap": {"1": b"new 1", "link": "1", "inner": {"z": b"new z"}}}


def write(directory: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        if isinstance(content, dict):
            (directory / name).mkdir()
            write(directory / name, content)
        elif isinstance(content, str):
            (directory / name).symlink_to(content)
        else:
            (directory / name).write_bytes(content)


def read(directory: Path) -> dict[str, Any]:
    return {
        path.name: os.readlink(path) if path.is_symlink() else read(path) if path.is_dir() else path.read_bytes()
        for path in directory.iterdir()
    }


@pytest.fixture
def sent(tmp_path: Path) -> bytes:
    write(tmp_path, NEW)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        return record(Source(descriptor, str(tmp_path), {name: name for name in NEW}))
    finally:
        os.close(descriptor)


@pytest.fixture
def work(sent: bytes) -> Callable[[Path], Any]:
    return lambda directory: receive(sent, directory)


def require_old_or_new(directory: Path, old: dict[str, Any]) -> dict[str, Any]:
    found = {name: files for name, files in read(directory).items() if not name.startswith(".")}
    for name in NEW:
        assert found.get(name) in (old.get(name), NEW[name])
    assert found.keys() <= NEW.keys()
    return found


def test_a_fault_at_each_step(walk_faults: FaultWalker, work: Callable[[Path], Any]) -> None:
    """EINVAL is the error of a file system that can't exchange two names."""

    def check(directory: Path, raised: BaseException | None) -> None:
        found = require_old_or_new(directory, OLD)
        assert found in ((NEW,) if raised is None else (OLD, NEW))
        work(directory)
        assert read(directory) == NEW

    errnos = (errno.ENOSPC, errno.EINVAL)
    assert walk_faults(work, check, prepare=lambda path: write(path, OLD), errnos=errnos) > 20


@pytest.mark.parametrize("old", [{}, OLD], ids=["new", "replaced"])
def test_a_kill_at_each_step(walk_kills: KillWalker, work: Callable[[Path], Any], old: dict[str, Any]) -> None:
    def check(directory: Path) -> None:
        require_old_or_new(directory, old)
        work(directory)
        assert read(directory) == NEW

    assert walk_kills(work, check, prepare=lambda path: write(path, old)) > 10


def test_a_crash_at_each_step(walk_crashes: CrashWalker, work: Callable[[Path], Any]) -> None:
    def check(directory: Path) -> None:
        require_old_or_new(directory, OLD)
        work(directory)
        assert read(directory) == NEW

    assert walk_crashes(work, check, prepare=lambda path: write(path, OLD), limit=2) > 10


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_a_sweep_after_a_crash_leaves_no_part_directory(walk_crashes: CrashWalker) -> None:
    def work(directory: Path) -> None:
        with opened(directory) as parent:
            part = create_part_directory(parent)
            try:
                write(directory / part.name, {"data": {"x": b"new"}})
                part.remove()
            finally:
                part.close()

    def check(directory: Path) -> None:
        with opened(directory) as parent:
            sweep_parts(parent)
        assert os.listdir(directory) == []

    assert walk_crashes(work, check, names="strict", limit=6)
