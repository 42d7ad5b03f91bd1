# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_migrate between two hypervisors, one of which is the front-end; verified with virsh, qemu-io, qemu-img and SQLite.

The domains have no guest system: a running QEMU with disks is what libvirt migrates.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    DependencyNotFound,
    InvalidInput,
    LibvirtFailed,
    TimedOut,
)
from lab import Lab
from refusal import require_failure
from running_disks import DOMAIN, LIBRARY, PORT

Execute = Callable[..., str]
Tasks = Callable[..., list[dict[str, Any]]]

HOSTS = ("hv1", "hv2")
STORE = "/var/lib/one/datastores"
CATALOG = "/var/lib/one/vmstore/catalog.sqlite"

#: Program that kills the process with the locks of VMs, which is the module, and waits for its end.
KILL = """
import glob, os, signal, sys, time
for link in glob.glob("/proc/[0-9]*/fd/*"):
    try:
        if os.readlink(link) == sys.argv[1]:
            process = int(link.split("/")[2])
            os.kill(process, signal.SIGKILL)
            print(process)
    except OSError:
        pass
"""

#: Program that runs a check of a host: its standard input has the name and the arguments of the check.
CHECK = """
import json, sys
from ansible_collections.granary.vmstore.plugins.module_utils._core.plain import to_plain
from ansible_collections.granary.vmstore.plugins.module_utils._driver.transfer.domain_migration_protocol import (
    KINDS, perform)
from ansible_collections.granary.vmstore.plugins.module_utils._remote.wire import decode
name, *arguments = decode(sys.stdin.readline(), KINDS)
print(json.dumps(to_plain(perform(name, *arguments, log=print))))
"""

#: Shell loops that wait for a state of the domain $0, for at most a minute.
MIGRATING = 'for i in $(seq 600); do virsh domjobinfo "$0" | grep -q "File processed" && exit; sleep 0.1; done; exit 1'
IDLE = 'for i in $(seq 600); do virsh domjobinfo "$0" | grep -q "Job type: *None" && exit; sleep 0.1; done; exit 1'


@pytest.fixture(scope="module")
def lab(lab_factory: Callable[[dict[str, Any]], Lab]) -> Lab:
    return lab_factory({"name": f"migration-{os.getpid()}", "hosts": {name: {"kind": "debian13"} for name in HOSTS}})


@pytest.fixture(scope="module")
def execute(lab: Lab, execute_in: Callable[[Lab], Execute]) -> Execute:
    return execute_in(lab)


@pytest.fixture(scope="module")
def tasks(lab: Lab, execute: Execute, tasks_in: Callable[[Lab], Tasks]) -> Tasks:
    """Let root of each host reach the other one, create a catalog with an image, and return a function that runs
    modules on hv1.
    """
    for host in HOSTS:
        execute(host, "sh", "-c", "test -f ~/.ssh/id_ed25519 || ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519")
        execute(host, "sh", "-c", "getent passwd oneadmin || useradd --system --home-dir /var/lib/one oneadmin")
        execute(host, "mkdir", "--parents", STORE)
    for host, other in itertools.permutations(HOSTS):
        key = execute(host, "cat", "/root/.ssh/id_ed25519.pub")
        execute(other, "sh", "-c", "cat >> ~/.ssh/authorized_keys", stdin=key)
        execute(host, "sh", "-c", f"ssh-keyscan -t ed25519 {other} >> ~/.ssh/known_hosts")
    execute(
        "hv1", "install", "--directory", "--owner=oneadmin", "--group=oneadmin", "--mode=0750", "/var/lib/one/vmstore"
    )
    run = tasks_in(lab)
    image = {"name": "base", "datastore": "default", "type": "os", "size": "64M", "format": "qcow2"}
    made = run(
        ("datastore", {"name": "copied", "type": "system", "tm_driver": "ssh"}, False),
        ("datastore", {"name": "same", "type": "system", "tm_driver": "shared"}, False),
        ("image", image, False),
    )
    assert [one.get("msg") for one in made] == [None] * 3
    return run


