# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The actions of transfer drivers around a live migration, as a front-end calls them, with real hosts. The tests write
to placeholders as libvirt does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import stat
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from transfer_cluster import FRONT_END, OWN, OWNER, Cluster, messages, shell, vm_document

MIB = 2**20
CALLS = {
    path.stem.removeprefix("tm-"): json.loads(path.read_text())
    for path in sorted((Path(__file__).parent / "driver_calls").glob("tm-*migrate-*.json"))
}
MARK = ".migrating"
VM = 7

#: The formats of the disks of the VM whose document the tests write.
FORMATS = {0: "raw", 1: "qcow2"}
DOCUMENT = {0: {"SIZE": 16}, 1: {"FORMAT": "qcow2", "SIZE": 16}, 2: {"TYPE": "CDROM", "READONLY": "YES"}}


class Vm:
    """A VM whose directory is on the host ``source``, and will be on ``target``."""

    def __init__(
        self, cluster: Cluster, driver: str, directory: Path, *, source: str = "h1", target: str = "h2", vm: int = VM
    ) -> None:
        self.cluster, self.driver, self.directory, self.vm = cluster, driver, directory, vm
        self.source, self.target = source, target
        self.formats: Mapping[int, str] = FORMATS
        self.xml = vm_document(vm, DOCUMENT, state=3, lcm_state=4, HOSTNAME=target)

    def path(self, host: str) -> Path:
        """Return the directory on a host, as the test reaches it."""
        return self.cluster.path(host, self.directory)

    def write(self) -> None:
        """Write the directory at the source: disks with snapshots, qcow2 ones in layers if the driver makes layers."""
        place = self.path(self.source)
        place.mkdir()
        for number, image_format in self.formats.items():
            disk = place / f"disk.{number}"
            snapshots = Path(f"{disk}.snap")
            if image_format == "qcow2" and self.driver != "ssh":
                snapshots.mkdir()
                (snapshots / snapshots.name).symlink_to(".")
                new(snapshots / "0", "qcow2", 1)
                backing = ("-b", f"{snapshots.name}/0", "-F", "qcow2", "-u")
                shell("qemu-img", "create", "-q", "-f", "qcow2", *backing, snapshots / "2", "16M")
                disk.symlink_to(f"{snapshots.name}/2")
                write(disk, "qcow2", 2)
            else:
                new(disk, image_format, 2)
                snapshots.mkdir()
                new(snapshots / "0", image_format, 1)
        (place / f"disk.{max(self.formats) + 1}").write_bytes(os.urandom(300 << 10))
        (place / "vm.xml").write_text("<vm/>")
        self.cluster.own()

    def call(self, action: str, *more: str, vm: object = None, xml: bytes | None = None) -> list[str]:
        """Run an action, and return the lines of its messages."""
        done = self.run(action, *more, vm=vm, xml=xml)
        assert done.stdout == ""
        assert (done.returncode == 0) == (messages(done.stderr) == []), done.stderr
        return messages(done.stderr)

    def run(
        self, action: str, *more: str, vm: object = None, xml: bytes | None = None
    ) -> subprocess.CompletedProcess[str]:
        arguments = (self.source, self.target, self.directory, vm or self.vm, self.directory.parent.name, *more)
        stdin = base64.encodebytes(xml or self.xml.encode())
        return self.cluster.call(self.driver, action, *arguments, stdin=stdin)

    def copy(self) -> None:
        """Write to the placeholders at the target as libvirt does."""
        for number, image_format in self.formats.items():
            source, target = (self.path(host) / f"disk.{number}" for host in (self.source, self.target))
            inode = target.stat().st_ino
            if image_format == "raw":
                shell("cp", "--sparse=always", source, target)
            else:
                write(target, "qcow2", 2)
                if self.driver == "ssh":
                    shell("qemu-img", "convert", "-n", "-f", "qcow2", "-O", "qcow2", source, target)
            assert target.stat().st_ino == inode

    def data(self, host: str) -> dict[str, str]:
        """Return digests of the guest's view of each disk and snapshot, and of the other files."""
        place, found = self.path(host), {}
        for path in sorted(place.rglob("*")):
            if path.name.startswith(".") or path.is_dir():
                continue
            name = str(path.relative_to(place))
            number = re.match(r"disk\.([0-9]+)", name)
            image_format = self.formats.get(int(number[1])) if number else None
            if image_format is None:
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                # Backing names are those in the VM directory, for a layer that is opened by the name of the disk.
                options = f"driver={image_format},file.driver=file,file.filename={path}"
                raw = self.cluster.root / "view"
                shell("qemu-img", "convert", "-U", "--image-opts", "-O", "raw", options, raw)
                found[name] = hashlib.sha256(raw.read_bytes()).hexdigest()
        return found


