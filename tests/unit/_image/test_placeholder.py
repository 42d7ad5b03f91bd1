# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Placeholders of a live migration. Their descriptions come from another host."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    FileAccessFailed,
    InvalidInput,
    NoSpace,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.placeholder import (
    Placeholder,
    describe_active,
    is_empty,
    make_placeholder,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_directory import parse_disk_path
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_disk import DiskRecord, opened_disk
from refusal import refused

SIZE = (1 << 20) + 512


@pytest.fixture
def vm(tmp_path: Path) -> Path:
    """Return the directory of a VM with a raw disk and a qcow2 disk of two layers."""
    directory = tmp_path / "0" / "7"
    layers = directory / "disk.1.snap"
    layers.mkdir(parents=True)
    (directory / "disk.0").touch()
    os.truncate(directory / "disk.0", SIZE)
    qemu("qemu-img", "create", "-q", "-f", "qcow2", layers / "0", str(SIZE))
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "disk.1.snap/0", "-F", "qcow2", layers / "3", str(SIZE))
    (layers / "disk.1.snap").symlink_to(".")
    (directory / "disk.1").symlink_to("disk.1.snap/3")
    return directory


def qemu(*argv: object) -> str:
    return subprocess.run(list(map(str, argv)), check=True, capture_output=True, text=True).stdout


def make(vm: Path, placeholder: Placeholder) -> None:
    directory = os.open(vm, os.O_PATH)
    try:
        make_placeholder(directory, parse_disk_path(str(vm), directory=True), placeholder, None)
    finally:
        os.close(directory)


@pytest.mark.parametrize(("name", "image_format"), [("disk.0", "raw"), ("disk.1", "qcow2")])
def test_a_placeholder_is_like_its_disk(vm: Path, name: str, image_format: str) -> None:
    with opened_disk(DiskRecord(f"{vm}/{name}", image_format)) as disk:
        placeholder = describe_active(disk)
        assert is_empty(disk)
    file = vm / placeholder.file
    assert file == (vm / name).resolve()
    described = ("qemu-img", "info", "--output=json", "-f", image_format, vm / name)
    before = json.loads(qemu(*described))
    qemu("qemu-io", "-f", image_format, "-c", "write -P 5 1M 512", vm / name)
    with opened_disk(DiskRecord(f"{vm}/{name}", image_format)) as disk:
        assert not is_empty(disk)
    make(vm, placeholder)
    after = json.loads(qemu(*described))
    assert after["virtual-size"] == before["virtual-size"] == SIZE
    assert after.get("full-backing-filename") == before.get("full-backing-filename")
    assert qemu("qemu-io", "-f", image_format, "-c", "read -P 0 0 1049088", vm / name).startswith("read 1049088/")


def test_zeros_are_no_data(vm: Path) -> None:
    (vm / "disk.0").write_bytes(bytes(3 << 20))
    with opened_disk(DiskRecord(f"{vm}/disk.0", "raw")) as disk:
        assert is_empty(disk)


def test_a_link_to_an_image_has_no_placeholder(vm: Path, tmp_path: Path) -> None:
    image = tmp_path / ("a" * 32)
    image.touch()
    (vm / "disk.2").symlink_to(image)
    with opened_disk(DiskRecord(f"{vm}/disk.2", "raw", str(image))) as disk, refused(Conflict, names=[image]):
        describe_active(disk)


@pytest.mark.parametrize(
    "placeholder",
    [
        Placeholder("../8/disk.0", "raw", SIZE),
        Placeholder("/etc/passwd", "raw", SIZE),
        Placeholder("disk.0/1", "raw", SIZE),
        Placeholder("disk.1.snap/../disk.0", "qcow2", SIZE),
        Placeholder("disk.1.snap/disk.1.snap", "qcow2", SIZE),
        Placeholder("disk.1.snap/03", "qcow2", SIZE),
        Placeholder("disk.1.snap/1/2", "qcow2", SIZE),
        Placeholder(".disks.lock", "raw", SIZE),
        Placeholder("vm.xml", "raw", SIZE),
        Placeholder("", "raw", SIZE),
        Placeholder("disk.0\0", "raw", SIZE),
        Placeholder("disk.0", "vmdk", SIZE),
        Placeholder("disk.0", "raw", -1),
        Placeholder("disk.0", "raw", 1 << 70),
        Placeholder("disk.0", "qcow2", SIZE, "/etc/shadow"),
        Placeholder("disk.1.snap/3", "qcow2", SIZE, "/etc/shadow"),
        Placeholder("disk.1.snap/3", "qcow2", SIZE, "json:{}"),
        Placeholder("disk.1.snap/3", "qcow2", SIZE, "disk.0.snap/0"),
        Placeholder("disk.1.snap/3", "qcow2", SIZE, "../8/disk.1.snap/0"),
    ],
)
def test_other_files_are_refused(vm: Path, placeholder: Placeholder) -> None:
    before = sorted(vm.rglob("*"))
    with refused(InvalidInput):
        make(vm, placeholder)
    assert sorted(vm.rglob("*")) == before


def test_a_link_in_the_place_of_the_layers_is_not_followed(vm: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (vm / "disk.2.snap").symlink_to(outside)
    with refused(FileAccessFailed):
        make(vm, Placeholder("disk.2.snap/0", "qcow2", SIZE))
    assert not list(outside.iterdir())


def test_a_full_file_system(vm: Path, tmpfs: Path) -> None:
    full = tmpfs / "0" / "7"
    full.mkdir(parents=True)
    room = os.statvfs(tmpfs)
    with open(tmpfs / "filler", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize)
    with refused(NoSpace):
        make(full, Placeholder("disk.0", "qcow2", SIZE))
    assert not list(full.iterdir())
