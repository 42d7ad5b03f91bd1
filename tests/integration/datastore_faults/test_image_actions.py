# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images when their datastore fails: each operation that writes fails once, and a crash comes before each of them.

Afterwards there is the old state or the new one, and doing it again leads to the new one.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._image.copy import write_stream
from ansible_collections.granary.vmstore.plugins.module_utils._image.new_image import new_image
from ansible_collections.granary.vmstore.plugins.module_utils._image.snapshots import flatten_snapshot, remove_image, revert_snapshot
from simulated_datastore.testing import CrashWalker, FaultWalker

NAME = "05d147c524ae30d046db542ec2859136"
PART = r"\.[0-9a-f]{32}\.part"
ERRNOS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)

OLD, SNAPSHOT, OTHER = b"old image" * 1000, b"snapshot " * 1000, b"other one" * 1000
#: Data, a hole, data.
STREAM = b"x" * 100_000 + bytes(2_000_000) + b"y" * 10

#: The content of each file of a datastore, but for parts.
State = dict[str, bytes]


@dataclass(frozen=True)
class Action:
    prepare: Callable[[Path], object]
    work: Callable[[str], object]
    old: State
    new: State
    #: What a crash may leave besides: the steps of an action that changes several names. In each, all data that the new state has is whole.
    between: tuple[State, ...] = ()
    #: How many of the states are looked at that the disk may be in at the moment of a crash: without what was not synced, with all of it, with a part of it.
    disks: int = 8


def content(path: Path) -> bytes:
    """A raw file as it is. Of a qcow2 file, in which qemu-img finds no errors and no leaks, what a guest would read from its two clusters."""
    data = path.read_bytes()
    if not data.startswith(b"QFI\xfb"):
        return data
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], check=True)
    argv = ["qemu-io", "-r", "-f", "qcow2", "-c", "read -v 0 1", "-c", "read -v 64k 1", path]
    told = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
    return bytes.fromhex("".join(re.findall(r"^[0-9a-f]{8}:  ([0-9a-f]{2}) ", told, re.MULTILINE)))


def state(datastore: Path) -> State:
    """New images have names that nobody knows before: here they are called "new"."""
    found: State = {}
    for path in datastore.rglob("*"):
        name = str(path.relative_to(datastore))
        if (path.is_file() or path.is_symlink()) and not path.is_dir() and not re.match(f"{PART}(/|$)", name):
            found[re.sub(r"^[0-9a-f]{32}", lambda match: "image" if match[0] == NAME else "new", name)] = content(path)
    return found


def parts(datastore: Path) -> list[str]:
    return [name for name in os.listdir(datastore) if re.fullmatch(PART, name)]


def nothing(_datastore: Path) -> None:
    """An empty datastore."""


def make(image: str) -> None:
    with new_image(os.path.dirname(image)) as part:
        write_stream(iter([STREAM[:70_000], STREAM[70_000:]]), part.fd)
        part.commit()


def raw(datastore: Path) -> None:
    (datastore / f"{NAME}.snap").mkdir()
    for name, data in [(NAME, OLD), (f"{NAME}.md5sum", b"sum"), (f"{NAME}.snap/0", SNAPSHOT), (f"{NAME}.snap/1", OTHER)]:
        (datastore / name).write_bytes(data)


def qcow2(datastore: Path) -> None:
    """Snapshot 0 has a 1 in both clusters; on it there is what the image holds now, a 2 in the first one."""
    snapshots = datastore / f"{NAME}.snap"
    snapshots.mkdir()
    (snapshots / snapshots.name).symlink_to(".")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", snapshots / "0", "128k"], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 1 0 128k", snapshots / "0"], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", f"{snapshots.name}/0", snapshots / "1"], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 2 0 64k", snapshots / "1"], check=True)
    (datastore / NAME).symlink_to(f"{snapshots.name}/1")


RAW = {"image": OLD, "image.md5sum": b"sum", "image.snap/0": SNAPSHOT, "image.snap/1": OTHER}
RAW_UNSUMMED = {name: data for name, data in RAW.items() if name != "image.md5sum"}
RAW_REVERTED = {**RAW_UNSUMMED, "image": SNAPSHOT}
RAW_UNNAMED = {name: data for name, data in RAW.items() if name != "image"}
QCOW2 = {"image": b"\2\1", "image.snap/0": b"\1\1", "image.snap/1": b"\2\1"}

ACTIONS = {
    "new image": Action(nothing, make, {}, {"new": STREAM}),
    "revert, raw": Action(raw, lambda image: revert_snapshot(image, "raw", 0), RAW, RAW_REVERTED, (RAW_UNSUMMED,)),
    "revert, qcow2": Action(qcow2, lambda image: revert_snapshot(image, "qcow2", 0), QCOW2, {**QCOW2, "image": b"\1\1", "image.snap/1": b"\1\1"}, (), 1),
    "flatten, raw": Action(raw, lambda image: flatten_snapshot(image, "raw", 0), RAW, {"image": SNAPSHOT}, (RAW_UNSUMMED, RAW_REVERTED)),
    "flatten, qcow2": Action(qcow2, lambda image: flatten_snapshot(image, "qcow2", 0), QCOW2, {"image": b"\1\1"}, ({**QCOW2, "image": b"\1\1"},), 1),
    "remove": Action(raw, remove_image, RAW, {}, (RAW_UNNAMED, {"image.md5sum": b"sum"})),
}


@pytest.fixture(params=ACTIONS.items(), ids=ACTIONS)
def action(request: pytest.FixtureRequest) -> Action:
    return request.param[1]


def again(action: Action, datastore: Path) -> None:
    action.work(f"{datastore}/{NAME}")
    assert state(datastore) == action.new
    assert parts(datastore) == []


def test_each_write_fails_once(action: Action, walk_faults: FaultWalker, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    ends = {"unaffected": 0, "old": 0, "new": 0}

    def check(datastore: Path, raised: BaseException | None) -> None:
        found = state(datastore)
        if raised is None:
            ends["unaffected"] += 1
            assert (found, parts(datastore)) == (action.new, [])
        else:
            assert isinstance(raised, VmstoreError), repr(raised)
            end = "new" if found == action.new else "old"
            ends[end] += 1
            assert found == getattr(action, end)
            # When the change is made, what it replaced may be left for the next run.
            assert end == "new" or parts(datastore) == []
        again(action, datastore)

    injected = walk_faults(lambda datastore: action.work(f"{datastore}/{NAME}"), check, prepare=action.prepare, errnos=ERRNOS)
    assert injected > 10
    with capsys.disabled():
        print(f"\n{request.node.callspec.id}: {injected} faults; {ends}")


def test_a_crash_at_each_step(action: Action, walk_crashes: CrashWalker, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    ends = {"old": 0, "between": 0, "new": 0}

    def check(datastore: Path) -> None:
        found = state(datastore)
        assert found in (action.old, *action.between, action.new), {name: data[:20] for name, data in found.items()}
        ends["old" if found == action.old else "new" if found == action.new else "between"] += 1
        again(action, datastore)

    crashes = walk_crashes(lambda datastore: action.work(f"{datastore}/{NAME}"), check, prepare=action.prepare, names="strict", limit=action.disks)
    assert crashes > 10
    with capsys.disabled():
        print(f"\n{request.node.callspec.id}: {crashes} crashes; {ends}")
