# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots of VM disks in each layout. qemu-img and qemu-io write and read the data, by the names that QEMU uses."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import Conflict, InvalidInput, NotFound
from ansible_collections.granary.vmstore.plugins.module_utils._image.backing_names import rename_layers
from ansible_collections.granary.vmstore.plugins.module_utils._image.image_files import files_in
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_disk import DiskRecord
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_disk_data import describe_disk, grow_disk
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_disk_new import clone_image, link_image
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_disk_snapshots import (
    create_snapshot,
    delete_snapshot,
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


#: Layouts, and whether snapshots of qcow2 files are whole copies.
WAYS = [*((layout, False) for layout in LAYOUTS), (plain, True)]


@pytest.mark.parametrize(("layout", "whole"), WAYS, ids=lambda value: getattr(value, "__name__", value))
def test_any_sequence_of_actions(layout: Layout, whole: bool) -> None:
    @settings(max_examples=4)
    @given(STEPS)
    def run(steps: list[tuple]) -> None:
        with tempfile.TemporaryDirectory() as root:
            model = Model(layout(root), whole)
            for name, *arguments in [("write",), ("create",), ("write",), *steps]:
                getattr(model, name)(*arguments)
            model.check()

    run()


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_names_are_those_of_other_drivers(tmp_path: Path, layout: Layout) -> None:
    record = layout(str(tmp_path))
    before = os.readlink(record.path) if os.path.islink(record.path) else None
    create_snapshot(record, 0)
    expected = {
        raw: (None, {"0"}),
        raw_link: (before, {"0"}),
        plain: ("disk.1.snap/1", {"0", "1", "disk.1.snap"}),
        layered: ("disk.1.snap/1", {"0", "1", "disk.1.snap"}),
        linked: ("disk.1.snap/1", {"0", "1", "disk.1.snap"}),
        shared: (f"{record.image}.snap/1", {"0", "1", f"{NAME}.snap"}),
    }[layout]
    now = os.readlink(record.path) if os.path.islink(record.path) else None
    assert (now, set(os.listdir(os.path.dirname(snapshot_path(record, 0))))) == expected


def test_a_revert_of_layers_stores_nothing(tmp_path: Path) -> None:
    record = plain(str(tmp_path))
    create_snapshot(record, 0)
    write(record.path, "qcow2", 7)
    revert_snapshot(record, 0)
    assert os.stat(record.path).st_blocks * 512 < 300_000


@pytest.mark.parametrize("layout", [raw, layered], ids=["raw", "layered"])
def test_no_such_snapshot(tmp_path: Path, layout: Layout) -> None:
    record = layout(str(tmp_path))
    create_snapshot(record, 0)
    for number in (1, 7, -1):
        with refused(NotFound, names=[record.path, number]):
            revert_snapshot(record, number)
        assert not delete_snapshot(record, number)
    assert describe_disk(record).snapshots == (0,)
    with refused(NotFound, says=f"The disk {record.path} has no snapshot 7."):
        revert_snapshot(record, 7)


def test_the_next_snapshot_has_the_number_of_the_last_layer(tmp_path: Path) -> None:
    record = layered(str(tmp_path))
    with refused(Conflict, says=f"The disk {record.path} can't have the snapshot 3 now: its next snapshot is 0."):
        create_snapshot(record, 3)
    assert describe_disk(record).next_snapshot == 0


def test_a_disk_without_layers_takes_any_number(tmp_path: Path) -> None:
    record = plain(str(tmp_path))
    assert describe_disk(record).next_snapshot is None
    create_snapshot(record, 3)
    assert os.readlink(record.path) == "disk.1.snap/4"


@pytest.mark.parametrize("layout", [raw, layered, shared], ids=lambda layout: layout.__name__)
def test_a_disk_in_use_stays_as_it_is(tmp_path: Path, layout: Layout, opened_by_qemu: Callable[..., None]) -> None:
    record = layout(str(tmp_path))
    create_snapshot(record, 0)
    opened_by_qemu(Path(record.path), "-f", record.format)
    with refused(Conflict, names=[os.path.realpath(record.path)]):
        create_snapshot(record, 1)
    with refused(Conflict, names=[os.path.realpath(record.path)]):
        revert_snapshot(record, 0)
    if layout is raw:
        assert create_snapshot(record, 1, is_paused=True)
        assert delete_snapshot(record, 0)
    else:
        with refused(Conflict, names=[os.path.realpath(snapshot_path(record, 0))]):
            delete_snapshot(record, 0)


@pytest.mark.parametrize("number", [-1, 10**9 - 1, 10**20])
@pytest.mark.parametrize("action", [create_snapshot, prepare_overlay])
def test_numbers_that_no_file_has(tmp_path: Path, action: Callable[..., object], number: int) -> None:
    record = plain(str(tmp_path))
    with refused(InvalidInput, option="snapshot", value=number):
        action(record, number)
    assert os.path.isfile(record.path) and not os.path.islink(record.path)


def test_a_disk_has_no_more_files_than_libvirt_accepts(tmp_path: Path) -> None:
    record = layered(str(tmp_path))
    layers = Path(f"{record.path}.snap")
    head = (layers / "0").read_bytes()
    create_snapshot(record, 0)
    for number in range(1, 200):  # an overlay costs qemu-img 20 ms, and a copy nothing
        data = bytearray((layers / "1").read_bytes())
        name = f"disk.1.snap/{number - 1}".encode()
        offset = int.from_bytes(data[8:16], "big")
        data[16:20] = len(name).to_bytes(4, "big")
        data[offset : offset + len(name)] = name
        (layers / str(number)).write_bytes(data)
    os.unlink(record.path)
    os.symlink("disk.1.snap/199", record.path)
    says = f"The disk {record.path} can't have more snapshots: its data is in 200 files already."
    with refused(Conflict, says=says):
        create_snapshot(record, 199)
    assert len(describe_disk(record).chain) == 200
    assert (layers / "0").read_bytes() == head


def test_actions_at_the_same_time(tmp_path: Path) -> None:
    """Actions on one disk wait for each other. Those on other disks of the VM remove no file of theirs."""
    first = layered(str(tmp_path))
    others = [DiskRecord(f"{tmp_path}/0/5/disk.{number}", "qcow2", first.image) for number in range(2, 6)]
    work = [functools.partial(clone_image, other, linked=True) for other in others]
    work += [functools.partial(create_snapshot, first, 0) for _number in range(3)]
    with ThreadPoolExecutor(len(work)) as pool:
        results = [future.result(60) for future in [pool.submit(one) for one in work]]
    assert sorted(filter(None, results)) == [True]
    for record in (first, *others):
        content(record.path, "qcow2")
    assert describe_disk(first).snapshots == (0,)
    assert not [name for name in os.listdir(f"{tmp_path}/0/5") if name.endswith(".part")]


# Live snapshots


@pytest.mark.parametrize("layout", [plain, linked, shared], ids=lambda layout: layout.__name__)
def test_a_live_snapshot(tmp_path: Path, layout: Layout, opened_by_qemu: Callable[..., None]) -> None:
    record = layout(str(tmp_path))
    before = content(record.path, "qcow2")
    opened_by_qemu(Path(record.path), "-r", "-f", "qcow2")
    overlay = prepare_overlay(record, 0)
    assert prepare_overlay(record, 0) == overlay
    assert describe_disk(record).snapshots == ()
    write(overlay, "qcow2", 9)  # QEMU has switched
    assert switch_to(record, overlay)
    assert not switch_to(record, overlay)
    assert os.path.realpath(record.path) == overlay
    assert content(snapshot_path(record, 0), "qcow2") == before
    assert content(record.path, "qcow2")[0] == 9
    assert describe_disk(record).snapshots == (0,)


def test_an_interrupted_live_snapshot_is_completed(tmp_path: Path) -> None:
    """QEMU has written to the overlay, and the power failed before the link changed."""
    record = layered(str(tmp_path))
    overlay = prepare_overlay(record, 0)
    write(overlay, "qcow2", 9)
    for action in (
        lambda: grow_disk(record, 9 * MEBIBYTE),
        lambda: delete_snapshot(DiskRecord(record.path, "qcow2"), 0) or create_snapshot(record, 1),
    ):
        with refused(Conflict, names=[record.path]):
            action()
    assert create_snapshot(record, 0)
    assert content(record.path, "qcow2")[0] == 9


def test_an_unused_overlay_of_another_size_is_replaced(tmp_path: Path) -> None:
    record = layered(str(tmp_path))
    prepare_overlay(record, 0)
    grow_disk(record, 3 * MEBIBYTE)
    assert create_snapshot(record, 0)
    assert describe_disk(record).size == 3 * MEBIBYTE


def test_an_overlay_of_another_size_with_data_is_kept(tmp_path: Path) -> None:
    record = layered(str(tmp_path))
    overlay = prepare_overlay(record, 0)
    write(overlay, "qcow2", 9)
    qemu("qemu-img", "resize", "-q", "-f", "qcow2", overlay, "3M")
    says = f"{overlay} is not used: it has data, but is no overlay of {record.path}.snap/0."
    with refused(Conflict, says=says):
        create_snapshot(record, 0)


@pytest.mark.parametrize("name", ["/etc/passwd", "{path}.snap/x", "{path}", "{path}.snap/../disk.1.snap/0"])
def test_only_layers_are_switched_to(tmp_path: Path, name: str) -> None:
    record = layered(str(tmp_path))
    with refused(Conflict, says=f"* is no layer of the disk {record.path}."):
        switch_to(record, name.format(path=record.path))
    with pytest.raises(NotFound):
        switch_to(record, f"{record.path}.snap/7")


def test_raw_disks_and_copies_have_no_overlays(tmp_path: Path) -> None:
    record = raw(str(tmp_path))
    says = f"The disk {record.path} can't have layers, because its snapshots are whole copies."
    with refused(Conflict, says=says):
        prepare_overlay(record, 0)


# Names of layers


def test_layers_follow_a_new_name(tmp_path: Path) -> None:
    """A transfer to the image datastore renames the file and the directory only."""
    record = plain(str(tmp_path))
    contents = []
    for number in range(2):
        write(record.path, "qcow2", number)
        contents.append(content(record.path, "qcow2"))
        create_snapshot(record, number)
    image = f"{tmp_path}/1/{'b' * 32}"
    os.rename(f"{record.path}.snap", f"{image}.snap")
    os.symlink(f"{'b' * 32}.snap/2", image)
    descriptor = os.open(f"{tmp_path}/1", os.O_PATH)
    for _time in range(2):
        rename_layers(descriptor, image, "disk.1")
    os.close(descriptor)
    for number, data in enumerate(contents):
        assert content(f"{image}.snap/{number}", "qcow2") == data
    assert content(image, "qcow2") == contents[-1]
    assert sorted(os.listdir(f"{image}.snap")) == ["0", "1", "2", f"{'b' * 32}.snap"]
    # A disk that is a link to the image needs absolute names.
    other = DiskRecord(f"{tmp_path}/0/6/disk.0", "qcow2", image)
    link_image(other)
    assert os.readlink(other.path) == f"{image}.snap/2"
    assert content(other.path, "qcow2") == contents[-1]


def test_layers_of_strangers_keep_their_names(tmp_path: Path) -> None:
    record = plain(str(tmp_path))
    create_snapshot(record, 0)
    qemu("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "/etc/passwd", record.path)
    descriptor = os.open(os.path.dirname(record.path), os.O_PATH)
    with refused(Conflict, names=["/etc/passwd"]):
        rename_layers(descriptor, record.path, "disk.9")
    os.close(descriptor)


# Untrusted files

ELSEWHERE = ["{root}/secret", "../../secret", "disk.1.snap/1", "disk.1.snap-evil/0", "nbd://localhost/x", "{path}"]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_backing_files_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    """A QEMU that its guest has taken over can write any header."""
    record = plain(str(tmp_path))
    qemu("qemu-img", "create", "-q", "-f", "qcow2", f"{tmp_path}/secret", "2M")
    create_snapshot(record, 0)
    os.mkdir(f"{record.path}.snap-evil")
    shutil.copy(f"{tmp_path}/secret", f"{record.path}.snap-evil/0")
    backing = name.format(root=tmp_path, path=record.path)
    qemu("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing, record.path)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for action in (
        lambda: create_snapshot(record, 1),
        lambda: delete_snapshot(record, 0),
        lambda: describe_disk(record),
    ):
        with refused(Conflict, names=[record.path]):
            action()
    assert {
        path: path.read_bytes() for path in tmp_path.rglob("*") if path.name != ".disks.lock" and path.is_file()
    } == {path: data for path, data in files.items() if path.name != ".disks.lock"}


@pytest.mark.parametrize("target", ["/etc/passwd", "../../1/{image}", "disk.1.snap/../../6/disk.0", "disk.2.snap/0"])
def test_links_elsewhere_are_refused(tmp_path: Path, target: str) -> None:
    record = plain(str(tmp_path))
    os.unlink(record.path)
    os.symlink(target.format(image=NAME), record.path)
    with refused(Conflict, says=f"{record.path} is not used: it is a link to '*', which is not the image of the disk."):
        create_snapshot(record, 0)


def test_the_link_of_layers_to_themselves_leads_nowhere_else(tmp_path: Path) -> None:
    record = plain(str(tmp_path))
    os.mkdir(f"{record.path}.snap")
    os.symlink("/etc", f"{record.path}.snap/disk.1.snap")
    with refused(
        Conflict,
        says=f"{record.path}.snap is not used: {record.path}.snap/disk.1.snap is not a symbolic link to '.'.",
    ):
        create_snapshot(record, 0)


def test_a_raw_disk_with_a_qcow2_header_is_raw(tmp_path: Path) -> None:
    """A guest may write such a header, with a backing file on the host."""
    record = raw(str(tmp_path))
    header = f"{tmp_path}/header"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", header, "1M")
    with open(record.path, "r+b") as disk:
        disk.write(Path(header).read_bytes()[:MEBIBYTE])
    data = Path(record.path).read_bytes()
    create_snapshot(record, 0)
    Path(record.path).write_bytes(bytes(2 * MEBIBYTE))
    revert_snapshot(record, 0)
    assert Path(record.path).read_bytes() == data
    assert describe_disk(record).size == 2 * MEBIBYTE


@pytest.fixture
def owned(tmp_path: Path) -> Iterator[Path]:
    """Yield the directory of datastores that belong to a service user."""
    (tmp_path / "0").mkdir()
    os.chown(tmp_path / "0", 1234, 1235)
    yield tmp_path


def test_files_of_root_belong_to_the_service_user(owned: Path) -> None:
    record = layered(str(owned))
    create_snapshot(record, 0)
    found = list((owned / "0").rglob("*"))
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in found} == {(1234, 1235)}
    assert {oct(path.stat().st_mode) for path in found if path.is_dir()} == {"0o40755"}


def test_the_files_of_a_disk(tmp_path: Path) -> None:
    record = plain(str(tmp_path))
    create_snapshot(record, 0)
    descriptor = os.open(os.path.dirname(record.path), os.O_PATH)
    with files_in(descriptor, record.path) as files:
        assert files.chain_from(files.active()) == [1, 0]
    os.close(descriptor)
