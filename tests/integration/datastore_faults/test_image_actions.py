# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The actions of the driver fs when their datastore fails.

Each writing operation fails once. The process is killed before each one, and the power fails before each one.
Afterwards the datastore has the old state or the new one, and a repeated action leads to the new state.

A state is everything that the front-end can see: the images, their snapshots, and their data. Other files are leftovers
of an action, for example a part or the snapshots of a removed image. A repeated action removes these files.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import FileAccessFailed, VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.base import CopyOptions, Settings
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.fs import FsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from refusal import refused
from simulated_datastore.testing import CrashWalker, FaultWalker, KillWalker, SimulatedDatastore

NAME = "05d147c524ae30d046db542ec2859136"
PART = re.compile(r"\.[0-9a-f]{32}\.part")
#: The errors of a full disk and of a broken one. EDQUOT takes the way of ENOSPC, and fails each write in
#: test_image_export.py.
ERRNOS = (errno.ENOSPC, errno.EIO)

OLD, SNAPSHOT, OTHER = b"old image" * 1000, b"snapshot " * 1000, b"other one" * 1000
#: Content of a raw image: data, a hole, data.
STREAM = b"x" * 100_000 + bytes(200_000) + b"y" * 10

#: Content of each image and of its snapshots, by name.
State = dict[str, bytes]
#: Bytes of each file, by name. A link has an arrow and its target.
Files = dict[str, bytes]


@dataclass(frozen=True)
class Action:
    #: Function that creates the initial state of the datastore. The directory of a new datastore is missing.
    prepare: Callable[[Path], object]
    #: Function that runs the action with the driver, the path of the image, and the file outside of the datastore.
    work: Callable[[FsDriver, str, str], object]
    old: State
    new: State
    #: Further states that a crash or a kill may leave when two names change. In these states all data of the new state
    #: is whole.
    between: tuple[State, ...] = ()
    #: Number of disk states after a crash that the test checks: without unsynced data, with all of it, with parts of
    #: it. Slow actions of qemu-img have two.
    disks: int = 12
    #: True if files change before the state does, with unchanged content.
    rebases: bool = False


def files(datastore: Path) -> Files:
    found: Files = {}
    for directory, directories, names in os.walk(datastore):
        for name in (*names, *directories):
            path = Path(directory, name)
            if path.is_symlink():
                found[f"{path.relative_to(datastore)} -> {os.readlink(path)}"] = b""
            elif path.is_file():
                found[str(path.relative_to(datastore))] = path.read_bytes()
    return found


def of_images(found: Files) -> Files:
    """Return the files without leftovers."""
    images = {name[:32] for name in found if re.match("[0-9a-f]{32}( -> |$)", name)}
    return {name: data for name, data in found.items() if name[:32] in images}


def state(found: Files) -> State:
    """Return the state of the datastore. New images, which have random names, are called "new"."""
    named: Files = {}
    for name, data in of_images(found).items():
        alias = name if name.startswith(NAME) else f"new{name[32:]}"
        assert named.setdefault(alias, data) == data, "new images that are not the same"
    for name, data in named.items():
        if name.endswith(".md5sum"):
            assert data.decode() == hashlib.md5(named[name.removesuffix(".md5sum")]).hexdigest(), (
                "the checksum of another content"
            )
    return {name.replace(NAME, "image"): data for name, data in _contents(tuple(sorted(named.items())))}


@functools.cache
def _contents(named: tuple[tuple[str, bytes], ...]) -> list[tuple[str, bytes]]:
    """Return the content of images and snapshots; the result is cached for equal files, because qemu-img is slow."""
    with tempfile.TemporaryDirectory() as directory:
        for name, data in named:
            link, arrow, target = name.partition(" -> ")
            path = Path(directory, link)
            path.parent.mkdir(exist_ok=True)
            if arrow:
                path.symlink_to(target)
            else:
                path.write_bytes(data)
        names = [name.partition(" -> ")[0] for name, _data in named if not name.endswith(".md5sum")]
        return [(name, content(path)) for name in names if not (path := Path(directory, name)).is_dir()]


def content(path: Path) -> bytes:
    """Return the content of a file: the bytes of a raw file, and the guest's view of a qcow2 file.

    qemu-img must find no errors and no leaks in a qcow2 file.
    """
    data = path.read_bytes()
    if not data.startswith(b"QFI\xfb"):
        return data
    checked = subprocess.run(["qemu-img", "check", "-f", "qcow2", path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, f"{path}.content"], check=True)
    return Path(f"{path}.content").read_bytes()


def nothing(_datastore: Path) -> None:
    """Create nothing, not even the directory."""


def raw(datastore: Path) -> None:
    (datastore / f"{NAME}.snap").mkdir(parents=True)
    md5 = hashlib.md5(OLD).hexdigest().encode()
    for name, data in [(NAME, OLD), (f"{NAME}.md5sum", md5), (f"{NAME}.snap/0", SNAPSHOT), (f"{NAME}.snap/1", OTHER)]:
        (datastore / name).write_bytes(data)


