# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories with temporary names: held by one program, removed when no program holds them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core import part_directory
from ansible_collections.granary.vmstore.plugins.module_utils._core.part_directory import (
    create_part_directory,
    is_directory_held,
    open_part_directory,
    remove_at,
    remove_unheld_directory,
)

KILLED = """
import os, signal, sys
from ansible_collections.granary.vmstore.plugins.module_utils._core.part_directory import create_part_directory
part = create_part_directory(os.open(sys.argv[1], os.O_RDONLY))
os.makedirs(f"{sys.argv[1]}/{part.name}/data/inner")
open(f"{sys.argv[1]}/{part.name}/data/inner/x", "w").close()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def test_a_directory_belongs_to_one_program_at_a_time(tmp_path: Path, parent: int) -> None:
    part = create_part_directory(parent)
    assert os.listdir(tmp_path) == [part.name]
    assert (tmp_path / part.name).stat().st_mode & 0o777 == 0o700
    assert is_directory_held(parent, part.name)
    with pytest.raises(BlockingIOError):
        open_part_directory(parent, part.name)
    with pytest.raises(BlockingIOError):
        remove_unheld_directory(parent, part.name)
    part.close()
    assert not is_directory_held(parent, part.name)
    (again := open_part_directory(parent, part.name)).remove()
    again.close()
    assert os.listdir(tmp_path) == []
    assert open_part_directory(parent, part.name) is None


def test_what_a_killed_program_left_is_removed_with_its_content(tmp_path: Path, parent: int) -> None:
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    (name,) = os.listdir(tmp_path)
    remove_unheld_directory(parent, name)
    assert os.listdir(tmp_path) == []


def test_a_directory_that_others_can_change_is_not_used(tmp_path: Path, parent: int) -> None:
    create_part_directory(parent, name := f".{'0' * 32}.part").close()
    (tmp_path / name).chmod(0o770)
    for use in (open_part_directory, remove_unheld_directory):
        with pytest.raises(PermissionError):
            use(parent, name)
    assert (tmp_path / name / "lock").exists()


def test_a_directory_without_a_lock_is_no_part(tmp_path: Path, parent: int) -> None:
    (tmp_path / "aside").mkdir(mode=0o700)
    (tmp_path / "aside" / "file").touch()
    with pytest.raises(FileNotFoundError):
        remove_unheld_directory(parent, "aside")
    assert not is_directory_held(parent, "aside")
    (tmp_path / "aside" / "lock").symlink_to("/etc/passwd")
    with pytest.raises(OSError):
        remove_unheld_directory(parent, "aside")
    assert os.listdir(tmp_path / "aside")


def test_an_empty_directory_of_a_killed_program_is_removed(tmp_path: Path, parent: int) -> None:
    (tmp_path / "part").mkdir(mode=0o700)
    remove_unheld_directory(parent, "part")
    assert os.listdir(tmp_path) == []


def test_removal_follows_no_link_and_has_a_bound(tmp_path: Path, parent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (outside := tmp_path / "outside").mkdir()
    (outside / "x").touch()
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "link").symlink_to("../outside")
    remove_at(parent, "a")
    assert sorted(os.listdir(tmp_path)) == ["outside"] and (outside / "x").exists()
    (tmp_path / "link").symlink_to("outside")
    remove_at(parent, "link")
    assert (outside / "x").exists()
    monkeypatch.setattr(part_directory, "DEEPEST", 2)
    (tmp_path / "deep" / "er" / "est").mkdir(parents=True)
    with pytest.raises(OSError) as caught:
        remove_at(parent, "deep")
    assert caught.value.errno == errno.ELOOP
