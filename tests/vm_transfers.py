# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Actions of transfer drivers on the files of a front-end and of hosts below one directory, and what a guest sees."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.base import Settings
from ansible_collections.granary.vmstore.plugins.module_utils._driver.transfer import hosts
from ansible_collections.granary.vmstore.plugins.module_utils._driver.transfer.base import TransferDriver
from ansible_collections.granary.vmstore.plugins.module_utils._driver.transfer.facts import VmFacts
from ansible_collections.granary.vmstore.plugins.module_utils._driver.transfer.registry import transfer_class
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_disk import DiskRecord
from ansible_collections.granary.vmstore.plugins.module_utils._model.place import Place
from ansible_collections.granary.vmstore.plugins.module_utils._model.vm import Vm, VmDisk

IMAGE, SAVED = "05d147c524ae30d046db542ec2859136", "5aced000000000000000000000000000"
VM = 5

#: Length of a disk in bytes. Its data is a pattern of one byte, and a hole.
SIZE = 1 << 20
DATA = 128 << 10

#: Bytes of each file by its path. A link has an arrow and its target.
Files = dict[str, bytes]
#: SHA-256 of the guest's view of each image, disk and snapshot, by its path.
State = Mapping[str, str]

#: Names beside images and disks that an action may leave.
KEPT = re.compile(r"(.*/)?(\.disks\.lock|\.monitor|\.migrating|\.disk\.0\.moved)")
#: Paths of images, disks and their snapshots.
DISK = re.compile(rf"[^/]+/(\d+|\d+/{VM})/(([0-9a-f]{{32}}|disk\.\d+)(\.snap/\d+)?)")
CHECKSUM = ".md5sum"


class Facts(VmFacts):
    """The facts about one VM with one disk."""

    def __init__(self, image_format: str, source: str, size_mb: int = 1, original_size_mb: int = 1) -> None:
        disk = VmDisk(
            0, "file", size_mb, image_format, 1, 1, "ssh", source, original_size_mb, is_persistent=True, is_saved=True
        )
        self.found = Vm(VM, "vm", 3, 3, "h1", 0, "ssh", "kvm", disks=(disk,))

    def vm(self, vm_id: int) -> Vm:
        assert vm_id == VM
        return self.found


@dataclass(frozen=True)
class Action:
    """An action, and the states before and after it.

    :arg prepare: creates the initial files below the directory.
    :arg work: runs the action with the driver and the directory.
    :arg old, new: the states, as :func:`state_of` returns them.
    :arg between: further states that a crash may leave. All data is whole in them.
    :arg size_mb: the desired size of the disk.
    :arg monitored: the system datastore that gets a disk.
    """

    driver: str
    format: str
    prepare: Callable[[Path], object]
    work: Callable[[TransferDriver, Path], object]
    old: State
    new: State
    between: tuple[State, ...] = ()
    size_mb: int = 1
    monitored: str | None = None

    def end(self, found: Files) -> str:
        """Return the name of the state of files: "old", "between" or "new"."""
        state = state_of(found, self.format)
        if state == self.old:
            return "old"
        if state == self.new:
            return "new"
        unlike = {
            name: (self.old.get(name, "")[:8], state.get(name, "")[:24], self.new.get(name, "")[:8])
            for name in {*state, *self.old, *self.new}
        }
        assert state in self.between, f"{unlike}, {leftovers(found)}"
        return "between"

    def require_done(self, found: Files) -> None:
        """Require the new state without temporary files, in datastores that the probes of a front-end find."""
        assert self.end(found) == "new"
        assert leftovers(found) == []
        if self.monitored is not None:
            assert found[f"{self.monitored}/.monitor"].decode() == f"{self.driver}\n"


def run(action: Action, mount: Path) -> None:
    """Run an action below a directory."""
    settings = Settings(qcow2_options="cluster_size=4k")
    image = f"{mount}/{'host' if action.driver == 'shared' else 'frontend'}/1/{IMAGE}"
    facts = Facts(action.format, image, action.size_mb)
    driver = transfer_class(action.driver)(facts, settings)
    action.work(driver, mount)