class Vm:
    """A VM with its domain on one of the hosts."""

    def __init__(self, execute: Execute, tasks: Tasks, name: str, result: dict[str, Any]) -> None:
        self.run, self.tasks, self.name = execute, tasks, name
        self.directory: str = result["vm"]["directory"]

    def virsh(self, host: str, *arguments: str, check: bool = True) -> str:
        return self.run(host, "virsh", *arguments, check=check)

    def migrate(self, host: str, *, check: bool = False, **options: Any) -> dict[str, Any]:
        return self.tasks(("vm_migrate", {"vm": self.name, "host": host, **options}, check))[0]

    def write(self, host: str, disk: int, image_format: str, where: str = "1M 64k") -> None:
        path = f"{self.directory}/disk.{disk}"
        self.run(host, "qemu-io", "-f", image_format, "-c", f"write -P {disk + 7} {where}", path)

    def require_data(self, host: str, disk: int, image_format: str, where: str = "1M 64k") -> None:
        path = f"{self.directory}/disk.{disk}"
        command = ["qemu-io", "-r", "-U", "-f", image_format, "-c", f"read -P {disk + 7} {where}", path]
        assert "Pattern verification failed" not in self.run(host, *command)

    def definition(self, host: str) -> list[str]:
        """Return the lines of the definition with its secrets. libvirt indents metadata of a migrated domain anew."""
        text = self.virsh(host, "dumpxml", "--inactive", "--security-info", self.name)
        return [line.strip() for line in text.splitlines()]

    def exists(self, host: str) -> bool:
        return self.run(host, "ls", "-d", self.directory, check=False) != ""

    def state(self, host: str) -> str:
        """Return the state of the domain, or an empty text without a domain."""
        return self.virsh(host, "domstate", self.name, check=False).strip()

    def recorded_host(self) -> str:
        program = (
            "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute(sys.argv[2], sys.argv[3:]).fetchone()[0])"
        )
        query = "SELECT host FROM vm WHERE name = ?"
        return self.run("hv1", "python3", "-c", program, CATALOG, query, self.name).strip()

    def require_on(self, host: str, state: str = "running") -> None:
        """Require that the VM is on a host, and that the other host has nothing of it."""
        [other] = set(HOSTS) - {host}
        assert (self.state(host), self.state(other)) == (state, "")
        assert (self.exists(host), self.exists(other)) == (True, False)
        assert self.recorded_host() == host
        assert self.run(host, "find", STORE, "-name", ".migrating") == ""
        assert re.search(r"^Persistent: +yes$", self.virsh(host, "dominfo", self.name), re.MULTILINE)


@pytest.fixture
def make(execute: Execute, tasks: Tasks) -> Iterator[Callable[..., Vm]]:
    """Define a domain on hv1, and give it disks."""
    made: list[str] = []

    def create(name: str, disks: list[dict[str, Any]], *, start: bool = True, **options: Any) -> Vm:
        made.append(name)
        ports = "".join(PORT.format(number) for number in range(1, 8))
        text = DOMAIN.format(name, "", ports)
        execute("hv1", "virsh", "define", "--validate", "/dev/stdin", stdin=text)
        [result] = tasks(("vm_disk", {"vm": name, "host": "hv1", "disks": disks, **options}, False))
        assert "msg" not in result, result
        vm = Vm(execute, tasks, name, result)
        for number, disk in enumerate(result["disks"]):
            vm.write("hv1", number, disk["format"])
        if start:
            vm.virsh("hv1", "start", name)
        return vm

    yield create
    for name in made:
        clean = 'virsh destroy "$0"; virsh managedsave-remove "$0"; virsh undefine "$0" --snapshots-metadata'
        for host in HOSTS:
            execute(host, "sh", "-c", clean, name, check=False)
        done = tasks(("vm_disk", {"vm": name, "state": "absent"}, False))
        assert [one.get("msg") for one in done] == [None]


LAYERED = [{"image": "base", "attach": {}}, {"size": "16M", "format": "raw", "attach": {}}, {"size": "4M"}]
COPIED = [{"size": "16M", "format": "raw", "attach": {}}, {"size": "16M", "format": "qcow2", "attach": {}}]


