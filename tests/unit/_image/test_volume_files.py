# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a domain's volumes, as stat and qemu-img see them."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    FileAccessFailed,
    NoSpace,
    PathNotAllowed,
    StaleState,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.volume_files import (
    LARGEST_MEDIUM,
    VolumeDirectory,
    VolumeFile,
    create_raw,
    grow_file,
    remove_raw,
)
from refusal import refused

MIB = 1 << 20
OWNER = (64055, 64056)


@pytest.fixture
def volumes(tmp_path: Path) -> VolumeDirectory:
    return VolumeDirectory(str(tmp_path / "volumes" / "domain"), OWNER)


def describe(path: str) -> dict[str, Any]:
    done = subprocess.run(["qemu-img", "info", "--output=json", path], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def owner_and_mode(path: str) -> tuple[int, int, str]:
    found = os.stat(path)
    return found.st_uid, found.st_gid, stat.filemode(found.st_mode)


def test_nothing_exists_yet(volumes: VolumeDirectory) -> None:
    assert (volumes.names(), volumes.overlay("a"), volumes.medium("a"), volumes.remove(["a"])) == (
        [],
        None,
        None,
        False,
    )
    assert not os.path.exists(volumes.path)


def test_an_empty_disk(volumes: VolumeDirectory) -> None:
    volumes.create_empty("a.qcow2", 5 * MIB)
    path = volumes.path_of("a.qcow2")
    found = describe(path)
    assert (found["format"], found["virtual-size"], "backing-filename" in found) == ("qcow2", 5 * MIB, False)
    assert found["actual-size"] < MIB
    assert owner_and_mode(path) == (*OWNER, "-rw-------")
    assert owner_and_mode(volumes.path) == (0, 0, "drwx--x--x")
    assert volumes.names() == ["a.qcow2"]


def test_a_thick_disk_has_its_storage(volumes: VolumeDirectory) -> None:
    volumes.create_empty("a.qcow2", 8 * MIB, thick=True)
    assert describe(volumes.path_of("a.qcow2"))["actual-size"] >= 8 * MIB


def test_a_thick_disk_without_room(volumes: VolumeDirectory) -> None:
    with pytest.raises(NoSpace):
        volumes.create_empty("a.qcow2", 1 << 50, thick=True)
    assert volumes.names() == []


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_an_overlay(volumes: VolumeDirectory, tmp_path: Path, format: str) -> None:
    base = str(tmp_path / "base")
    subprocess.run(["qemu-img", "create", "-q", "-f", format, base, "3M"], check=True)
    volumes.create_overlay("a.qcow2", base, format, 4 * MIB)
    path = volumes.path_of("a.qcow2")
    found = describe(path)
    assert (found["virtual-size"], found["backing-filename"]) == (4 * MIB, base)
    assert found["backing-filename-format"] == format
    seen = volumes.overlay("a.qcow2")
    assert seen == VolumeFile(4 * MIB, os.stat(path).st_blocks * 512, base, has_data=False)
    subprocess.run(["qemu-io", "-c", "write 0 64k", path], check=True, stdout=subprocess.DEVNULL)
    seen = volumes.overlay("a.qcow2")
    assert seen is not None and seen.has_data
    volumes.create_overlay("a.qcow2", base, format, 4 * MIB)
    seen = volumes.overlay("a.qcow2")
    assert seen is not None and not seen.has_data


def test_a_medium(volumes: VolumeDirectory) -> None:
    volumes.write("a.iso", b"first")
    with open(volumes.path_of("a.iso"), "rb") as used:  # a running domain
        volumes.write("a.iso", b"second")
        assert used.read() == b"first"
    assert volumes.medium("a.iso") == Path(volumes.path_of("a.iso")).read_bytes() == b"second"
    assert owner_and_mode(volumes.path_of("a.iso")) == (*OWNER, "-rw-------")
    os.truncate(volumes.path_of("a.iso"), LARGEST_MEDIUM + 1)
    assert volumes.medium("a.iso") is None


def test_a_link_in_the_directory_is_not_followed(volumes: VolumeDirectory, tmp_path: Path) -> None:
    volumes.create_empty("b.qcow2", MIB)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    os.symlink(secret, volumes.path_of("a.iso"))
    with pytest.raises(FileAccessFailed):
        volumes.medium("a.iso")
    volumes.write("a.iso", b"new")
    assert secret.read_text() == "secret"


def test_a_file_that_is_no_qcow2_image(volumes: VolumeDirectory) -> None:
    volumes.write("a.qcow2", b"text" * 1000)
    with pytest.raises(Conflict):
        volumes.overlay("a.qcow2")


def test_removal(volumes: VolumeDirectory) -> None:
    for name in ("a", "b", "c"):
        volumes.write(name, b"x")
    volumes.remove_if_empty()
    assert volumes.remove(["a", "b", "missing"])
    assert volumes.names() == ["c"]
    assert volumes.remove(["c"])
    volumes.remove_if_empty()
    assert not os.path.exists(volumes.path)


def test_a_raw_disk_of_the_host(tmp_path: Path) -> None:
    path = str(tmp_path / "disk.img")
    create_raw(path, 3 * MIB, OWNER)
    found = os.stat(path)
    assert (found.st_size, found.st_blocks, *owner_and_mode(path)) == (3 * MIB, 0, *OWNER, "-rw-rw----")
    assert os.listdir(tmp_path) == ["disk.img"]


@pytest.mark.parametrize(("format", "sparse"), [("raw", True), ("raw", False), ("qcow2", True), ("qcow2", False)])
def test_growth(tmp_path: Path, format: str, sparse: bool) -> None:
    path = str(tmp_path / "disk")
    subprocess.run(["qemu-img", "create", "-q", "-f", format, path, "1M"], check=True)
    grow_file(path, format, 9 * MIB, sparse=sparse)
    found = describe(path)
    assert found["virtual-size"] == 9 * MIB
    assert (found["actual-size"] >= 8 * MIB) == (not sparse)


def test_a_raw_disk_replaces_no_file_and_is_removed_only_where_it_was_made(tmp_path: Path) -> None:
    """The directory of a host disk can be that of another user, who replaces it by a link."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    ours.mkdir()
    for directory in (theirs, ours):
        (directory / "disk").write_text("old")
    with refused(StaleState):
        create_raw(str(theirs / "disk"), MIB, OWNER)
    assert (theirs / "disk").read_text() == "old" and os.listdir(theirs) == ["disk"]
    (theirs / "disk").unlink()
    create_raw(str(theirs / "disk"), MIB, OWNER)
    theirs.rename(tmp_path / "moved")
    theirs.symlink_to(ours)
    os.lchown(theirs, *OWNER)
    with refused(PathNotAllowed):
        remove_raw(str(theirs / "disk"))
    assert (ours / "disk").read_text() == "old"
    remove_raw(str(tmp_path / "moved" / "disk"))
    assert os.listdir(tmp_path / "moved") == []


def test_qemu_passes_the_directory_whatever_the_umask_is(volumes: VolumeDirectory) -> None:
    old = os.umask(0o077)
    try:
        volumes.write("a.iso", b"x")
    finally:
        os.umask(old)
    around = os.path.dirname(volumes.path)
    assert [owner_and_mode(path) for path in (around, volumes.path)] == [(0, 0, "drwx--x--x")] * 2
    assert owner_and_mode(volumes.path_of("a.iso")) == (*OWNER, "-rw-------")


@pytest.mark.parametrize(("owner", "mode"), [(1000, 0o700), (0, 0o777)])
def test_the_directory_of_another_user_gets_no_secret(volumes: VolumeDirectory, owner: int, mode: int) -> None:
    os.makedirs(volumes.path)
    os.chmod(volumes.path, mode)
    os.chown(volumes.path, owner, -1)
    with refused(PathNotAllowed, option="directory"):
        volumes.write("a.iso", b"secret")
    assert os.listdir(volumes.path) == []