def new(path: Path, image_format: str, seed: int) -> None:
    shell("qemu-img", "create", "-q", "-f", image_format, path, "16M")
    write(path, image_format, seed)


def write(path: Path, image_format: str, seed: int) -> None:
    shell("qemu-io", "-f", image_format, "-c", f"write -P {seed} {seed}M 64k", path)


def shape(place: Path) -> dict[str, tuple[object, ...]]:
    """Return what distinguishes every file of a directory, by its path."""
    found: dict[str, tuple[object, ...]] = {}
    for path in place.rglob("*") if place.exists() else ():
        status = path.lstat()
        if path.name != ".disks.lock":
            target = os.readlink(path) if path.is_symlink() else ""
            size = status.st_size if stat.S_ISREG(status.st_mode) else 0
            found[str(path.relative_to(place))] = (status.st_mode, status.st_uid, target, size)
    return found


@pytest.fixture(params=["ssh", "local"])
def vm(cluster: Cluster, request: pytest.FixtureRequest) -> Vm:
    """Return a VM of a driver with its own directories on each host."""
    return new_vm(cluster, request.param)


def new_vm(cluster: Cluster, driver: str, datastore: str = "100") -> Vm:
    cluster.clear()
    found = Vm(cluster, driver, cluster.datastores / datastore / str(VM))
    found.write()
    return found


def recorded(cluster: Cluster, name: str) -> Vm:
    """Return the VM of a recorded call."""
    call = CALLS[name]
    source, target, directory, number, _datastore = call["argv"]
    place = Path(os.path.normpath(directory.replace("/var/lib/one/", f"{cluster.home}/")))
    vm = Vm(cluster, call["driver"], place, source=source, target=target, vm=int(number))
    vm.xml = call["stdin_xml"]
    disks = re.findall(r"<DISK>.*?</DISK>", vm.xml, re.DOTALL)
    numbers = [int(re.findall(r"<DISK_ID><!\[CDATA\[([0-9]+)", disk)[0]) for disk in disks]
    vm.formats = dict(zip(numbers, (re.findall(r"<FORMAT><!\[CDATA\[(\w+)", disk)[0] for disk in disks), strict=True))
    return vm


@pytest.mark.parametrize("name", CALLS)
def test_a_recorded_call(name: str, cluster: Cluster) -> None:
    call = CALLS[name]
    cluster.clear()
    vm = recorded(cluster, name)
    vm.write()
    is_own = vm.directory.parent.name in OWN
    before, held = cluster.entries(), vm.data(vm.source)
    if call["action"] != "premigrate":
        assert vm.call("premigrate") == []
    if call["action"] == "postmigrate" and is_own:
        vm.copy()
    connections = cluster.connections()
    done = vm.run(call["action"])
    assert (done.returncode, done.stdout) == (call["rc"], call["stdout"]) == (0, ""), done.stderr
    assert messages(done.stderr) == []
    made = [number - connections[host] for host, number in cluster.connections().items()]
    assert max(made) <= 1
    after = cluster.entries()
    if call["action"] != "premigrate" and is_own:
        gone, other = (vm.source, vm.target) if call["action"] == "postmigrate" else (vm.target, vm.source)
        assert not vm.path(gone).exists()
        assert vm.data(other) == held
    elif is_own:
        check_prepared(vm)
        assert vm.data(vm.source) == held
    else:
        assert after.keys() - before.keys() <= {f"fe:{vm.directory.parent.name}/{vm.vm}/.disks.lock"}
        assert before.keys() <= after.keys() and vm.data(vm.source) == held
    assert vm.call(call["action"]) == []
    assert cluster.entries().keys() == after.keys()