@pytest.mark.parametrize(
    ("name", "disks", "options"), [("layered", LAYERED, {}), ("copied", COPIED, {"datastore": "copied"})]
)
def test_a_running_vm_migrates_with_its_disks_there_and_back(
    make: Callable[..., Vm], tasks: Tasks, name: str, disks: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    vm = make(name, disks, **options)
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


@pytest.mark.parametrize("option", [{"timeout": 0}, {"bandwidth": 0}, {"host": "-x"}])
def test_values_that_are_not_accepted(tasks: Tasks, option: dict[str, Any]) -> None:
    [result] = tasks(("vm_migrate", {"vm": "none", "host": "hv2", **option}, False))
    require_failure(result, InvalidInput, option=next(iter(option)))


def test_a_vm_that_does_not_exist(tasks: Tasks) -> None:
    [result] = tasks(("vm_migrate", {"vm": "none", "host": "hv2"}, False))
    require_failure(result, DependencyNotFound, says=f"vm: there is no VM 'none' in the catalog {CATALOG}.")


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


def during(vm: Vm, source: str, target: str, action: Callable[[], object]) -> dict[str, Any] | None:
    """Migrate slowly, do something in the middle, and return the result of the module; ``None`` without one."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(vm.migrate, target, bandwidth=1)
        try:
            vm.run(source, "sh", "-c", MIGRATING, vm.name, deadline=120)
        finally:
            action()
        try:
            return running.result()
        except AssertionError:
            return None


def test_an_error_of_libvirt_leaves_the_guest_where_it_is(slow: Vm) -> None:
    result = during(slow, "hv1", "hv2", lambda: slow.run("hv2", "pkill", "-9", "qemu-system"))
    assert result is not None
    require_failure(result, LibvirtFailed, names=["libvirt could not migrate to hv2 the domain 'slow': "])
    slow.require_on("hv1")
    slow.require_data("hv1", 0, "raw", "0 64M")


@pytest.mark.parametrize("source", HOSTS)
def test_after_a_kill_the_next_run_migrates(slow: Vm, source: str) -> None:
    [target] = set(HOSTS) - {source}
    if source == "hv2":
        assert slow.migrate("hv2")["changed"]
    kill = ["python3", "-c", KILL, f"{CATALOG}.vms.lock"]
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


@pytest.fixture(scope="module")
def check(lab: Lab, execute: Execute, tasks: Tasks, engine_in: Callable[..., None]) -> Callable[..., Any]:
    """Return a function that runs a check on a host."""
    engine_in(lab, *HOSTS)

    def run(host: str, *request: Any) -> Any:
        command = ["env", f"PYTHONPATH={LIBRARY}", "python3", "-c", CHECK]
        return json.loads(execute(host, *command, stdin=json.dumps(request)))

    return run


MARKER = "11111111-2222-3333-4444-555555555555"

#: Devices that keep a domain on its host.
DEVICES = """
<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='9' slot='0' function='0'/></source></hostdev>
<interface type='hostdev'><source><address type='pci' domain='0' bus='9' slot='1' function='0'/></source></interface>
<filesystem type='mount'><source dir='/srv/nine'/><target dir='nine'/></filesystem>
<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv/store/web'/><target dir='web'/></filesystem>
<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv/alone'/><target dir='alone'/></filesystem>
<disk type='block' device='disk'><source dev='/dev/null'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><source file='/srv/vm/disk.0'/><target dev='vdb' bus='virtio'/></disk>
<disk type='file' device='disk'><source file='/srv/vm/disk.2.snap/3'/><target dev='vdc' bus='virtio'/><readonly/></disk>
<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
"""


def test_what_stays_on_the_host(check: Callable[..., Any], execute: Execute) -> None:
    memory = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
    ports = "".join(PORT.format(number) for number in range(1, 9))
    text = DOMAIN.format("stays", memory, ports + DEVICES)
    execute("hv1", "sh", "-c", f"mkdir -p /srv/store/web; echo {MARKER} > /srv/store/.granary-store")
    execute("hv1", "virsh", "define", "/dev/stdin", stdin=text)
    try:
        found = check("hv1", "check_departure", "stays", "/srv/vm", False)
        assert found["reasons"] == [
            "The domain has a device of the host (hostdev, pci), which stays on its host.",
            "The domain has a network device of the host (interface, hostdev), which stays on its host.",
            "The domain has the file system 'nine' with another driver than virtiofs, which can't migrate.",
            "The disk 'vda' is of the type block, which stays on its host.",
            "The virtiofs source /srv/alone is in no store with a marker, which shows that both hosts have the same "
            "directory: mount it with the module shared_mount and the option marker.",
        ]
        assert found["stores"] == [{"directory": "/srv/store/web", "store": "/srv/store", "marker": MARKER}]
        assert found["written"] == [{"number": 0, "target": "vdb"}]
    finally:
        execute("hv1", "virsh", "undefine", "stays")


def test_a_saved_state_and_snapshots_keep_a_domain(check: Callable[..., Any], execute: Execute) -> None:
    disk = "<driver name='qemu' type='qcow2'/><source file='/srv/vm/disk.0'/><target dev='sda' bus='sata'/>"
    text = DOMAIN.format("saved", "", f"<disk type='file' device='disk'>{disk}</disk>")
    execute("hv1", "sh", "-c", "mkdir -p /srv/vm; qemu-img create -q -f qcow2 /srv/vm/disk.0 1M")
    execute("hv1", "virsh", "define", "/dev/stdin", stdin=text)
    try:
        execute("hv1", "virsh", "snapshot-create-as", "saved", "first")
        execute("hv1", "virsh", "start", "saved")
        execute("hv1", "virsh", "managedsave", "saved")
        assert check("hv1", "check_departure", "saved", "/srv/vm", False)["reasons"] == [
            "The domain 'saved' has the libvirt snapshots first: remove them with 'virsh snapshot-delete'.",
            "The domain 'saved' has a saved state, which stays on its host: start the domain, or remove the state with "
            "'virsh managedsave-remove'.",
        ]
    finally:
        execute("hv1", "virsh", "undefine", "saved", "--managed-save", "--snapshots-metadata")


def arrival(text: str, *, libvirt: int = 1, qemu: int = 1, stores: Iterable[dict[str, str]] = ()) -> dict[str, Any]:
    """Return a domain that comes from another host."""
    marks = [{"is": "StoreMark", **store} for store in stores]
    departure = {"is": "Departure", "reasons": [], "xml": text, "is_left": False, "written": [], "stores": marks}
    return {**departure, "libvirt": libvirt, "qemu": qemu, "host_cpu": None}


def test_what_a_host_lacks(check: Callable[..., Any], execute: Execute) -> None:
    devices = """
<interface type='network'><source network='nowhere'/></interface>
<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv/store/web'/><target dir='web'/>
<idmap><uid start='0' target='4000000000' count='10'/><gid start='0' target='4000000000' count='10'/></idmap>
</filesystem>
"""
    text = DOMAIN.format("lacks", "", devices).replace("machine='q35'>hvm</type>", "machine='pc-q35-99'>hvm</type>{}")
    text = text.format("<kernel>/srv/none/vmlinuz</kernel>")
    cpu = "<cpu mode='custom' match='exact'><model>Skylake-Server</model></cpu>"
    stores = [{"directory": "/srv/store/web", "store": "/srv/store", "marker": MARKER}]
    execute("hv2", "sh", "-c", "mkdir -p /srv/store/web; cat /proc/sys/kernel/random/uuid > /srv/store/.granary-store")
    versions = {"libvirt": 99001002, "qemu": 98003004}
    found = check("hv2", "check_arrival", arrival(text, stores=stores, **versions), "/srv/vm", True)
    assert found[0].startswith("libvirt could not run the machine 'pc-q35-99' there: ")
    assert [re.sub(r"older there \([0-9.]+\)", "older there (*)", one) for one in found[1:]] == [
        "The network 'nowhere' does not run there.",
        "libvirt is older there (*) than at the source (99.1.2).",
        "QEMU is older there (*) than at the source (98.3.4).",
        "The file /srv/none/vmlinuz of the domain does not exist there.",
        f"The virtiofs source /srv/store/web is not the same directory there: mount the store {MARKER} on /srv/store.",
        "No user has the subordinate uids 4000000000 to 4000000009 there, which the virtiofs device 'web' maps.",
        "No user has the subordinate gids 4000000000 to 4000000009 there, which the virtiofs device 'web' maps.",
    ]
    execute("hv2", "sh", "-c", f"echo {MARKER} > /srv/store/.granary-store")
    plain = DOMAIN.format("lacks", "", "")
    assert check("hv2", "check_arrival", arrival(plain, stores=stores), "/srv/vm", True) == []
    execute("hv2", "rmdir", "/srv/store/web")
    [missing] = check("hv2", "check_arrival", arrival(plain, stores=stores), "/srv/vm", True)
    assert "/srv/store/web" in missing
    with_cpu = plain.replace("<features>", f"{cpu}<features>")
    assert check("hv2", "check_arrival", arrival(with_cpu), "/srv/vm", True) == [
        "The processor there lacks features of the guest's processor (Skylake-Server)."
    ]