def files(root: Path) -> Files:
    found: Files = {}
    for directory, directories, names in os.walk(root):
        for name in (*names, *directories):
            path = Path(directory, name)
            if path.is_symlink():
                found[f"{path.relative_to(root)} -> {os.readlink(path)}"] = b""
            elif path.is_file():
                found[str(path.relative_to(root))] = path.read_bytes()
            elif name.startswith("."):
                found[f"{path.relative_to(root)}/"] = b""
    return found


def leftovers(found: Files) -> list[str]:
    """Return the paths of temporary files."""
    return [
        name
        for name in found
        if any(part.startswith(".") for part in name.split(" -> ")[0].split("/")) and not KEPT.fullmatch(name)
    ]


def state_of(found: Files, image_format: str) -> State:
    """Return the guest's view of all images, disks and snapshots."""
    plain = tuple(
        sorted(
            (name, data)
            for name, data in found.items()
            if not any(part[:1] == "." for part in name.split(" -> ")[0].split("/"))
        )
    )
    return _views(plain, image_format)


@functools.lru_cache(1000)
def _views(named: tuple[tuple[str, bytes], ...], image_format: str) -> State:
    views: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as directory:
        for name, data in named:
            link, arrow, target = name.partition(" -> ")
            path = Path(directory, link)
            path.parent.mkdir(parents=True, exist_ok=True)
            if arrow:
                path.symlink_to(target)
            else:
                path.write_bytes(data)
        for name, data in named:
            name = name.partition(" -> ")[0]
            if name.endswith(CHECKSUM):
                image = Path(directory, name.removesuffix(CHECKSUM))
                assert data.decode() == hashlib.md5(image.read_bytes()).hexdigest(), "the checksum of another content"
            elif DISK.fullmatch(name):
                views[name] = view(Path(directory, name), image_format)
            elif not name.endswith(".snap"):
                raise AssertionError(f"the file {name} is neither an image nor a disk")
    return views


def view(path: Path, image_format: str) -> str:
    """Return the SHA-256 of what a guest sees. qemu-img must find no errors in a qcow2 file."""
    if not path.exists():
        return f"a link to nothing: {os.readlink(path)}"
    if image_format == "raw":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    checked = subprocess.run(["qemu-img", "check", "-f", "qcow2", path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    raw = path.with_name(f"{path.name}.view")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw], check=True)
    try:
        return hashlib.sha256(raw.read_bytes()).hexdigest()
    finally:
        raw.unlink()


def filled(number: int, size: int = SIZE) -> str:
    """Return the SHA-256 of a disk with the pattern ``number``."""
    return hashlib.sha256(bytes([number]) * DATA + bytes(size - DATA)).hexdigest()


