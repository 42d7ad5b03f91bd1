# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every recorded call of the transfer drivers ssh, local, shared and qcow2 (driver_calls/), repeated with the installed
drivers on real hosts.

The tests compare the exit code, the output and the changes on disk. Where the recorded driver was wrong, the test names
the defect and asserts the correct result. Data is compared by qemu-img, never by the engine itself. A disk's files
before a call are made by qemu-img in the layout of the recorded drivers.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from transfer_cluster import FRONT_END, OWN, Cluster, messages, shell, vm_document

CALLS = {
    path.stem.removeprefix("tm-"): json.loads(path.read_text())
    for path in sorted((Path(__file__).parent / "driver_calls").glob("tm-*.json"))
    # test_transfer_migration.py and test_monitoring.py have the others.
    if "migrate" not in path.name and "-monitor-" not in path.name
}
MIB = 2**20

#: The formats of recorded images by the beginning of their names. All others are raw.
QCOW2 = ("d939", "1d4b", "fe4e", "6573", "1688", "0f93", "b206")

#: The images of disks in recorded actions that don't name them, by VM and disk.
IMAGES = {
    (2, 0): "d7fe35325f7ac5c3c2ccb4b5bbc24931",
    (2, 1): "00000000000000000000000000000001",
    (2, 2): "16885e734ca136bb54db324ac6504988",
    (4, 0): "6dc37e0ca938f2b27d1fc65a74f8c3ae",
    (4, 1): "fecddd87d03d1f9315f2ba29f570b11c",
    (4, 2): "6573ae15e97409f235cae95705b4d830",
    (6, 0): "f0212f5e96d871e40e8542424b0a9957",
    (6, 1): "af4e0e6f04dbc595994a1a93761a7c2e",
    (6, 2): "d93937b92bdf531c059c462dbed5a594",
    (8, 0): "1d4b91cecccc6aa06c20e6b474e7edc9",
    (8, 1): "fe4e78dded98c49c6b4fcf9101d82826",
    (8, 5): "1d4b91cecccc6aa06c20e6b474e7edc9",
    (9, 0): "1d4b91cecccc6aa06c20e6b474e7edc9",
    (10, 0): "6dc37e0ca938f2b27d1fc65a74f8c3ae",
    (10, 1): "fecddd87d03d1f9315f2ba29f570b11c",
    (10, 2): "6573ae15e97409f235cae95705b4d830",
    (12, 0): "1d4b91cecccc6aa06c20e6b474e7edc9",
    (12, 1): "fe4e78dded98c49c6b4fcf9101d82826",
    (22, 0): "f0212f5e96d871e40e8542424b0a9957",
    (22, 1): "a3c4beca4c620a54b981fecee43d7ef9",
    (22, 2): "0f93e8c41f6d90da96f23c036dab29e5",
    (22, 6): "f0212f5e96d871e40e8542424b0a9957",
    (27, 0): "d7fe35325f7ac5c3c2ccb4b5bbc24931",
    (28, 0): "1d4b91cecccc6aa06c20e6b474e7edc9",
    (29, 0): "6dc37e0ca938f2b27d1fc65a74f8c3ae",
}

#: The disks that are links to their image.
LINKED = {(8, 1), (4, 1), (4, 2)}

#: Recorded calls about a running VM, which come with live actions.
LIVE = {"ssh-cpds-1"}

#: Calls whose changes the recording lacks, beside those on the host h3.
UNRECORDED = {"local-clone-5"}

#: Files of the engine's own in system datastores.
OURS = (".disks.lock", ".monitor")

Paths = dict[str, "str | None"]


