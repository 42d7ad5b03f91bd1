# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots of VM disks in each layout. qemu-img and qemu-io write and read the data, by the names that QEMU uses."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import Conflict, NotFound
from ansible_collections.granary.vmstore.plugins.module_utils._image.image_files import files_in
from ansible_collections.granary.vmstore.plugins.module_utils._image.backing_names import rename_layers
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_disk import DiskRecord
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_disk_data import describe_disk, grow_disk
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_disk_new import clone_image, link_image
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_disk_snapshots import (
    create_snapshot,
    delete_snapshot,
    make_layer,
    prepare_overlay,
    revert_snapshot,
    switch_to,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused

NAME = "6573ae15e97409f235cae95705b4d830"
MEBIBYTE = 2**20


def qemu(*argv: object) -> str:
    return subprocess.run([*map(str, argv)], check=True, stdout=subprocess.PIPE, text=True).stdout


def write(disk: str, image_format: str, value: int) -> None:
    """Write like a guest: to all of the disk's first MiB, and to a part of the second one."""
    commands = [f"write -P {value} 0 1M", f"write -P {value} {MEBIBYTE + value * 4096} 4k"]
    qemu("qemu-io", "-f", image_format, *(word for each in commands for word in ("-c", each)), disk)


def content(path: str, image_format: str) -> bytes:
    """Return the guest's view of a disk or a snapshot. The files of a qcow2 disk have no errors and no leaks."""
    with tempfile.TemporaryDirectory() as directory:
        if image_format == "qcow2":
            qemu("qemu-img", "check", "-q", "-f", "qcow2", path)
        qemu("qemu-img", "convert", "-f", image_format, "-O", "raw", path, f"{directory}/raw")
        return Path(directory, "raw").read_bytes()


Layout = Callable[[str], DiskRecord]


def image_of(root: str, image_format: str) -> str:
    image = f"{root}/1/{NAME}"
    os.makedirs(f"{root}/1")
    qemu("qemu-img", "create", "-q", "-f", image_format, image, "2M")
    qemu("qemu-io", "-f", image_format, "-c", "write -P 200 0 2M", image)
    return image


def raw(root: str) -> DiskRecord:
    record = DiskRecord(f"{root}/0/5/disk.1", "raw", image_of(root, "raw"))
    clone_image(record)
    return record


def raw_link(root: str) -> DiskRecord:
    record = DiskRecord(f"{root}/0/5/disk.1", "raw", image_of(root, "raw"))
    link_image(record)
    return record


def plain(root: str) -> DiskRecord:
    record = DiskRecord(f"{root}/0/5/disk.1", "qcow2", image_of(root, "qcow2"))
    clone_image(record)
    return record


def layered(root: str) -> DiskRecord:
    record = DiskRecord(f"{root}/0/5/disk.1", "qcow2", image_of(root, "qcow2"))
    clone_image(record, layered=True)
    return record


def linked(root: str) -> DiskRecord:
    record = DiskRecord(f"{root}/0/5/disk.1", "qcow2", image_of(root, "qcow2"))
    clone_image(record, linked=True)
    return record


def shared(root: str) -> DiskRecord:
    record = DiskRecord(f"{root}/0/5/disk.1", "qcow2", image_of(root, "qcow2"))
    link_image(record)
    return record


LAYOUTS = [raw, raw_link, plain, layered, linked, shared]


def snapshot_path(record: DiskRecord, number: int) -> str:
    base = record.image if os.path.realpath(record.path).startswith(f"{record.image}") else record.path
    return f"{base}.snap/{number}"


class Model:
    """The expected content of a disk and of its snapshots."""

    def __init__(self, record: DiskRecord, whole: bool) -> None:
        self.record = record
        self.whole = whole
        self.next = 0
        self.snapshots: dict[int, bytes] = {}
        self.values = itertools.count(1)
        self.now = content(record.path, record.format)

    def write(self) -> None:
        value = next(self.values)
        write(self.record.path, self.record.format, value)
        data = bytearray(self.now)
        data[:MEBIBYTE] = bytes([value]) * MEBIBYTE
        start = MEBIBYTE + value * 4096
        data[start : start + 4096] = bytes([value]) * 4096
        self.now = bytes(data)

    def create(self) -> None:
        assert create_snapshot(self.record, self.next, whole=self.whole)
        assert not create_snapshot(self.record, self.next, whole=self.whole)
        self.snapshots[self.next] = self.now
        self.next += 1

    def pick(self, choice: int) -> int | None:
        return sorted(self.snapshots)[choice % len(self.snapshots)] if self.snapshots else None

    def delete(self, choice: int) -> None:
        if (number := self.pick(choice)) is not None:
            assert delete_snapshot(self.record, number)
            assert not delete_snapshot(self.record, number)
            del self.snapshots[number]

    def revert(self, choice: int) -> None:
        if (number := self.pick(choice)) is not None:
            for _time in range(2):
                revert_snapshot(self.record, number)
            self.now = self.snapshots[number]

    def grow(self) -> None:
        size = len(self.now) + MEBIBYTE
        assert grow_disk(self.record, size)
        assert not grow_disk(self.record, size)
        self.now += bytes(MEBIBYTE)

    def check(self) -> None:
        facts = describe_disk(self.record)
        assert list(facts.snapshots) == sorted(self.snapshots)
        assert facts.size == len(self.now)
        assert content(self.record.path, self.record.format) == self.now
        for number, data in self.snapshots.items():
            assert content(snapshot_path(self.record, number), self.record.format) == data
        assert not [name for name in os.listdir(os.path.dirname(self.record.path)) if name.endswith(".part")]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["create", "write", "write", "grow"])),
        st.tuples(st.sampled_from(["delete", "revert"]), st.integers(0, 3)),
    ),
    min_size=4,
    max_size=9,
)


@pytest.mark.parametrize("whole", [False, True], ids=["layers", "copies"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_any_sequence_of_actions(layout: Layout, whole: bool) -> None:
    if whole and layout not in (raw, plain):
        pytest.skip("the disk has layers already")

    @settings(max_examples=4)
    @given(STEPS)
    def run(steps: list[tuple]) -> None:
        with tempfile.TemporaryDirectory() as root:
            model = Model(layout(root), whole)
            for name, *arguments in [("write",), ("create",), ("write",), *steps]:
                getattr(model, name)(*arguments)
            model.check()

    run()