def check_prepared(vm: Vm) -> None:
    """Require that the target has all of the source but the data that libvirt copies."""
    source, target = vm.path(vm.source), vm.path(vm.target)
    there, own = shape(target), shape(source)
    assert there.pop(MARK)
    assert there.keys() == own.keys()
    active = {str(Path(os.path.realpath(source / f"disk.{one}")).relative_to(source)) for one in vm.formats}
    for name, found in own.items():
        if name in active:
            sparse = target / name
            image_format = vm.formats[int(re.findall("[0-9]+", name)[0])]
            info = [
                json.loads(shell("qemu-img", "info", "-U", "--output=json", "-f", image_format, place / name))
                for place in (source, target)
            ]
            for key in ("virtual-size", "backing-filename", "backing-filename-format"):
                assert info[0].get(key) == info[1].get(key)
            assert sparse.stat().st_blocks * 512 < MIB
            assert there[name][1] == OWNER[0]
        else:
            assert there[name] == found
            if stat.S_ISREG(found[0]):  # type: ignore[arg-type]
                assert (source / name).read_bytes() == (target / name).read_bytes()
    assert (target.parent / ".monitor").read_text() == f"{vm.driver}\n"


def test_a_migration_there_and_back(vm: Vm) -> None:
    held = vm.data("h1")
    for _way in range(2):
        assert vm.call("premigrate") == []
        vm.copy()
        assert vm.call("postmigrate") == []
        assert not vm.path(vm.source).exists()
        assert vm.data(vm.target) == held
        assert MARK not in shape(vm.path(vm.target))
        vm.source, vm.target = vm.target, vm.source


def test_a_directory_that_was_not_prepared_is_never_abandoned(vm: Vm) -> None:
    shell("cp", "-a", vm.path("h1"), vm.path("h2"))
    assert vm.call("failmigrate") == []
    assert shape(vm.path("h2")) == shape(vm.path("h1"))


@pytest.mark.parametrize("action", ["premigrate", "failmigrate"])
def test_remains_of_a_killed_migration_from_another_host(vm: Vm, action: str) -> None:
    """A front-end was killed after it had prepared h2 for a VM of h1. Meanwhile the VM is on h3."""
    held = vm.data("h1")
    assert vm.call("premigrate") == []
    (vm.path("h2") / "disk.9").touch()
    vm.path("h3").parent.mkdir(exist_ok=True)
    shell("mv", vm.path("h1"), vm.path("h3"))
    vm.source = "h3"
    assert vm.call(action) == []
    if action == "failmigrate":
        assert not vm.path("h2").exists()
        assert vm.data("h3") == held
        return
    check_prepared(vm)
    vm.copy()
    assert vm.call("postmigrate") == []
    assert not vm.path("h3").exists()
    assert vm.data("h2") == held


def test_disks_that_did_not_arrive(vm: Vm) -> None:
    """The source keeps the only copy of the data."""
    held = vm.data("h1")
    assert vm.call("premigrate") == []
    (message,) = vm.call("postmigrate")
    assert message == f"On the host h1: {vm.directory}/disk.0 is kept, because its copy in {vm.directory} has no data."
    vm.copy()
    missing = vm.path("h2") / "disk.1"
    missing.rename(missing.parent / "moved")
    (message,) = vm.call("postmigrate")
    assert message == f"On the host h1: on the host h2: The disk {vm.directory}/disk.1 does not exist."
    assert vm.data("h1") == held