class Disk:
    """The disk of a call, in the state before the call."""

    def __init__(self, cluster: Cluster, call: Mapping[str, Any], place: str) -> None:
        self.cluster = cluster
        self.machine, _colon, path = place.partition(":")
        self.path = cluster.path(self.machine, path)
        self.name = self.path.name
        self.vm = int(call["argv"][-2])
        self.number = int(self.name.removeprefix("disk.")) if self.name.startswith("disk.") else -1
        self.is_shared = call["driver"] in ("shared", "qcow2") and self.path.parent.parent.name not in OWN
        self.makes_layers = call["driver"] != "ssh"
        datastore = call["argv"][-1]
        name = IMAGES.get((self.vm, self.number))
        self.image = f"{cluster.home}//datastores/{datastore}/{name}" if name else None
        self.format = "qcow2" if (name or "").startswith(QCOW2) else "raw"
        self.is_linked = (self.vm, self.number) in LINKED

    @property
    def files(self) -> Path:
        """Return the path of the disk, or of the image that the disk is a link to."""
        return self.cluster.path(FRONT_END, self.image) if self.is_linked and self.image else self.path

    def write(self, templates: Mapping[str, Path], snapshots: Mapping[int, int | None]) -> None:
        """Write the disk.

        :arg snapshots: the files of the snapshots by number, each with the number of its backing file. For layers, the
            last one is the file that receives the writes.
        """
        self.path.parent.mkdir(exist_ok=True)
        if self.image:
            image = self.cluster.path(FRONT_END, self.image)
            if image.parent.exists() and not image.exists():
                shell("cp", templates[self.format], image)
        if self.format == "qcow2" and self.makes_layers:
            self._write_layers(templates, snapshots)
            return
        if self.is_linked:
            self.path.symlink_to(self.files)
        else:
            shell("cp", templates[self.format], self.path)
        if snapshots:
            (directory := Path(f"{self.files}.snap")).mkdir()
            for number in snapshots:
                shell("cp", templates[self.format], directory / str(number))
                change(directory / str(number), self.format, number + 1)

    def _write_layers(self, templates: Mapping[str, Path], snapshots: Mapping[int, int | None]) -> None:
        (directory := Path(f"{self.files}.snap")).mkdir()
        (directory / directory.name).symlink_to(".")
        for number, parent in (snapshots or {0: None}).items():
            layer = directory / str(number)
            if parent is not None:
                # QEMU resolves a relative name at the path by which it opens the layer, which is that of the link.
                overlay(layer, f"{self.image}.snap/{parent}" if self.is_linked else f"{directory.name}/{parent}")
                change(layer, "qcow2", number + 1)
            elif self.is_linked:
                layer.symlink_to(self.files)
            elif self.is_shared:
                overlay(layer, str(self.image))
            else:
                shell("cp", templates["qcow2"], layer)
        newest = max(snapshots, default=0)
        self.path.symlink_to(f"{directory}/{newest}" if self.is_linked else f"{directory.name}/{newest}")

    def contents(self) -> dict[str, str]:
        """Return digests of the data of the disk and of its snapshots."""
        return contents(self.cluster, self.machine, self.path, self.files, self.format)


def overlay(path: Path, backing: str) -> None:
    shell("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", backing, "-F", "qcow2", path, "64M")


def change(path: Path, image_format: str, seed: int) -> None:
    shell("qemu-io", "-f", image_format, "-c", f"write -P {seed} {seed}M 64k", path)


def data(cluster: Cluster, machine: str, path: Path, image_format: str) -> str:
    """Return the digest of the guest's view of an image, as a machine sees the image."""
    raw = cluster.root / "data"
    cluster.execute(machine, "qemu-img", "convert", "-U", "-f", image_format, "-O", "raw", path, raw)
    digest = hashlib.sha256(str(raw.stat().st_size).encode())
    with raw.open("rb") as file:
        position = 0
        while True:
            try:
                position = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                break
            block = os.pread(file.fileno(), 4096, position)
            if block.strip(b"\0"):
                digest.update(b"%d " % position + block)
            position += 4096
    raw.unlink()
    return digest.hexdigest()


def contents(cluster: Cluster, machine: str, path: Path, files: Path, image_format: str) -> dict[str, str]:
    """Return digests of the data of a disk or image, and of its snapshots."""
    inner = cluster.inner(machine, path)
    active = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
    found = {"": data(cluster, machine, inner, image_format)}
    for one in Path(f"{files}.snap").glob("*"):
        if one.name.isdigit() and one.name != active:
            found[one.name] = data(cluster, machine, cluster.inner(machine, one), image_format)
    return found


