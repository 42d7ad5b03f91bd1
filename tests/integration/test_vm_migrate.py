# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_migrate between two hypervisors, one of which is the front-end; verified with virsh, qemu-io, qemu-img and SQLite.

The domains have no guest system: a running QEMU with disks is what libvirt migrates.
"""

from __future__ import annotations

import concurrent.futures
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    DependencyNotFound,
    InvalidInput,
    LibvirtFailed,
    TimedOut,
)
from migrating_vm import CATALOG, HOSTS, SIGNAL, STORE, Execute, Tasks, Vm
from refusal import require_failure
from running_disks import DOMAIN


@pytest.fixture
def execute(migration_execute: Execute) -> Execute:
    return migration_execute


@pytest.fixture
def tasks(migration_tasks: Tasks) -> Tasks:
    return migration_tasks


@pytest.fixture
def make(make_migrating: Callable[..., Vm]) -> Callable[..., Vm]:
    return make_migrating


#: Shell loops that wait for a state of the domain $0, for at most a minute.
MIGRATING = 'for i in $(seq 600); do virsh domjobinfo "$0" | grep -q "File processed" && exit; sleep 0.1; done; exit 1'
IDLE = 'for i in $(seq 600); do virsh domjobinfo "$0" | grep -q "Job type: *None" && exit; sleep 0.1; done; exit 1'


LAYERED = [{"image": "base", "attach": {}}, {"size": "16M", "format": "raw", "attach": {}}, {"size": "4M"}]
COPIED = [{"size": "16M", "format": "raw", "attach": {}}, {"size": "16M", "format": "qcow2", "attach": {}}]


#: The UEFI variables of a domain on its host.
VARIABLES = "/var/lib/libvirt/qemu/nvram/variables.fd"


def give_firmware(vm: Vm) -> None:
    """Give a domain a firmware, which is that of the BIOS, and variables that differ from those of a new domain."""
    for host, letter in zip(HOSTS, ("v", "n"), strict=True):
        files = (
            f"cp /usr/share/seabios/bios-256k.bin /srv/code.fd; head -c 64K /dev/zero | tr '\\0' {letter} >/srv/new.fd"
        )
        vm.run(host, "sh", "-ec", f"rm -f {VARIABLES}; {files}")
    firmware = "<loader readonly='yes' type='pflash'>/srv/code.fd</loader>"
    variables = f"<nvram template='/srv/new.fd'>{VARIABLES}</nvram>"
    text = vm.virsh("hv1", "dumpxml", "--inactive", "--security-info", vm.domain)
    definition = text.replace("hvm</type>", f"hvm</type>{firmware}{variables}")
    vm.run("hv1", "virsh", "define", "--validate", "/dev/stdin", stdin=definition)


@pytest.mark.parametrize(
    ("name", "disks", "options"), [("layered", LAYERED, {}), ("copied", COPIED, {"datastore": "copied"})]
)
def test_a_running_vm_migrates_with_its_disks_there_and_back(
    make: Callable[..., Vm], tasks: Tasks, name: str, disks: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    vm = make(name, disks, start=False, **options)
    give_firmware(vm)
    vm.virsh("hv1", "start", name)
    vm.virsh("hv1", "autostart", name)
    snapshot = {"vm": name, "disk": 0, "name": "before"}
    [taken] = tasks(("vm_disk_snapshot", snapshot, False))
    assert taken["changed"], taken
    definition = vm.definition("hv1")
    there = {"vm": name, "host": "hv2"}
    results = tasks(*(("vm_migrate", there, check) for check in (True, False, False, True)))
    assert [one.get("msg") for one in results] == [None] * 4
    foreseen, done = results[:2]
    assert foreseen["actions"] == done["actions"]
    [action] = done["actions"]
    assert (action["name"], action["before"]) == ("migrate VM", {"host": "hv1"})
    assert (action["after"]["host"], action["after"]["mode"]) == ("hv2", "live")
    assert (done["host"], done["mode"], [disk["disk"] for disk in done["disks"]]) == (
        "hv2",
        "live",
        [*range(len(disks))],
    )
    assert done["bytes"] == sum(disk["bytes"] for disk in done["disks"]) > 0
    assert [(one["changed"], one["host"], one["mode"]) for one in results[2:]] == [(False, "hv2", None)] * 2
    vm.require_on("hv2")
    assert vm.definition("hv2") == definition
    assert vm.has_autostart("hv2")
    assert set(vm.run("hv2", "cat", VARIABLES)) == {"v"}
    formats = ["qcow2", "raw", "raw"] if name == "layered" else ["raw", "qcow2"]
    for number in range(len(disks)):
        vm.require_data("hv2", number, formats[number])
    layers = vm.run("hv2", "ls", f"{vm.directory}/disk.0.snap").split()
    assert set(layers) >= ({"0", "1"} if name == "layered" else {"0"})
    back = vm.migrate("hv1")
    assert back["changed"], back
    vm.require_on("hv1")
    for number in range(len(disks)):
        vm.require_data("hv1", number, formats[number])
    vm.virsh("hv1", "destroy", name)
    vm.run("hv1", "qemu-io", "-f", formats[0], "-c", "write -P 1 1M 64k", f"{vm.directory}/disk.0")
    [reverted] = tasks(("vm_disk_snapshot", {**snapshot, "state": "reverted"}, False))
    assert reverted["changed"], reverted
    vm.require_data("hv1", 0, formats[0])


def test_a_vm_that_is_off_migrates_with_its_definition(make: Callable[..., Vm], tasks: Tasks) -> None:
    vm = make("cold", LAYERED, start=False)
    vm.virsh("hv1", "autostart", "cold")
    definition = vm.definition("hv1")
    require_failure(
        vm.migrate("hv2", mode="live"),
        Conflict,
        says="mode: the VM 'cold' does not run on the host 'hv1', so it can't migrate live: start it, or use "
        "mode=cold.",
    )
    there = {"vm": "cold", "host": "hv2"}
    results = tasks(*(("vm_migrate", there, check) for check in (True, False, False, True)))
    assert [one.get("msg") for one in results] == [None] * 4
    assert results[0]["actions"] == results[1]["actions"] != []
    assert [one["changed"] for one in results] == [True, True, False, False]
    assert results[1]["mode"] == "cold"
    vm.require_on("hv2", "shut off")
    assert vm.definition("hv2") == definition
    assert vm.has_autostart("hv2")
    for number, image_format in enumerate(["qcow2", "raw", "raw"]):
        vm.require_data("hv2", number, image_format)
    vm.virsh("hv2", "start", "cold")
    require_failure(
        vm.migrate("hv1", mode="cold"),
        Conflict,
        says="mode: the VM 'cold' runs on the host 'hv2', so it can't migrate cold: shut it down, or use mode=live.",
    )
    vm.require_on("hv2")


def test_everything_that_prevents_a_migration_is_named_at_once(make: Callable[..., Vm], execute: Execute) -> None:
    vm = make("kept", COPIED, datastore="copied")
    execute(
        "hv1",
        "sh",
        "-c",
        "qemu-img create -q -f raw /srv/own 1M; echo cd > /srv/cd.iso; chmod 666 /srv/own /srv/cd.iso",
    )
    attach = ["attach-disk", "kept", "/srv/own", "vdc", "--sourcetype", "file", "--subdriver", "raw", "--live"]
    vm.virsh("hv1", *attach)
    cdrom = [
        "attach-disk",
        "kept",
        "/srv/cd.iso",
        "vdd",
        "--sourcetype",
        "file",
        "--subdriver",
        "raw",
        "--mode",
        "readonly",
    ]
    vm.virsh("hv1", *cdrom, "--live")
    execute("hv1", "ip", "link", "add", "brtest", "type", "bridge")
    vm.virsh("hv1", "attach-interface", "kept", "bridge", "brtest", "--model", "virtio", "--live")
    vm.virsh("hv1", "checkpoint-create-as", "kept", "point", "--diskspec", "vdb", "--diskspec", "vda,checkpoint=no")
    execute("hv2", "virsh", "define", "/dev/stdin", stdin=DOMAIN.format("kept", "", ""))
    before = vm.virsh("hv1", "dumpxml", "kept")
    try:
        uuid = execute("hv2", "virsh", "domuuid", "kept").strip()
        for check in (True, False):
            require_failure(
                vm.migrate("hv2", check=check),
                Conflict,
                says="vm: 'kept' can't migrate from the host 'hv1' to 'hv2'. "
                "On the host hv1: The domain 'kept' has the checkpoints point: remove them with 'virsh "
                "checkpoint-delete'. "
                "On the host hv1: The disk 'vdc' is the file /srv/own, which is no disk of the VM in the catalog, so "
                "its data would stay behind. "
                f"On the host hv2: Another domain has the name 'kept' there (UUID {uuid}). "
                "On the host hv2: The bridge or network device 'brtest' does not exist there. "
                "On the host hv2: The file /srv/cd.iso of the domain does not exist there. "
                "On the host hv2: The file /srv/own of the domain does not exist there.",
            )
        assert vm.virsh("hv1", "dumpxml", "kept") == before
        assert (vm.state("hv1"), vm.exists("hv2"), vm.recorded_host()) == ("running", False, "hv1")
    finally:
        execute("hv2", "virsh", "undefine", "kept")
        vm.virsh("hv1", "checkpoint-delete", "kept", "point")
        vm.virsh("hv1", "destroy", "kept")
        execute("hv1", "ip", "link", "delete", "brtest")


def test_shared_storage_must_be_the_same_directory(make: Callable[..., Vm]) -> None:
    vm = make("shared", [{"size": "4M", "format": "raw", "attach": {}}], datastore="same")
    require_failure(vm.migrate("hv2"), Conflict, names=["is not the same directory on the host hv2", vm.directory])
    assert (vm.state("hv1"), vm.state("hv2"), vm.recorded_host()) == ("running", "", "hv1")


@pytest.fixture
def common(execute: Execute, tmp_path: Path) -> Iterator[None]:
    """Mount one block device as the datastore ``copied`` of both hosts, which have the kernel of this machine."""
    subprocess.run(["mke2fs", "-q", "-t", "ext4", tmp_path / "store", "64M"], check=True)
    losetup = ["losetup", "--find", "--show", tmp_path / "store"]
    device = subprocess.run(losetup, check=True, capture_output=True, text=True).stdout.strip()
    mount = '[ -e "$0" ] || mknod "$0" b 7 "${0#/dev/loop}"; mkdir -p "$1"; mount "$0" "$1"'
    known = 'echo "shared_filesystems = [ \\"$0\\" ]" >>/etc/libvirt/qemu.conf; systemctl restart libvirtd'
    try:
        for host in HOSTS:
            execute(host, "sh", "-ec", mount, device, f"{STORE}/100")
            execute(host, "sh", "-ec", known, f"{STORE}/100")
        yield
    finally:
        for host in HOSTS:
            execute(host, "sh", "-c", f"umount {STORE}/100; sed -i /^shared_/d /etc/libvirt/qemu.conf", check=False)
            execute(host, "systemctl", "restart", "libvirtd")
        subprocess.run(["losetup", "--detach", device], check=True)


def test_a_datastore_of_copies_that_both_hosts_have(common: None, make: Callable[..., Vm]) -> None:
    """libvirt must not copy a disk onto itself. The driver ssh has copies on its hosts."""
    vm = make("common", [{"size": "16M", "format": "raw", "attach": {}}], datastore="copied")
    files = vm.run("hv1", "ls", "-iR", vm.directory)
    try:
        for source, target in (HOSTS, HOSTS[::-1]):
            result = vm.migrate(target)
            assert result.get("changed"), result
            assert (vm.state(source), vm.state(target), vm.recorded_host()) == ("", "running", target)
            assert {vm.run(host, "ls", "-iR", vm.directory) for host in HOSTS} == {files}
        vm.virsh("hv1", "destroy", "common")
        assert vm.migrate("hv2").get("mode") == "cold"
        assert (vm.state("hv1"), vm.state("hv2"), vm.recorded_host()) == ("", "shut off", "hv2")
        assert {vm.run(host, "ls", "-iR", vm.directory) for host in HOSTS} == {files}
        vm.require_data("hv2", 0, "raw")
    finally:
        for host in HOSTS:
            vm.virsh(host, "destroy", "common", check=False)


@pytest.mark.parametrize("option", [{"timeout": 0}, {"bandwidth": 0}, {"host": "-x"}])
def test_values_that_are_not_accepted(tasks: Tasks, option: dict[str, Any]) -> None:
    [result] = tasks(("vm_migrate", {"vm": "none", "host": "hv2", **option}, False))
    require_failure(result, InvalidInput, option=next(iter(option)))


def test_a_vm_that_does_not_exist(tasks: Tasks) -> None:
    [result] = tasks(("vm_migrate", {"vm": "none", "host": "hv2"}, False))
    require_failure(result, DependencyNotFound, names=["'none'", CATALOG])


@pytest.fixture
def slow(make: Callable[..., Vm]) -> Vm:
    """Return a running VM whose disk takes a minute at the lowest bandwidth."""
    vm = make("slow", [{"size": "64M", "format": "raw", "attach": {}}], datastore="copied", start=False)
    vm.write("hv1", 0, "raw", "0 64M")
    vm.virsh("hv1", "start", "slow")
    return vm


def test_a_migration_that_takes_too_long_is_stopped(slow: Vm) -> None:
    require_failure(
        slow.migrate("hv2", bandwidth=1, timeout=3),
        TimedOut,
        says="The migration of the domain 'slow' did not end within 3 seconds and was stopped.",
    )
    slow.require_on("hv1")
    slow.require_data("hv1", 0, "raw", "0 64M")
    assert slow.migrate("hv2")["changed"]
    slow.require_on("hv2")
    slow.require_data("hv2", 0, "raw", "0 64M")


def during(vm: Vm, source: str, target: str, action: Callable[[], object]) -> concurrent.futures.Future[dict[str, Any]]:
    """Migrate slowly, do something in the middle, and return the ended call of the module."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(vm.migrate, target, bandwidth=1)
        try:
            vm.run(source, "sh", "-c", MIGRATING, vm.name, deadline=120)
        finally:
            action()
    return running


