# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The actions on VM disks when their file system fails: each write fails once, the process is killed before each write,
and the power fails before each write.

Afterwards the disk has the old data or the new data, and its snapshots have theirs. A repeated action leads to the new
state, and leaves no other files.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import NotFound, VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_disk import DiskRecord
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_disk_data import describe_disk, grow_disk
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_disk_new import (
    clone_image,
    link_image,
    make_disk,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_disk_snapshots import (
    create_snapshot,
    delete_snapshot,
    revert_snapshot,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_lock import LOCK_FILE
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_removal import remove
from simulated_datastore.testing import CrashWalker, FaultWalker, KillWalker

NAME = "6573ae15e97409f235cae95705b4d830"
SIZE = 192 << 10
PART = re.compile(r"\.[0-9a-f]{32}\.part|\.5\.removed")

#: Changes of names, and data that becomes durable. Writes of qemu-img to a part are left out, because a part is a part
#: after each of them.
CHANGES = ("names", "chown", "fsync", "fsyncdir", "truncate")

#: The first byte of the content of the disk (``None`` if there is no disk) and of each snapshot.
State = dict[str, object]


@dataclass(frozen=True)
class Action:
    #: Name of the template that is the initial state.
    template: str
    work: Callable[[DiskRecord], object]
    old: State
    new: State
    image_format: str = "qcow2"
    #: Further states that an interrupted action may leave.
    between: tuple[State, ...] = ()


def qemu_img(*argv: object) -> None:
    subprocess.run(["qemu-img", *map(str, argv)], check=True, stdout=subprocess.DEVNULL)


def fill(path: Path, image_format: str, value: int, *backing: object) -> None:
    """Create an image whose first 64 KiB have a value. Others are those of the backing file."""
    small = ["-o", "cluster_size=4k"] if image_format == "qcow2" else []
    qemu_img("create", "-q", "-u", "-f", image_format, *small, *backing, path, SIZE)
    subprocess.run(["qemu-io", "-f", image_format, "-c", f"write -q -P {value} 0 64k", path], check=True)


@functools.cache
def templates() -> tempfile.TemporaryDirectory[str]:
    """Return a directory with one directory for each template: an image datastore 1 and a system datastore 0."""
    directory = tempfile.TemporaryDirectory()
    for name in ("raw", "qcow2", "raw copies", "layers"):
        image_format = "raw" if name.startswith("raw") else "qcow2"
        root = Path(directory.name, name)
        vm = root / "0" / "5"
        vm.mkdir(parents=True)
        (root / "1").mkdir()
        fill(root / "1" / NAME, image_format, 9)
        if name == "raw copies":
            (vm / "disk.0.snap").mkdir()
            for number, path in enumerate((vm / "disk.0.snap" / "0", vm / "disk.0.snap" / "1", vm / "disk.0")):
                fill(path, "raw", number + 1)
        elif name == "layers":
            layers = vm / "disk.0.snap"
            layers.mkdir()
            (layers / "disk.0.snap").symlink_to(".")
            for number in range(3):
                backing = ["-F", "qcow2", "-b", f"disk.0.snap/{number - 1}"] if number else []
                fill(layers / str(number), "qcow2", number + 1, *backing)
            (vm / "disk.0").symlink_to("disk.0.snap/2")
        else:
            fill(vm / "disk.0", image_format, 1)
    for image_format in ("raw", "qcow2"):
        empty = Path(directory.name, f"no {image_format}")
        shutil.copytree(Path(directory.name, image_format), empty)
        shutil.rmtree(empty / "0" / "5")
    return directory


THREE: State = {"disk": 3, "0": 1, "1": 2}

ACTIONS = {
    "clone": Action("no qcow2", clone_image, {"disk": None}, {"disk": 9}),
    "clone, linked": Action("no qcow2", lambda disk: clone_image(disk, linked=True), {"disk": None}, {"disk": 9}),
    "clone over a file": Action("raw", lambda disk: clone_image(disk, size=SIZE * 2), {"disk": 1}, {"disk": 9}, "raw"),
    "clone over layers": Action(
        "layers", lambda disk: clone_image(disk, layered=True), THREE, {"disk": 9}, between=({"disk": None},)
    ),
    "ln": Action("no qcow2", link_image, {"disk": None}, {"disk": 9}),
    "mkimage": Action(
        "no raw", lambda disk: make_disk(disk.path, format="raw", size_mb=1), {"disk": None}, {"disk": 0}, "raw"
    ),
    "snap_create, raw": Action("raw copies", lambda disk: create_snapshot(disk, 2), THREE, {**THREE, "2": 3}, "raw"),
    "snap_create, file": Action("qcow2", lambda disk: create_snapshot(disk, 0), {"disk": 1}, {"disk": 1, "0": 1}),
    "snap_create, layers": Action("layers", lambda disk: create_snapshot(disk, 2), THREE, {**THREE, "2": 3}),
    "snap_delete": Action("layers", lambda disk: delete_snapshot(disk, 1), THREE, {"disk": 3, "0": 1}),
    "snap_revert, raw": Action("raw copies", lambda disk: revert_snapshot(disk, 0), THREE, {**THREE, "disk": 1}, "raw"),
    "snap_revert, layers": Action("layers", lambda disk: revert_snapshot(disk, 0), THREE, {**THREE, "disk": 1}),
    "resize": Action("layers", lambda disk: grow_disk(disk, SIZE * 2), THREE, THREE),
    "delete": Action("layers", lambda disk: remove(disk.path), THREE, {"disk": None}),
    "delete the directory": Action("layers", lambda disk: remove(os.path.dirname(disk.path)), THREE, {"disk": None}),
}


class Walk:
    """An action, and the numbers of the states that it has left."""

    def __init__(self, action: Action) -> None:
        self.action = action
        self.ends: dict[str, int] = {}
        self.known: dict[tuple, State] = {}

    def prepare(self, root: Path) -> None:
        shutil.copytree(Path(templates().name, self.action.template), root, symlinks=True, dirs_exist_ok=True)

    def record(self, root: Path) -> DiskRecord:
        return DiskRecord(f"{root}/0/5/disk.0", self.action.image_format, f"{root}/1/{NAME}")

    def work(self, root: Path) -> None:
        self.action.work(self.record(root))

    def check(self, root: Path) -> str:
        """Return the name of the state: "old", "between" or "new"."""
        found = self.state(root)
        for name, states in (
            ("new", (self.action.new,)),
            ("old", (self.action.old,)),
            ("between", self.action.between),
        ):
            if found in states:
                self.ends[name] = self.ends.get(name, 0) + 1
                return name
        raise AssertionError(f"a state that is neither old nor new: {found}")

    def state(self, root: Path) -> State:
        """Return the state of the disk. qemu-img looks only once at the same files."""
        key = tuple(sorted(files(root)))
        if key not in self.known:
            self.known[key] = self._look(root)
        return self.known[key]

    def _look(self, root: Path) -> State:
        assert first_byte(f"{root}/1/{NAME}", self.action.image_format) == 9
        record = self.record(root)
        try:
            snapshots = describe_disk(record).snapshots
        except NotFound:
            assert not os.path.lexists(record.path)
            return {"disk": None}
        own = os.path.realpath(record.path).startswith(f"{root}/0")
        directory = f"{record.path if own else record.image}.snap"
        return {
            "disk": first_byte(record.path, record.format),
            **{str(number): first_byte(f"{directory}/{number}", record.format) for number in snapshots},
        }

    def again(self, root: Path) -> None:
        self.work(root)
        assert self.state(root) == self.action.new
        names = {name for _place, directories, files in os.walk(root) for name in (*directories, *files)}
        expected = r"0|1|2|3|5|disk\.0|disk\.0\.snap|[0-9a-f]{32}|[0-9a-f]{32}\.snap"
        assert [name for name in names - {LOCK_FILE} if not re.fullmatch(expected, name)] == []


def files(root: Path) -> Iterator[tuple[str, str]]:
    """Yield each file and link with a digest of its content, without temporary files."""
    for place, directories, names in os.walk(root):
        for name in (*directories, *names):
            path = Path(place, name)
            if name == LOCK_FILE or PART.fullmatch(name):
                continue
            if path.is_symlink():
                yield str(path), os.readlink(path)
            else:
                yield str(path), hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else ""


def first_byte(path: str, image_format: str) -> int:
    """Return the first byte of a disk whose first 64 KiB are the same. qemu-img finds no errors in the file."""
    if image_format == "qcow2":
        qemu_img("check", "-q", "-f", "qcow2", path)
    with tempfile.NamedTemporaryFile() as target:
        qemu_img("convert", "-f", image_format, "-O", "raw", path, target.name)
        data = Path(target.name).read_bytes()[: 64 << 10]
    assert data == data[:1] * len(data), f"{path} has parts of several states"
    return data[0]


@pytest.fixture(params=ACTIONS)
def walk(request: pytest.FixtureRequest) -> Walk:
    return Walk(ACTIONS[request.param])


@pytest.fixture
def report(walk: Walk, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def print_counts(what: str) -> None:
        with capsys.disabled():
            print(f"\n{request.node.callspec.id}: {what}; {walk.ends}")

    return print_counts


def test_each_change_fails_once(walk: Walk, walk_faults: FaultWalker, report: Callable[[str], None]) -> None:
    def check(root: Path, raised: BaseException | None) -> None:
        end = walk.check(root)
        assert raised is None or isinstance(raised, VmstoreError), repr(raised)
        assert raised is not None or end == "new"
        walk.again(root)

    injected = walk_faults(walk.work, check, prepare=walk.prepare, errnos=(errno.ENOSPC,), ops=CHANGES)
    assert injected > 2
    report(f"{injected} faults")


def test_a_kill_at_each_change(walk: Walk, walk_kills: KillWalker, report: Callable[[str], None]) -> None:
    def check(root: Path) -> None:
        walk.check(root)
        walk.again(root)

    kills = walk_kills(walk.work, check, prepare=walk.prepare, ops=CHANGES)
    assert kills > 2
    report(f"{kills} kills")


@pytest.mark.parametrize("walk", ["clone over a file", "snap_create, file"], indirect=True)
def test_a_crash_at_each_step(walk: Walk, walk_crashes: CrashWalker, report: Callable[[str], None]) -> None:
    def check(root: Path) -> None:
        walk.check(root)
        walk.again(root)

    crashes = walk_crashes(walk.work, check, prepare=walk.prepare, names="strict", limit=2)
    assert crashes > 10
    report(f"{crashes} crashes")