def is_qcow2(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"QFI\xfb"


def check_files(cluster: Cluster) -> None:
    """Require that all qcow2 files are consistent, and that all files belong to oneadmin and have holes."""
    for machine, place in cluster.places().items():
        for path in place.rglob("*"):
            status = path.lstat()
            assert (status.st_uid, status.st_gid) == (999, 995), path
            assert status.st_blocks * 512 < 12 * MIB, f"holes of {path} were filled"
            if stat.S_ISREG(status.st_mode) and is_qcow2(path):
                cluster.execute(machine, "qemu-img", "check", "-q", "-U", "-f", "qcow2", cluster.inner(machine, path))


# Changes


def recorded_paths(call: Mapping[str, Any]) -> list[str]:
    """Return the paths of a call's arguments in the form of a recording."""
    found = []
    for argument in call["argv"][:-2]:
        host, colon, path = argument.partition(":")
        if not colon:
            host, path = FRONT_END, argument
        inner = os.path.normpath(path)
        if not inner.startswith("/var/lib/one/datastores/"):
            continue
        inner = inner.removeprefix("/var/lib/one/datastores/")
        machine = "fe" if host == FRONT_END or inner.split("/")[0] not in (*OWN, "1", "2", "101") else host
        found.append(f"{machine}:{inner}")
    linked = [
        f"fe:{call['argv'][-1]}/{IMAGES[vm, disk]}"
        for vm, disk in LINKED
        if any(path.endswith(f"/{vm}/disk.{disk}") for path in found)
    ]
    return [*found, *linked]


def is_relevant(path: str, paths: list[str]) -> bool:
    """Return whether a path belongs to the call. Other processes ran during the recording."""
    return any(
        path in (one, os.path.dirname(one), f"{one}.snap") or path.startswith((f"{one}/", f"{one}.snap/"))
        for one in paths
    )


def is_change(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Return whether more differs than the number of blocks, which a file system also changes later."""
    return {**before, "blocks": 0} != {**after, "blocks": 0}


def expected_changes(call: Mapping[str, Any]) -> tuple[Paths, set[str], set[str]]:
    """Return the recorded changes: added paths with their kinds or targets, removed and changed paths."""
    paths = recorded_paths(call)
    diff = call["fs_diff"]
    added = {
        path: entry.get("link", "").replace("//", "/") or entry["mode"][:-4]
        for path, entry in diff["added"].items()
        if is_relevant(path, paths)
    }
    return (
        added,
        {path for path in diff["removed"] if is_relevant(path, paths)},
        {path for path, entries in diff["changed"].items() if is_relevant(path, paths) and is_change(*entries)},
    )


Entries = Mapping[str, tuple[os.stat_result, str]]


def look(cluster: Cluster) -> Entries:
    """Return all paths of all machines, with their stat data and targets of links."""
    found = {}
    for path, status in cluster.entries().items():
        name = os.path.basename(path)
        if name in OURS or name.endswith(".moved"):
            continue
        target = ""
        if stat.S_ISLNK(status.st_mode):
            machine, _colon, inner = path.partition(":")
            place = cluster.places()["frontend" if machine == "fe" else machine]
            target = os.readlink(place / inner).replace(str(cluster.home), "/var/lib/one").replace("//", "/")
        found[path] = (status, target)
    return found


def changes(before: Entries, after: Entries) -> tuple[Paths, set[str], set[str]]:
    def known(entry: tuple[os.stat_result, str]) -> tuple[object, ...]:
        status, target = entry
        is_file = stat.S_ISREG(status.st_mode)
        return status.st_mode, target, *((status.st_ino, status.st_size, status.st_mtime_ns) if is_file else ())

    added = {path: entry[1] or f"{entry[0].st_mode:o}"[:-4] for path, entry in after.items() if path not in before}
    both = before.keys() & after.keys()
    return added, set(before) - set(after), {path for path in both if known(before[path]) != known(after[path])}


# Defects


#: Defects of the recorded drivers, by call: the defect, and the correct changes, which differ from the recorded ones by
#: these paths. ``+`` is added, ``-`` removed, ``~`` changed, ``!`` none of them.
WRONG: dict[str, tuple[str, tuple[str, ...]]] = {
    "local-clone-1": (
        "without the link, the layers of the disk could be opened only by the name of the disk",
        ("+h1:0/22/disk.9.snap/disk.9.snap",),
    ),
    "local-mvds-1": (
        "the disk stayed on the host, and the layers of the image could be opened only by the name of the image",
        (
            *("-h2:0/22/disk.2", "-h2:0/22/disk.2.snap", "-h2:0/22/disk.2.snap/0", "-h2:0/22/disk.2.snap/1"),
            *("-h2:0/22/disk.2.snap/3", "-h2:0/22/disk.2.snap/disk.2.snap"),
            "+fe:1/0f93e8c41f6d90da96f23c036dab29e5.snap/0f93e8c41f6d90da96f23c036dab29e5.snap",
        ),
    ),
    "qcow2-mvds_ssh-1": (
        "the link to a missing file stayed on the host",
        ("-h2:100/12/disk.1", "-h2:100/12/disk.1.snap", "-h2:100/12/disk.1.snap/disk.1.snap"),
    ),
    "shared-mvds_ssh-1": (
        "the link to a missing file stayed on the host",
        ("-h2:107/10/disk.2", "-h2:107/10/disk.2.snap", "-h2:107/10/disk.2.snap/disk.2.snap"),
    ),
    "ssh-mvds-1": (
        "the disk stayed on the host",
        (*("-h2:100/2/disk.2", "-h2:100/2/disk.2.snap", "-h2:100/2/disk.2.snap/0", "-h2:100/2/disk.2.snap/1"),),
    ),
    "qcow2-mvds-1": ("the link to the image stayed", ("-fe:104/8/disk.1",)),
    "shared-mvds-1": ("the link to the image stayed", ("-fe:102/4/disk.2",)),
    "shared-snap_revert-2": (
        "the link to the image became a file, so that the image kept its old data",
        ("!fe:102/4/disk.1", "~fe:103/fecddd87d03d1f9315f2ba29f570b11c"),
    ),
    "ssh-clone-1": ("a failed clone left the directory of the VM", ("!h1:100", "!h1:100/1", "!h1:100/.monitor")),
}


def corrected(name: str, added: Paths, removed: set[str], changed: set[str]) -> tuple[Paths, set[str], set[str]]:
    for sign, path in ((text[0], text[1:]) for text in WRONG.get(name, ("", ()))[1]):
        if sign == "+":
            added[path] = "." if os.path.basename(path) == os.path.basename(os.path.dirname(path)) else "100"
        elif sign == "!":
            added.pop(path, None)
            removed.discard(path)
            changed.discard(path)
        else:
            {"-": removed, "~": changed}[sign].add(path)
    return added, removed, changed


# Replaying


@pytest.fixture(scope="module")
def templates(cluster: Cluster) -> Mapping[str, Path]:
    """Return images of 64 MiB with little data, by their formats."""
    raw, qcow2 = cluster.root / "raw", cluster.root / "qcow2"
    with raw.open("wb") as file:
        for position in (0, 7 * MIB, 40 * MIB + 12288):
            file.seek(position)
            file.write(hashlib.shake_128(b"%d" % position).digest(98304))
        file.truncate(64 * MIB)
    shell("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2)
    return {"raw": raw, "qcow2": qcow2}


@pytest.fixture
def empty(cluster: Cluster) -> Iterator[Cluster]:
    cluster.clear()
    yield cluster


class Replay:
    """A recorded call, in a cluster with the files that the call needs."""

    def __init__(self, name: str, cluster: Cluster, templates: Mapping[str, Path]) -> None:
        self.name, self.cluster, self.templates = name, cluster, templates
        self.call = CALLS[name]
        self.action = self.call["action"].partition(".")[0]
        self.argv = [argument.replace("/var/lib/one/", f"{cluster.home}/") for argument in self.call["argv"]]
        self.diff = self.call["fs_diff"]
        self.vm = int(self.argv[-2])
        places = [one for one in self.argv[:-2] if one.partition(":")[0] in (FRONT_END, "h1", "h2", "h3")]
        self.disk = Disk(cluster, self.call, places[-1])
        self.elements: dict[str, object] = {"FORMAT": self.disk.format}
        if self.disk.image:
            self.elements["SOURCE"] = self.disk.image
        self.lcm_state = 0
        getattr(self, f"prepare_{self.action}")()
        cluster.server.vms[self.vm] = vm_document(
            self.vm, {max(self.disk.number, 0): self.elements}, lcm_state=self.lcm_state
        )
        cluster.own()
        self.before = look(cluster)

    def run(self) -> subprocess.CompletedProcess[str]:
        return self.cluster.call(self.call["driver"], self.call["action"], *self.argv)

    def _make_directory(self) -> None:
        directory = self.disk.path.parent
        if not any(path.endswith(f":{directory.parent.name}/{directory.name}") for path in self.diff["added"]):
            directory.mkdir(exist_ok=True)

    def prepare_clone(self) -> None:
        self._make_directory()
        source = self.argv[0].partition(":")[2]
        self.disk.format = "qcow2" if os.path.basename(source).startswith(QCOW2) else "raw"
        self.elements.update(FORMAT=self.disk.format, SOURCE=source)
        if self.name != "ssh-clone-1":
            shell("cp", self.templates[self.disk.format], self.cluster.path(FRONT_END, source))

    prepare_ln = prepare_clone

    def prepare_mvds(self) -> None:
        layers = {0: None, 1: 0, 3: 1}
        self.disk.write(self.templates, layers if self.disk.makes_layers else {0: None, 1: None})
        image = self.cluster.path(FRONT_END, self.argv[1])
        if not self.disk.is_linked:
            shell("cp", self.templates[self.disk.format], image)
        self.held = self.disk.contents()

    def prepare_cpds(self) -> None:
        self.disk.write(self.templates, {0: None, 1: 0, 2: 1} if self.disk.format == "qcow2" else {0: None, 1: None})
        self.held = self.disk.contents()

    def prepare_snap_create(self) -> None:
        is_layered = self.disk.format == "qcow2" and self.disk.makes_layers
        self.disk.write(self.templates, {0: None, 1: 0, 2: 1} if is_layered else {0: None, 1: None})
        self.held = self.disk.contents()

    def prepare_snap_delete(self) -> None:
        is_first = self.argv[1] == "0"
        if self.disk.format == "qcow2":
            self.disk.write(self.templates, {0: None, 1: 0, 3: 1} if is_first else {0: None, 1: 0, 2: 1, 3: 1})
        else:
            self.disk.write(self.templates, dict.fromkeys((0, 1) if is_first else (0, 1, 2)))
        self.held = self.disk.contents()

    def prepare_snap_revert(self) -> None:
        is_layered = self.disk.format == "qcow2" and self.disk.makes_layers
        self.disk.write(self.templates, {0: None, 1: 0, 2: 1, 3: 2} if is_layered else dict.fromkeys((0, 1, 2)))
        self.held = self.disk.contents()

    def prepare_context(self) -> None:
        self._make_directory()
        for argument in self.argv[:-3]:
            path = Path(os.path.normpath(argument.partition(":")[0]))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"content of {path.name}\n")
        if self.diff["changed"]:
            self.disk.path.write_bytes(bytes(380928))

    def prepare_mkimage(self) -> None:
        self._make_directory()
        blocks = [entry.get("blocks", 0) for entry in self.diff["added"].values()]
        self.elements.update(TYPE="fs", FORMAT=self.argv[1] if self.action == "mkimage" else "raw", SIZE=self.argv[0])
        if max(blocks, default=0) > 400:
            self.elements["FS"] = "ext4"

    prepare_mkswap = prepare_mkimage

    def prepare_delete(self) -> None:
        key = recorded_paths(self.call)[0]
        if self.disk.number < 0:
            self._write_recorded(key, self.diff["removed"])
        else:
            self.disk.path.parent.mkdir()
            self.disk.write(self.templates, {})

    def prepare_mv(self) -> None:
        key = recorded_paths(self.call)[0]
        machine, _colon, path = self.argv[0].partition(":")
        place = self.cluster.path(machine, path)
        if key in self.diff["removed"]:
            self._write_recorded(key, self.diff["removed"])
        elif place.name.startswith("disk."):
            place.parent.mkdir()
            shell("cp", self.templates["raw"], place)
        else:
            place.mkdir()
            shell("cp", self.templates["raw"], place / "disk.0")
        self.held = self.directory(place, machine) if not place.name.startswith("disk.") else {}

    def prepare_resize(self) -> None:
        if "live" in self.call["step"]:
            self.lcm_state = 62
        self.disk.write(self.templates, {})
        if self.name == "local-resize-1":
            shell("qemu-img", "resize", "-q", "-f", "raw", self.disk.path, "80M")
        self.held = self.disk.contents()

    def _write_recorded(self, key: str, paths: list[str]) -> None:
        """Write the files of a recorded VM directory."""
        machine, _colon, inner = key.partition(":")
        place = self.cluster.places()[FRONT_END if machine == "fe" else machine]
        mine = [path.partition(":")[2] for path in paths if is_relevant(path, [key])]
        (place / inner).mkdir()
        # The links that layers need come before the layers.
        for name in sorted(mine, key=lambda one: (one.count("/"), os.path.basename(one).isdigit(), one)):
            path = place / name
            layers = [
                int(one)
                for one in (os.path.basename(p) for p in mine if p.startswith(f"{name}.snap/"))
                if one.isdigit()
            ]
            if name == inner or name.endswith(".snap") and os.path.basename(os.path.dirname(name)) != path.name:
                path.mkdir(exist_ok=True)
            elif path.name.endswith(".snap"):
                path.symlink_to(".")
            elif path.name.isdigit():
                earlier = [int(p.name) for p in path.parent.iterdir() if p.name.isdigit()]
                if earlier:
                    overlay(path, f"{path.parent.name}/{max(earlier)}")
                    change(path, "qcow2", int(path.name) + 1)
                else:
                    shell("cp", self.templates["qcow2"], path)
            elif layers:
                path.symlink_to(f"{path.name}.snap/{max(layers)}")
            elif path.name.startswith("disk."):
                shell("cp", self.templates["raw"], path)
            else:
                path.write_text(f"<{path.name}/>")

    def directory(self, place: Path, machine: str) -> dict[str, object]:
        """Return the content of a VM directory."""
        found: dict[str, object] = {}
        for path in place.rglob("*"):
            name = str(path.relative_to(place))
            if path.name in OURS:
                continue
            if path.is_symlink() and not path.is_dir():
                found[name] = data(self.cluster, machine, self.cluster.inner(machine, path), "qcow2")
            elif path.is_file():
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found


@pytest.mark.parametrize("name", sorted(set(CALLS) - LIVE))
def test_a_recorded_call(name: str, empty: Cluster, templates: Mapping[str, Path]) -> None:
    replay = Replay(name, empty, templates)
    connections = empty.connections()
    done = replay.run()
    after = look(empty)
    made = {host: number - connections[host] for host, number in empty.connections().items()}
    assert (done.returncode == 0) == (replay.call["rc"] == 0), done.stderr
    assert done.stdout == replay.call["stdout"] == ""
    assert max(made.values()) <= 1, made
    expected = corrected(name, *expected_changes(replay.call))
    if replay.call["rc"]:
        (message,) = messages(done.stderr)
        assert os.path.basename(replay.argv[0]) in message
        assert changes(replay.before, after) == expected == ({}, set(), set())
        return
    assert messages(done.stderr) == []
    CHECKS.get(replay.action, check_changes)(replay, after, expected)
    check_files(empty)
    again = replay.run()
    assert again.returncode == 0, f"it can't be repeated: {again.stderr}"
    shapes = [{path: (entry[0].st_mode, entry[1]) for path, entry in one.items()} for one in (after, look(empty))]
    assert shapes[0] == shapes[1]


def check_changes(replay: Replay, after: Entries, expected: tuple[Paths, set[str], set[str]]) -> None:
    found = changes(replay.before, after)
    is_recorded = replay.name not in UNRECORDED and "h3:" not in " ".join(replay.call["argv"])
    if is_recorded or any(expected):
        assert found == expected
    for path, entry in after.items():
        recorded = replay.diff["added"].get(path)
        if recorded and path in expected[0] and recorded.get("size") == 64 * MIB:
            assert entry[0].st_size == 64 * MIB


def check_new_disk(replay: Replay, after: Entries, expected: tuple[Paths, set[str], set[str]]) -> None:
    check_changes(replay, after, expected)
    disk = replay.disk
    template = data(replay.cluster, FRONT_END, replay.templates[disk.format], disk.format)
    assert data(replay.cluster, disk.machine, replay.cluster.inner(disk.machine, disk.path), disk.format) == template
    if replay.call["driver"] in ("ssh", "local") or "." in replay.call["action"]:
        system = replay.call["action"].partition(".")[2] or replay.call["driver"]
        assert (disk.path.parent.parent / ".monitor").read_text() == f"{system}\n"
    else:
        assert not (disk.path.parent.parent / ".monitor").exists()


def check_mvds(replay: Replay, after: Entries, expected: tuple[Paths, set[str], set[str]]) -> None:
    check_changes(replay, after, expected)
    image = replay.cluster.path(FRONT_END, replay.argv[1])
    found = contents(replay.cluster, FRONT_END, image, image, replay.disk.format)
    if replay.disk.is_linked:  # the last layer has the data of the image
        found[""] = found.pop(max(found))
    assert found == replay.held


def check_cpds(replay: Replay, after: Entries, expected: tuple[Paths, set[str], set[str]]) -> None:
    check_changes(replay, after, expected)
    image = replay.cluster.path(FRONT_END, replay.argv[1])
    snapshot = "" if replay.argv[2] == "-1" else replay.argv[2]
    assert data(replay.cluster, FRONT_END, image, replay.disk.format) == replay.held[snapshot]
    described = json.loads(shell("qemu-img", "info", "--output=json", "-f", replay.disk.format, image))
    assert "backing-filename" not in described


def check_snap_create(replay: Replay, after: Entries, expected: tuple[Paths, set[str], set[str]]) -> None:
    check_changes(replay, after, expected)
    assert replay.disk.contents() == {**replay.held, replay.argv[1]: replay.held[""]}


def check_snap_delete(replay: Replay, after: Entries, expected: tuple[Paths, set[str], set[str]]) -> None:
    check_changes(replay, after, expected)
    held = dict(replay.held)
    del held[replay.argv[1]]
    assert replay.disk.contents() == held


def check_snap_revert(replay: Replay, after: Entries, expected: tuple[Paths, set[str], set[str]]) -> None:
    check_changes(replay, after, expected)
    assert replay.held[""] != replay.held[replay.argv[1]]
    assert replay.disk.contents() == {**replay.held, "": replay.held[replay.argv[1]]}


def check_context(replay: Replay, after: Entries, expected: tuple[Paths, set[str], set[str]]) -> None:
    check_changes(replay, after, expected)
    found = shell("xorriso", "-indev", replay.disk.path, "-pvd_info", "-find", "/", "-type", "f")
    assert "Volume Id    : CONTEXT" in found
    names = {one.partition(":")[2].strip("'") or os.path.basename(one) for one in replay.argv[:-3]}
    assert {line.strip("'/") for line in found.splitlines() if line.startswith("'/")} == names


def check_delete(replay: Replay, after: Entries, expected: tuple[Paths, set[str], set[str]]) -> None:
    added, removed, changed = expected
    # The recorded drivers left the layers of a removed disk.
    removed |= {path for path in replay.before if any(path.startswith(f"{one}.snap") for one in list(removed))}
    check_changes(replay, after, (added, removed, changed))


def check_mkimage(replay: Replay, after: Entries, expected: tuple[Paths, set[str], set[str]]) -> None:
    check_changes(replay, after, expected)
    image_format, path = replay.elements["FORMAT"], replay.disk.path
    described = json.loads(shell("qemu-img", "info", "--output=json", "-f", image_format, path))
    assert described["virtual-size"] == int(replay.argv[0]) * MIB
    if image_format == "raw":
        done = subprocess.run(
            ["blkid", "-p", "-o", "value", "-s", "TYPE", path], capture_output=True, text=True, check=False
        )
        assert done.stdout.strip() == ("swap" if replay.action == "mkswap" else replay.elements.get("FS", ""))


def check_mv(replay: Replay, after: Entries, expected: tuple[Paths, set[str], set[str]]) -> None:
    check_changes(replay, after, expected)
    if replay.held:
        machine, _colon, path = replay.argv[1].partition(":")
        place = replay.cluster.path(machine, path)
        assert replay.directory(place, machine) == replay.held
        if expected[0]:
            assert (place.parent / ".monitor").read_text() == "ssh\n"


def check_resize(replay: Replay, after: Entries, expected: tuple[Paths, set[str], set[str]]) -> None:
    check_changes(replay, after, expected)
    path = replay.cluster.inner(replay.disk.machine, replay.disk.path)
    size = ("qemu-img", "info", "--output=json", "-f", replay.disk.format, path)
    described = json.loads(replay.cluster.execute(replay.disk.machine, *size))
    assert described["virtual-size"] == (64 if replay.lcm_state else int(replay.argv[1])) * MIB
    if replay.lcm_state:
        assert replay.disk.contents() == replay.held


CHECKS: dict[str, Callable[[Replay, Entries, tuple[Paths, set[str], set[str]]], None]] = {
    "clone": check_new_disk,
    "ln": check_new_disk,
    "mvds": check_mvds,
    "cpds": check_cpds,
    "mv": check_mv,
    "snap_create": check_snap_create,
    "snap_delete": check_snap_delete,
    "snap_revert": check_snap_revert,
    "context": check_context,
    "delete": check_delete,
    "mkimage": check_mkimage,
    "mkswap": check_mkimage,
    "resize": check_resize,
}


def test_all_calls_are_here() -> None:
    assert {call["action"].partition(".")[0] for call in CALLS.values()} == set(CHECKS)
    assert {call["driver"] for call in CALLS.values()} == {"ssh", "local", "shared", "qcow2"}
    assert set(WRONG) <= set(CALLS)