def test_an_error_of_libvirt_leaves_the_guest_where_it_is(slow: Vm) -> None:
    result = during(slow, "hv1", "hv2", lambda: slow.run("hv2", "pkill", "-9", "qemu-system")).result()
    require_failure(result, LibvirtFailed, names=["libvirt could not migrate the domain 'slow' to hv2: "])
    slow.require_on("hv1")
    slow.require_data("hv1", 0, "raw", "0 64M")


@pytest.mark.parametrize("source", HOSTS)
def test_after_a_kill_the_next_run_migrates(slow: Vm, source: str) -> None:
    [target] = set(HOSTS) - {source}
    if source == "hv2":
        assert slow.migrate("hv2")["changed"]
    kill = ["python3", "-c", SIGNAL, f"{CATALOG}.vms.lock", "SIGKILL"]
    killed: list[str] = []
    during(slow, source, target, lambda: killed.extend(slow.run("hv1", *kill).split()))
    assert killed
    slow.run(source, "sh", "-c", IDLE, "slow", deadline=120)
    result = slow.migrate(target)
    assert result.get("changed"), result
    slow.require_on(target)
    slow.require_data(target, 0, "raw", "0 64M")


def test_after_a_kill_before_the_record_the_next_run_records(slow: Vm, tasks: Tasks) -> None:
    assert slow.migrate("hv2")["changed"]
    program = (
        "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1]) as catalog:\n"
        "    catalog.execute(\"UPDATE vm SET host = 'hv1' WHERE name = 'slow'\")"
    )
    slow.run("hv1", "python3", "-c", program, CATALOG)
    slow.run("hv2", "touch", f"{slow.directory}/.migrating")
    there = {"vm": "slow", "host": "hv2"}
    results = tasks(*(("vm_migrate", there, check) for check in (True, False, False, True)))
    assert [[action["name"] for action in one["actions"]] for one in results] == [["finish migration of VM"]] * 2 + [
        []
    ] * 2
    slow.require_on("hv2")
    slow.require_data("hv2", 0, "raw", "0 64M")