def single(datastore: Path) -> None:
    datastore.mkdir()
    (datastore / NAME).write_bytes(OLD)


def qcow2(datastore: Path) -> None:
    """Create an image with the snapshots 0 and 1, and later content in the image itself."""
    shutil.copytree(_chain().name, datastore, symlinks=True)


@functools.cache
def _chain() -> tempfile.TemporaryDirectory[str]:
    datastore = tempfile.TemporaryDirectory()
    snapshots = Path(datastore.name, f"{NAME}.snap")
    snapshots.mkdir()
    (snapshots / snapshots.name).symlink_to(".")
    for number in range(3):
        backing = ["-F", "qcow2", "-b", f"{snapshots.name}/{number - 1}"] if number else []
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", *backing, snapshots / str(number), "192k"], check=True
        )
        subprocess.run(
            [
                "qemu-io",
                "-f",
                "qcow2",
                "-c",
                f"write -q -P {number + 1} 0 {64 * (3 - number)}k",
                snapshots / str(number),
            ],
            check=True,
        )
    Path(datastore.name, NAME).symlink_to(f"{snapshots.name}/2")
    return datastore


def cp(driver: FsDriver, source: str, driver_format: str | None = None) -> None:
    sha256 = hashlib.sha256(STREAM).hexdigest()
    driver.cp(source, CopyOptions("os", driver_format, checksums={"sha256": sha256}))


def clone_twice(driver: FsDriver, image: str) -> None:
    """Clone two images in one batch. If one clone fails, the other one is created."""
    errors: list[VmstoreError] = []
    with driver.batch():
        for _number in range(2):
            try:
                driver.clone(image, "raw", CopyOptions("os"))
            except VmstoreError as error:
                errors.append(error)
        errors += driver.publish().values()
    if errors:
        raise errors[0]


def rm_in_batch(driver: FsDriver, image: str) -> None:
    with driver.batch():
        driver.rm(image)
        driver.publish()


#: qemu-img rounds up to sectors.
SECTORS = STREAM + bytes(-len(STREAM) % 512)
BYTES = [bytes([number]) * 65536 for number in range(4)]
MIB = 2**20

RAW = {"image": OLD, "image.snap/0": SNAPSHOT, "image.snap/1": OTHER}
REVERTED = {**RAW, "image": SNAPSHOT}
TOP = BYTES[3] + BYTES[2] + BYTES[1]
QCOW2 = {"image": TOP, "image.snap/0": BYTES[1] * 3, "image.snap/1": BYTES[2] * 2 + BYTES[1], "image.snap/2": TOP}

ACTIONS = {
    "cp, raw": Action(nothing, lambda driver, _image, source: cp(driver, source), {}, {"new": STREAM}),
    "cp, raw to qcow2": Action(
        nothing, lambda driver, _image, source: cp(driver, source, "qcow2"), {}, {"new": SECTORS}, disks=2
    ),
    "mkfs, raw": Action(
        Path.mkdir, lambda driver, _image, _source: driver.mkfs(1, "raw", None), {}, {"new": bytes(MIB)}
    ),
    "mkfs, qcow2": Action(
        Path.mkdir, lambda driver, _image, _source: driver.mkfs(1, "qcow2", None), {}, {"new": bytes(MIB)}, disks=2
    ),
    "clone, raw": Action(
        raw, lambda driver, image, _source: driver.clone(image, "raw", CopyOptions("os")), RAW, {**RAW, "new": OLD}
    ),
    "clones in a batch": Action(
        raw, lambda driver, image, _source: clone_twice(driver, image), RAW, {**RAW, "new": OLD}
    ),
    "snap_revert, raw": Action(raw, lambda driver, image, _source: driver.snap_revert(image, "raw", 0), RAW, REVERTED),
    "snap_revert, qcow2": Action(
        qcow2,
        lambda driver, image, _source: driver.snap_revert(image, "qcow2", 0),
        QCOW2,
        {**QCOW2, "image": BYTES[1] * 3, "image.snap/2": BYTES[1] * 3},
        disks=2,
    ),
    "snap_flatten, raw": Action(
        raw, lambda driver, image, _source: driver.snap_flatten(image, "raw", 0), RAW, {"image": SNAPSHOT}, (REVERTED,)
    ),
    "snap_flatten, qcow2": Action(
        qcow2,
        lambda driver, image, _source: driver.snap_flatten(image, "qcow2", 1),
        QCOW2,
        {"image": QCOW2["image.snap/1"]},
        ({**QCOW2, "image": QCOW2["image.snap/1"]},),
        disks=2,
    ),
    "snap_delete, qcow2": Action(
        qcow2,
        lambda driver, image, _source: driver.snap_delete(image, "qcow2", 1),
        QCOW2,
        {name: data for name, data in QCOW2.items() if name != "image.snap/1"},
        disks=2,
        rebases=True,
    ),
    "rm": Action(raw, lambda driver, image, _source: driver.rm(image), RAW, {}),
}

#: Action with too few steps for a walk.
RM_IN_BATCH = Action(single, lambda driver, image, _source: rm_in_batch(driver, image), {"image": OLD}, {})