def copy_of(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return a function that creates the files of ``make`` at another place, faster than ``make``."""

    @functools.cache
    def made() -> tempfile.TemporaryDirectory[str]:
        found = tempfile.TemporaryDirectory()
        make(Path(found.name))
        return found

    return lambda root: shutil.copytree(made().name, root, symlinks=True, dirs_exist_ok=True) and None


def write(path: Path, number: int, image_format: str, backing: str | None = None) -> None:
    """Create a disk with the pattern ``number``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    base = ["-u", "-F", "qcow2", "-b", backing] if backing else []
    options = ["-o", "cluster_size=4k"] if image_format == "qcow2" else []
    subprocess.run(["qemu-img", "create", "-q", "-f", image_format, *options, *base, path, str(SIZE)], check=True)
    subprocess.run(["qemu-io", "-f", image_format, "-c", f"write -q -P {number} 0 {DATA}", path], check=True)


def write_raw(path: Path, number: int, snapshots: Mapping[int, int] | None = None, image_format: str = "raw") -> None:
    """Create a disk, with whole copies as snapshots."""
    write(path, number, image_format)
    for snapshot, content in (snapshots or {}).items():
        write(path.with_name(f"{path.name}.snap") / str(snapshot), content, image_format)


def write_layers(path: Path, numbers: list[int]) -> None:
    """Create a disk of layers, each with another pattern in the same place."""
    snapshots = path.with_name(f"{path.name}.snap")
    snapshots.mkdir(parents=True)
    (snapshots / snapshots.name).symlink_to(".")
    for layer, number in enumerate(numbers):
        write(snapshots / str(layer), number, "qcow2", f"{snapshots.name}/{layer - 1}" if layer else None)
    path.symlink_to(f"{snapshots.name}/{len(numbers) - 1}")


#: Paths of an image at the front-end and on shared storage, and of a disk on two hosts.
FRONT, SHARED, HOST, OTHER = f"frontend/1/{IMAGE}", f"host/1/{IMAGE}", "host/0/5/disk.0", "other/0/5/disk.0"


@functools.cache
def make(
    *parts: Callable[[Path], object], empty: tuple[str, ...] = ("frontend/1", "host", "other")
) -> Callable[[Path], None]:
    def prepare(root: Path) -> None:
        for directory in empty:
            (root / directory).mkdir(parents=True)
        for part in parts:
            part(root)

    return copy_of(prepare)


def image_raw(root: Path) -> None:
    write_raw(root / FRONT, 1, {0: 2})
    (root / f"{FRONT}.md5sum").write_text(hashlib.md5((root / FRONT).read_bytes()).hexdigest())


def image_copies(root: Path) -> None:
    write_raw(root / FRONT, 1, {0: 2}, "qcow2")


def image_layers(root: Path) -> None:
    write_layers(root / FRONT, [2, 1])


def shared_raw(root: Path) -> None:
    write_raw(root / SHARED, 1)


def shared_single(root: Path) -> None:
    write_raw(root / SHARED, 1, image_format="qcow2")


def shared_layers(root: Path) -> None:
    write_layers(root / SHARED, [2, 1])


def disk_raw(root: Path) -> None:
    write_raw(root / HOST, 3, {0: 4, 1: 5})


def disk_copies(root: Path) -> None:
    write_raw(root / HOST, 3, {0: 4, 1: 5}, "qcow2")


def disk_layers(root: Path) -> None:
    write_layers(root / HOST, [4, 5, 3])


def migrated(root: Path) -> None:
    """Copy the VM directory to the other host, as after a migration."""
    shutil.copytree(root / "host", root / "other", symlinks=True, dirs_exist_ok=True)
    (root / "other/0/5/.migrating").touch()


def named(path: str, current: int, snapshots: Mapping[int, int] | None = None) -> State:
    """Return the state of an image or a disk."""
    return {path: filled(current), **{f"{path}.snap/{k}": filled(v) for k, v in (snapshots or {}).items()}}


RAW_IMAGE = named(FRONT, 1, {0: 2})
LAYERED_IMAGE = named(FRONT, 1, {0: 2, 1: 1})
RAW_DISK = named(HOST, 3, {0: 4, 1: 5})
LAYERED_DISK = named(HOST, 3, {0: 4, 1: 5, 2: 3})


def moved(state: State, path: str) -> State:
    """Return the state with the image or disk at another path."""
    first = min(state, key=len)
    return {name.replace(first, path): found for name, found in state.items()}


def without(state: State, *names: str) -> State:
    return {name: found for name, found in state.items() if name not in names}


def grown(state: State, *names: str, size: int) -> State:
    return {**state, **{name: filled(3, size) for name in names}}


MIB = 1 << 20


def calling(method: str, *arguments: Place | str | int | None) -> Callable[[TransferDriver, Path], object]:
    """Return a function that calls a method of a driver. Texts, and the paths of places, are below the directory."""

    def work(driver: TransferDriver, root: Path) -> None:
        def below(argument: Place | str | int | None) -> Place | str | int | None:
            if isinstance(argument, Place):
                return Place(argument.host, f"{root}/{argument.path}")
            return f"{root}/{argument}" if isinstance(argument, str) else argument

        getattr(driver, method)(*map(below, arguments), VM)

    return work


def migrating(host: str, other: str, action: str) -> Callable[[TransferDriver, Path], object]:
    """Return a function that runs an operation around a live migration on the host of a VM."""

    def work(driver: TransferDriver, root: Path) -> None:
        origin, target = f"{root}/host/0/{VM}", f"{root}/other/0/{VM}"
        image_format = driver.facts.vm(VM).disks[0].require_format()
        disks = [DiskRecord(f"{origin if action == 'prepare_migration' else target}/disk.0", image_format)]
        more = [driver.info.name] if action == "prepare_migration" else []
        hosts.run(host, action, origin, other, target, disks, *more, log=driver.log)

    return work


def linked(root: Path) -> None:
    """Create a disk that is a link to an image of shared storage."""
    make(shared_layers)(root)
    run(Action("shared", "qcow2", linked, calling("ln", Place("", SHARED), Place("localhost", HOST)), {}, {}), root)


def overlay(root: Path) -> None:
    """Create a disk whose first layer is based on an image of shared storage."""
    make(shared_single)(root)
    snapshots = (root / HOST).with_name("disk.0.snap")
    snapshots.mkdir(parents=True)
    (snapshots / snapshots.name).symlink_to(".")
    write(snapshots / "0", 4, "qcow2", str(root / SHARED))
    write(snapshots / "1", 3, "qcow2", "disk.0.snap/0")
    (root / HOST).symlink_to("disk.0.snap/1")


def actions(host: str, other: str) -> dict[str, Action]:
    """Return the actions on a host. ``other`` is the host that VM directories move to."""
    disk, image, shared = Place(host, HOST), Place("frontend", FRONT), Place("frontend", SHARED)
    clone, clone_shared, ln_shared = (
        calling("clone", image, disk),
        calling("clone", shared, disk),
        calling("ln", shared, disk),
    )
    mvds, mvds_shared = calling("mvds", disk, FRONT), calling("mvds", disk, SHARED)
    mv = calling("mv", Place(host, "host/0/5"), Place(other, "other/0/5"))
    saved = named(f"frontend/1/{SAVED}", 3)
    saved_snapshot = named(f"frontend/1/{SAVED}", 4)
    raw_back, layers_back = moved(RAW_DISK, FRONT), moved(LAYERED_DISK, FRONT)
    raw_moved, layers_moved = moved(RAW_DISK, OTHER), moved(LAYERED_DISK, OTHER)
    with_raw_image = {**RAW_IMAGE, **RAW_DISK}
    with_layers = {**LAYERED_IMAGE, **LAYERED_DISK}
    raw, layers = make(disk_raw), make(disk_layers)
    # The directory with the snapshots gets its name before the disk does, and loses it after the disk has.
    raw_snapshots, layers_snapshots = without(RAW_DISK, HOST), without(LAYERED_DISK, HOST)
    raw_clone, layered_clone = moved(RAW_IMAGE, HOST), moved(LAYERED_IMAGE, HOST)
    found = {
        "clone, ssh raw": Action(
            "ssh",
            "raw",
            make(image_raw),
            clone,
            RAW_IMAGE,
            {**RAW_IMAGE, **raw_clone},
            between=({**RAW_IMAGE, **without(raw_clone, HOST)},),
        ),
        "clone, ssh qcow2, larger": Action(
            "ssh",
            "qcow2",
            make(image_copies),
            clone,
            RAW_IMAGE,
            {**RAW_IMAGE, **raw_clone, HOST: filled(1, 2 * MIB)},
            size_mb=2,
            between=({**RAW_IMAGE, **without(raw_clone, HOST)},),
        ),
        "clone, local over a disk": Action(
            "local",
            "qcow2",
            make(image_layers, disk_layers),
            clone,
            with_layers,
            {**LAYERED_IMAGE, **layered_clone},
            between=({**LAYERED_IMAGE, **layered_clone, HOST: "a link to nothing: disk.0.snap/2"},),
        ),
        "clone, local": Action(
            "local",
            "qcow2",
            make(image_layers),
            clone,
            LAYERED_IMAGE,
            {**LAYERED_IMAGE, **layered_clone},
            between=({**LAYERED_IMAGE, **without(layered_clone, HOST)},),
        ),
        "mvds, ssh raw": Action(
            "ssh",
            "raw",
            make(image_raw, disk_raw),
            mvds,
            with_raw_image,
            raw_back,
            between=(
                {**raw_back, **RAW_DISK, FRONT: filled(1)},
                {**raw_back, **RAW_DISK},
                {**raw_back, **raw_snapshots},
            ),
        ),
        "mvds, local": Action(
            "local",
            "qcow2",
            make(image_layers, disk_layers),
            mvds,
            with_layers,
            layers_back,
            between=(
                {**layers_back, **LAYERED_DISK, FRONT: filled(5)},
                {**layers_back, **LAYERED_DISK},
                {**layers_back, **layers_snapshots},
            ),
        ),
        "cpds, ssh raw": Action(
            "ssh", "raw", raw, calling("cpds", disk, f"frontend/1/{SAVED}", None), RAW_DISK, {**RAW_DISK, **saved}
        ),
        "cpds, local": Action(
            "local",
            "qcow2",
            layers,
            calling("cpds", disk, f"frontend/1/{SAVED}", None),
            LAYERED_DISK,
            {**LAYERED_DISK, **saved},
        ),
        "cpds of a snapshot, ssh raw": Action(
            "ssh", "raw", raw, calling("cpds", disk, f"frontend/1/{SAVED}", 0), RAW_DISK, {**RAW_DISK, **saved_snapshot}
        ),
        "mv, ssh raw": Action("ssh", "raw", raw, mv, RAW_DISK, raw_moved, between=({**RAW_DISK, **raw_moved},)),
        "mv, local": Action(
            "local", "qcow2", layers, mv, LAYERED_DISK, layers_moved, between=({**LAYERED_DISK, **layers_moved},)
        ),
        "snap_create, ssh raw": Action(
            "ssh", "raw", raw, calling("snap_create", disk, 2), RAW_DISK, {**RAW_DISK, f"{HOST}.snap/2": filled(3)}
        ),
        "snap_create, local": Action(
            "local",
            "qcow2",
            layers,
            calling("snap_create", disk, 2),
            LAYERED_DISK,
            {**LAYERED_DISK, f"{HOST}.snap/3": filled(3)},
        ),
        "snap_create, first of local": Action(
            "local",
            "qcow2",
            make(lambda root: write_raw(root / HOST, 3, image_format="qcow2")),
            calling("snap_create", disk, 0),
            named(HOST, 3),
            named(HOST, 3, {0: 3, 1: 3}),
            between=(named(HOST, 3, {0: 3}),),
        ),
        "snap_delete, ssh raw": Action(
            "ssh", "raw", raw, calling("snap_delete", disk, 0), RAW_DISK, without(RAW_DISK, f"{HOST}.snap/0")
        ),
        "snap_delete, local": Action(
            "local",
            "qcow2",
            layers,
            calling("snap_delete", disk, 1),
            LAYERED_DISK,
            without(LAYERED_DISK, f"{HOST}.snap/1"),
        ),
        "snap_revert, ssh raw": Action(
            "ssh", "raw", raw, calling("snap_revert", disk, 0), RAW_DISK, {**RAW_DISK, HOST: filled(4)}
        ),
        "snap_revert, local": Action(
            "local",
            "qcow2",
            layers,
            calling("snap_revert", disk, 0),
            LAYERED_DISK,
            {**LAYERED_DISK, HOST: filled(4), f"{HOST}.snap/2": filled(4)},
        ),
        "resize, ssh raw": Action(
            "ssh", "raw", raw, calling("resize", disk, 2), RAW_DISK, grown(RAW_DISK, HOST, size=2 * MIB)
        ),
        "resize, local": Action(
            "local",
            "qcow2",
            layers,
            calling("resize", disk, 2),
            LAYERED_DISK,
            grown(LAYERED_DISK, HOST, f"{HOST}.snap/2", size=2 * MIB),
        ),
        "clone, shared": Action(
            "shared",
            "qcow2",
            make(shared_single),
            clone_shared,
            named(SHARED, 1),
            {**named(SHARED, 1), **named(HOST, 1, {0: 1})},
            between=({**named(SHARED, 1), f"{HOST}.snap/0": filled(1)},),
        ),
        "ln, shared": Action(
            "shared",
            "qcow2",
            make(shared_single),
            ln_shared,
            named(SHARED, 1),
            {**named(SHARED, 1, {0: 1}), **named(HOST, 1)},
            between=(named(SHARED, 1, {0: 1}),),
        ),
        "mvds, shared": Action(
            "shared",
            "qcow2",
            linked,
            mvds_shared,
            {**named(SHARED, 1, {0: 2, 1: 1}), **named(HOST, 1)},
            named(SHARED, 1, {0: 2, 1: 1}),
        ),
        "cpds, shared": Action(
            "shared",
            "qcow2",
            linked,
            calling("cpds", disk, f"host/1/{SAVED}", 0),
            {**named(SHARED, 1, {0: 2, 1: 1}), **named(HOST, 1)},
            {**named(SHARED, 1, {0: 2, 1: 1}), **named(HOST, 1), **named(f"host/1/{SAVED}", 2)},
        ),
        "snap_create, shared": Action(
            "shared",
            "qcow2",
            linked,
            calling("snap_create", disk, 1),
            {**named(SHARED, 1, {0: 2, 1: 1}), **named(HOST, 1)},
            {**named(SHARED, 1, {0: 2, 1: 1, 2: 1}), **named(HOST, 1)},
            between=({**named(SHARED, 1, {0: 2, 1: 1, 2: 1}), **named(HOST, 1)},),
        ),
        "snap_delete, shared": Action(
            "shared",
            "qcow2",
            linked,
            calling("snap_delete", disk, 0),
            {**named(SHARED, 1, {0: 2, 1: 1}), **named(HOST, 1)},
            without({**named(SHARED, 1, {0: 2, 1: 1}), **named(HOST, 1)}, f"{SHARED}.snap/0"),
        ),
        "snap_revert, shared": Action(
            "shared",
            "qcow2",
            linked,
            calling("snap_revert", disk, 0),
            {**named(SHARED, 1, {0: 2, 1: 1}), **named(HOST, 1)},
            {**named(SHARED, 2, {0: 2, 1: 2}), **named(HOST, 2)},
        ),
        "mv, shared": Action(
            "shared",
            "qcow2",
            overlay,
            mv,
            {**named(SHARED, 1), **named(HOST, 3, {0: 4, 1: 3})},
            {**named(SHARED, 1), **named(OTHER, 3, {0: 4, 1: 3})},
        ),
    }
    empty = hashlib.sha256(bytes(SIZE)).hexdigest()
    for name, driver, image_format, source, state, data in (
        ("ssh raw", "ssh", "raw", disk_raw, RAW_DISK, empty),
        ("local", "local", "qcow2", disk_layers, LAYERED_DISK, filled(5)),
    ):
        arrived = moved(state, OTHER)
        prepared = {one: data if one in (OTHER, f"{OTHER}.snap/2") else view for one, view in arrived.items()}
        found[f"premigrate, {name}"] = Action(
            driver,
            image_format,
            make(source),
            migrating(host, other, "prepare_migration"),
            state,
            {**state, **prepared},
        )
        found[f"postmigrate, {name}"] = Action(
            driver,
            image_format,
            make(source, migrated),
            migrating(host, other, "finish_migration"),
            {**state, **arrived},
            arrived,
        )
    places = {"clone": "host/0", "mv": "other/0", "premigrate": "other/0"}
    return {
        name: action if action.driver == "shared" else replace(action, monitored=places.get(name.split(",")[0]))
        for name, action in found.items()
    }