def test_an_empty_disk_at_both_hosts(vm: Vm) -> None:
    for path in (vm.path("h1") / "disk.0", vm.path("h1") / "disk.1"):
        os.truncate(path, 0) if vm.formats[int(path.name[-1])] == "raw" else None
    os.truncate(vm.path("h1") / "disk.0", 16 * MIB)
    assert vm.call("premigrate") == []
    write(vm.path("h2") / "disk.1", "qcow2", 2)
    assert vm.call("postmigrate") == []
    assert not vm.path("h1").exists()


@pytest.mark.parametrize("action", ["postmigrate", "failmigrate"])
def test_files_in_use(vm: Vm, action: str, opened_by_qemu: Callable[..., None]) -> None:
    assert vm.call("premigrate") == []
    vm.copy()
    host = "h1" if action == "postmigrate" else "h2"
    opened_by_qemu(vm.path(host) / "disk.0", "-f", "raw")
    (message,) = vm.call(action)
    assert f"{vm.directory}/disk.0" in message
    assert vm.data("h1") == vm.data("h2")


def test_a_running_vm(vm: Vm, opened_by_qemu: Callable[..., None]) -> None:
    opened_by_qemu(vm.path("h1") / "disk.0", "-f", "raw")
    opened_by_qemu(vm.path("h1") / "disk.1", "-f", "qcow2")
    assert vm.call("premigrate") == []
    check_prepared(vm)


def test_a_directory_that_both_hosts_have(cluster: Cluster) -> None:
    """A datastore of the driver ssh is on a shared file system."""
    vm = new_vm(cluster, "ssh", "102")
    held, before = vm.data("h1"), shape(vm.path("h1"))
    for action in ("premigrate", "failmigrate", "premigrate", "postmigrate"):
        assert vm.call(action) == []
        assert (vm.data("h1"), shape(vm.path("h1"))) == (held, before)
    cluster.server.vms[VM] = vm.xml
    for origin, target in (("h1", "h2"), ("h1", FRONT_END), (FRONT_END, "h1")):
        done = cluster.call("ssh", "mv", f"{origin}:{vm.directory}", f"{target}:{vm.directory}", VM, 102)
        assert (done.returncode, messages(done.stderr)) == (0, [])
        assert (vm.data("h1"), shape(vm.path("h1"))) == (held, before)


@pytest.mark.parametrize("has_other", [False, True])
def test_a_shared_datastore_that_is_not_mounted(cluster: Cluster, has_other: bool) -> None:
    vm = new_vm(cluster, "shared", "100")
    if has_other:
        shell("cp", "-a", vm.path("h1"), vm.path("h2"))
    before = cluster.entries().keys()
    (message,) = vm.call("premigrate")
    assert message == (
        f"On the host h1: {vm.directory} is not the same directory on the host h2, so the VM can't migrate to h2: "
        "mount the datastore there."
    )
    assert cluster.entries().keys() - before <= {f"h1:100/{VM}/.disks.lock"}


@pytest.mark.parametrize("driver", ["ssh", "local", "shared"])
def test_a_live_move_to_another_datastore(cluster: Cluster, driver: str) -> None:
    """The hypervisor copies everything. The old directory goes after the move."""
    vm = new_vm(cluster, driver, "102" if driver == "shared" else "100")
    other = "104" if driver == "shared" else "107"
    held = vm.data("h1")
    vm.target = "h1"
    origin, vm.directory = vm.directory, cluster.datastores / other / str(VM)
    history = "<HISTORY_RECORDS>"
    older = f"<HISTORY><DS_ID>{origin.parent.name}</DS_ID></HISTORY>"
    cluster.server.vms[VM] = vm.xml.replace(history, history + older)
    assert vm.call("premigrate") == []
    assert not vm.path("h1").exists()
    (message,) = vm.call("postmigrate")
    assert message == f"On the host h1: The VM directory {vm.directory} does not exist."
    assert cluster.path("h1", origin).exists()
    shell("cp", "-a", cluster.path("h1", origin), vm.path("h1"))
    assert vm.call("postmigrate") == []
    assert not cluster.path("h1", origin).exists()
    assert vm.data("h1") == held
    assert vm.call("postmigrate") == []


