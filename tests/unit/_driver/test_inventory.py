# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import FileAccessFailed, NotFound, UnsupportedAction
from ansible_collections.granary.vmstore.plugins.module_utils._driver.base import DatastoreDriver
from ansible_collections.granary.vmstore.plugins.module_utils._driver.directory import SystemDriver
from ansible_collections.granary.vmstore.plugins.module_utils._driver.fs import FsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._driver.virtiofs import VirtiofsDriver

HUNG = Path(__file__).parents[2] / "hung_mount.py"


def name(digit: str) -> str:
    return digit * 32


def driver(path: Path, cls: type[DatastoreDriver] = FsDriver, **attributes: object) -> DatastoreDriver:
    return cls(Datastore(1, "default", "image", "fs", "local", str(path), **attributes))


def images(directory: Path, *digits: str) -> set[str]:
    return {f"{directory}/{name(digit)}" for digit in digits}


def test_stored_are_the_images_whose_data_is_there(tmp_path: Path) -> None:
    for digit in "ab":
        (tmp_path / name(digit)).write_bytes(b"data")
    # What the transfer drivers make of a persistent qcow2 image with snapshots.
    (tmp_path / f"{name('c')}.snap").mkdir()
    (tmp_path / f"{name('c')}.snap/1").write_bytes(b"data")
    (tmp_path / name("c")).symlink_to(f"{name('c')}.snap/1")
    (tmp_path / f"{name('d')}.snap").mkdir()
    (tmp_path / f"{name('d')}.snap/1").write_bytes(b"data")
    (tmp_path / name("d")).symlink_to(tmp_path / f"{name('d')}.snap/1")
    assert driver(tmp_path).stored() == images(tmp_path, "a", "b", "c", "d")


def test_what_is_no_image_is_not_stored(tmp_path: Path) -> None:
    (tmp_path / name("a")).write_bytes(b"data")
    (tmp_path / name("1")).mkdir()
    os.mkfifo(tmp_path / name("2"))
    (tmp_path / name("3")).symlink_to("/etc/passwd")
    (tmp_path / name("4")).symlink_to(name("a"))
    (tmp_path / name("5")).symlink_to(f"{name('5')}.snap/0")
    (tmp_path / name("6")).symlink_to(name("6"))
    (tmp_path / f"{name('7')}.snap").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/0").write_bytes(b"data")
    (tmp_path / name("7")).symlink_to(f"{name('7')}.snap/0")
    for other in (f"{name('a')}.md5sum", f".{name('b')}.part", name("A"), f"{name('a')}\n", "a b\nc", name("a")[1:]):
        (tmp_path / other).write_bytes(b"data")
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff\xfe")).write_bytes(b"data")
    assert driver(tmp_path).stored() == images(tmp_path, "a")


def test_a_directory_that_is_missing_holds_not_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=f"^The directory {tmp_path}/1 could not be read: it does not exist.$"):
        driver(tmp_path / "1").stored()


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(b"")
    with pytest.raises(FileAccessFailed, match=f"^Could not read the directory {tmp_path}/1: Not a directory.$"):
        driver(tmp_path / "1").stored()


@pytest.mark.parametrize("question", ["stored"])
@pytest.mark.parametrize("cls", [SystemDriver, VirtiofsDriver])
def test_a_driver_that_has_no_images_says_so(tmp_path: Path, cls: type[DatastoreDriver], question: str) -> None:
    with pytest.raises(UnsupportedAction, match=f"^{question} is not supported by the {cls.info.name} driver.$"):
        getattr(driver(tmp_path, cls), question)()


ASK = """
import json, sys
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._driver.fs import FsDriver
try:
    getattr(FsDriver(Datastore(1, "default", "image", "fs", "local", sys.argv[1]), timeout=0.5), sys.argv[2])()
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.mark.parametrize("question", ["stored"])
def test_a_dead_file_server_keeps_no_one_waiting(tmp_path: Path, question: str) -> None:
    done = subprocess.run([sys.executable, HUNG, tmp_path, "fuse", sys.executable, "-c", ASK, tmp_path, question], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["CommandFailed", f"Reading the directory {tmp_path} did not end within 0.5 seconds and was stopped."]