@pytest.fixture(params=ACTIONS.items(), ids=ACTIONS)
def action(request: pytest.FixtureRequest) -> Action:
    return request.param[1]


class Walk:
    """An action on a datastore below the mount point, and the results of its runs."""

    def __init__(self, action: Action, source: Path) -> None:
        source.write_bytes(STREAM)
        self.action = action
        self.source = source
        self.ends: dict[str, int] = {}

    def prepare(self, mount_point: Path) -> None:
        self.action.prepare(mount_point / "1")

    def work(self, mount_point: Path) -> None:
        datastore = f"{mount_point}/1"
        # qemu-img creates an image with small clusters in a third of the writes.
        settings = Settings(qcow2_options="cluster_size=4k")
        driver = FsDriver(
            Datastore(1, "default", "image", "fs", "shared", datastore, safe_dirs=(str(self.source.parent),)),
            settings=settings,
        )
        self.action.work(driver, f"{datastore}/{NAME}", str(self.source))

    def check(self, mount_point: Path) -> str:
        """Return the name of the state: "old", "between" or "new"."""
        found = state(files(mount_point / "1"))
        if found == self.action.old:
            end = "old"
        elif found == self.action.new:
            end = "new"
        else:
            assert found in self.action.between, {name: data[:20] for name, data in found.items()}
            end = "between"
        return end

    def count(self, end: str) -> None:
        self.ends[end] = self.ends.get(end, 0) + 1

    def again(self, mount_point: Path) -> None:
        self.work(mount_point)
        found = files(mount_point / "1")
        assert state(found) == self.action.new
        assert found == of_images(found)


@pytest.fixture
def walk(action: Action, tmp_path: Path) -> Walk:
    return Walk(action, tmp_path / "source")


@pytest.fixture
def report(walk: Walk, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def print_counts(what: str) -> None:
        with capsys.disabled():
            print(f"\n{request.node.callspec.id}: {what}; {walk.ends}")

    return print_counts


def test_each_write_fails_once(walk: Walk, walk_faults: FaultWalker, report: Callable[[str], None]) -> None:
    before: Files = {}

    def prepare(mount_point: Path) -> None:
        walk.prepare(mount_point)
        before.clear()
        before.update(files(mount_point / "1"))

    def check(mount_point: Path, raised: BaseException | None) -> None:
        end = walk.check(mount_point)
        found = files(mount_point / "1")
        if raised is None:
            walk.count("unaffected")
            assert end == "new"
        else:
            assert isinstance(raised, VmstoreError), repr(raised)
            walk.count(end)
        if end == "new" or walk.action.rebases:
            # After a finished change, files that can't be removed are left for the next run.
            assert all(PART.match(name) for name in found.keys() - of_images(found))
        else:
            assert found == before
        walk.again(mount_point)

    injected = walk_faults(walk.work, check, prepare=prepare, errnos=ERRNOS)
    assert injected > 10
    report(f"{injected} faults")


def test_a_kill_at_each_step(walk: Walk, walk_kills: KillWalker, report: Callable[[str], None]) -> None:
    def check(mount_point: Path) -> None:
        walk.count(walk.check(mount_point))
        walk.again(mount_point)

    kills = walk_kills(walk.work, check, prepare=walk.prepare)
    assert kills > 5
    report(f"{kills} kills")


def test_a_crash_at_each_step(walk: Walk, walk_crashes: CrashWalker, report: Callable[[str], None]) -> None:
    def check(mount_point: Path) -> None:
        walk.count(walk.check(mount_point))
        walk.again(mount_point)

    crashes = walk_crashes(walk.work, check, prepare=walk.prepare, names="strict", limit=walk.action.disks)
    assert crashes > 5
    report(f"{crashes} crashes")


@pytest.mark.parametrize(
    ("action", "images"), [(ACTIONS["clones in a batch"], 3), (RM_IN_BATCH, 0)], ids=["clones", "rm"]
)
def test_what_a_batch_has_published_is_durable(
    walk: Walk, datastore_factory: Callable[..., SimulatedDatastore], images: int
) -> None:
    datastore = datastore_factory()
    try:
        path = datastore.renew(walk.prepare)
        datastore.set(crash_tracking=True)
        walk.work(path)
        datastore.crash(state=0, names="strict")  # without any unsynced data
        assert walk.check(path) == "new"
        assert len([name for name in os.listdir(path / "1") if re.fullmatch("[0-9a-f]{32}", name)]) == images
    finally:
        datastore.end()


def test_a_removal_that_is_not_durable_is_an_error(
    datastore_factory: Callable[..., SimulatedDatastore], tmp_path: Path
) -> None:
    datastore = datastore_factory()
    try:
        walk = Walk(RM_IN_BATCH, tmp_path / "source")
        path = datastore.renew(walk.prepare)
        with (
            datastore.fault("fsyncdir", errno.EIO),
            refused(
                FileAccessFailed,
                says="A change in * is made, but not yet durable: Input/output error; repeat it.",
            ),
        ):
            walk.work(path)
        walk.again(path)
    finally:
        datastore.end()