def test_a_vm_that_stays(vm: Vm) -> None:
    vm.target = "h1"
    before = shape(vm.path("h1"))
    vm.cluster.server.vms[VM] = vm.xml
    for action in ("premigrate", "failmigrate", "postmigrate"):
        assert vm.call(action) == []
    assert shape(vm.path("h1")) == before


def test_other_transfer_drivers(vm: Vm) -> None:
    """The script of the system datastore's driver calls those of the other drivers of the VM's disks."""
    theirs = vm.cluster.remotes / "tm" / "mine"
    theirs.mkdir()
    called = vm.cluster.root / "called"
    called.mkdir(mode=0o777)
    called.chmod(0o777)
    script = f'#!/bin/sh\nbase64 -d >"{called}/${{0##*/}}"; echo "$@" >>"{called}/${{0##*/}}"; ls "{vm.path("h1")}" '
    try:
        for action in ("premigrate", "postmigrate"):
            (theirs / action).write_text(f'{script} >>"{called}/{action}"; [ ! -e "{called}/fail" ]\n')
            (theirs / action).chmod(0o755)
        disks = {**DOCUMENT, 5: {"TYPE": "BLOCK", "TM_MAD": "mine"}, 6: {"TYPE": "BLOCK", "TM_MAD": "../mine"}}
        vm.xml = vm_document(VM, disks, state=3, lcm_state=4, HOSTNAME="h2")
        for action in ("premigrate", "failmigrate", "premigrate"):
            assert vm.call(action) == []
        vm.copy()
        (called / "fail").touch()
        (message,) = vm.call("postmigrate")
        assert f"{theirs}/postmigrate" in message and vm.path("h1").exists()
        (called / "fail").unlink()
        assert vm.call("postmigrate") == []
        for action in ("premigrate", "postmigrate"):
            assert (called / action).read_text().startswith(f"{vm.xml}h1 h2 {vm.directory} {VM} 100 {vm.driver}\n")
            assert "disk.0" in (called / action).read_text(), "the source was removed before"
    finally:
        shell("rm", "-r", theirs, called)


def test_a_call_by_another_driver(vm: Vm) -> None:
    """The directory is that of the other driver."""
    before = vm.cluster.entries().keys()
    for action in ("premigrate", "postmigrate", "failmigrate"):
        assert vm.call(action, "mine") == []
    assert vm.cluster.entries().keys() == before


def test_a_vm_without_a_directory(vm: Vm) -> None:
    shell("rm", "-r", vm.path("h1"))
    before = vm.cluster.entries().keys()
    for action in ("premigrate", "failmigrate"):
        assert vm.call(action) == []
    assert vm.cluster.entries().keys() == before


def test_bad_input(cluster: Cluster) -> None:
    vm = new_vm(cluster, "ssh")
    before = cluster.entries().keys()
    xml = vm.xml.encode()
    for parts, number, document in (
        (["vm_id: 8 ", "the id of the VM on standard input is expected, 7"], 8, xml),
        (["standard input"], None, b"<VM>"),
        (["standard input"], None, b"<VM>" + b" " * (100 << 20) + b"</VM>"),
        (["FORMAT"], None, xml.replace(b"<FORMAT>qcow2</FORMAT>", b"")),
        (["format: 'vmdk' ", "raw or qcow2 is expected"], None, xml.replace(b"qcow2", b"vmdk")),
        ([f"The disk {vm.directory}/disk.9 does not exist"], None, xml.replace(b"<DISK_ID>1<", b"<DISK_ID>9<")),
    ):
        (message,) = vm.call("premigrate", vm=number, xml=document)
        assert [part for part in parts if part not in message] == []
    for target in ("-oProxyCommand=id", "dead"):
        vm.target = target
        (message,) = vm.call("premigrate")
        assert target in message
    assert cluster.entries().keys() - before <= {f"h1:100/{VM}/.disks.lock"}
