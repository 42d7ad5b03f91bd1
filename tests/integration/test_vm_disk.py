# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk with a front-end that is a hypervisor, and a second hypervisor over ssh; verified with virsh, qemu-img, stat
and in a guest.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    DependencyNotFound,
    HostUnreachable,
)
from documentation import block
from lab import Lab
from refusal import require_failure

Execute = Callable[..., str]
Make = Callable[..., str]
Module = Callable[..., dict[str, Any]]
Disks = Callable[..., dict[str, Any]]
Tasks = Callable[..., list[dict[str, Any]]]

ANSIBLE_PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
STORE = "/var/lib/one/datastores"


@pytest.fixture(scope="module")
def connected(site: Lab, execute: Execute) -> None:
    """Let root of each host reach the other one over ssh."""
    for host in ("hv1", "old"):
        execute(host, "sh", "-c", "test -f ~/.ssh/id_ed25519 || ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519")
    for host, other in (("hv1", "old"), ("old", "hv1")):
        key = execute(host, "cat", "/root/.ssh/id_ed25519.pub")
        execute(other, "sh", "-c", "cat >> ~/.ssh/authorized_keys", stdin=key)
        execute(host, "sh", "-c", f"ssh-keyscan -t ed25519 {other} >> ~/.ssh/known_hosts")


@pytest.fixture
def tasks(site: Lab, tasks_in: Callable[[Lab], Tasks]) -> Tasks:
    return tasks_in(site)


@pytest.fixture
def front_end(tasks: Tasks, catalog_directory: None, connected: None, execute: Execute) -> Iterator[Disks]:
    """Create a catalog on hv1 with the images base (qcow2) and data (raw, persistent), and run vm_disk there."""
    images = [
        {"name": "base", "datastore": "default", "type": "os", "size": "64M", "format": "qcow2", "fs": "ext4"},
        {"name": "data", "datastore": "default", "type": "datablock", "size": "8M", "persistent": True},
    ]
    execute("old", "mkdir", "--parents", STORE)
    made = tasks(
        ("datastore", {"name": "system2", "type": "system", "tm_driver": "local"}, False),
        ("image", {"images": images}, False),
    )
    assert [one.get("msg") for one in made] == [None, None]

    def run(*, check: bool = False, **options: Any) -> dict[str, Any]:
        return tasks(("vm_disk", options, check))[0]

    yield run
    execute("old", "rm", "-rf", STORE)


@pytest.fixture
def four(front_end: Disks, tasks: Tasks) -> Disks:
    """Run vm_disk in check mode, twice for real, and in check mode again. Only the first two change something."""

    def run(**options: Any) -> dict[str, Any]:
        results = tasks(*(("vm_disk", options, check) for check in (True, False, False, True)))
        foreseen, done = results[:2]
        assert [one.get("msg") for one in results] == [None] * 4
        assert foreseen["actions"] == done["actions"] != []
        assert [(one["changed"], one["actions"]) for one in results[2:]] == [(False, [])] * 2
        return done

    return run


def names(result: dict[str, Any]) -> list[str]:
    assert "msg" not in result, result["msg"]
    return [action["name"] for action in result["actions"]]


def describe(execute: Execute, host: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(execute(host, "qemu-img", "info", "-U", "--output=json", path))
    return found


def sources(execute: Execute, domain: str, *options: str, host: str = "hv1") -> dict[str, str]:
    """Return the disks of a domain by target, by virsh."""
    lines = execute(host, "virsh", "--quiet", "domblklist", domain, *options).splitlines()
    return dict(line.split() for line in lines if line.strip())


def test_the_first_disk_reaches_a_domain_in_one_task(four: Disks, domain: Make, execute: Execute) -> None:
    domain("hv1", "web")
    done = four(vm="web", image="base", size="128M", attach={})
    assert names(done) == ["create VM", "create disk", "attach disk"]
    [disk] = done["disks"]
    assert (disk["target"], disk["bus"], disk["restart_required"]) == ("vda", "virtio", False)
    assert sources(execute, "web", "--inactive") == {"vda": disk["path"]}
    assert describe(execute, "hv1", disk["path"])["virtual-size"] == 128 << 20
    execute("hv1", "virsh", "start", "web")
    assert sources(execute, "web") == {"vda": disk["path"]}


def test_disks_of_a_running_domain(front_end: Disks, four: Disks, domain: Make, execute: Execute) -> None:
    domain("hv1", "live", start=True)
    done = four(
        vm="live",
        disks=[
            {"size": "8M", "attach": {}},
            {"size": "8M", "attach": {"bus": "scsi"}},
            {"size": "8M", "attach": {"bus": "sata"}},
        ],
    )
    assert [disk["target"] for disk in done["disks"]] == ["vda", "sda", "sdb"]
    assert [disk["restart_required"] for disk in done["disks"]] == [False, False, True]
    assert sorted(sources(execute, "live")) == ["sda", "vda"]
    assert sorted(sources(execute, "live", "--inactive")) == ["sda", "sdb", "vda"]
    # A user takes a disk out of the definition.
    execute("hv1", "virsh", "detach-disk", "live", "sdb", "--config")
    again = four(vm="live", disks=[{"disk": 2, "size": "8M", "attach": {"bus": "sata"}}])
    assert names(again) == ["attach disk"]
    execute("hv1", "virsh", "detach-disk", "live", "sdb", "--config")
    execute("hv1", "virsh", "attach-disk", "live", done["disks"][2]["path"], "sdc", "--config", "--targetbus", "sata")
    assert names(four(vm="live", disk=2, attach={"target": "sdb"})) == ["change attachment of disk"]
    require_failure(front_end(vm="live", state="absent"), Conflict, names=["'live'", "'hv1'"])
    assert names(four(vm="live", disks=[{"disk": 0, "size": "16M"}])) == ["grow disk"]
    assert execute("hv1", "virsh", "domblkinfo", "live", "vda").split()[1] == str(16 << 20)
    # At its next start, the domain has the disk on SATA as well.
    execute("hv1", "virsh", "destroy", "live")
    execute("hv1", "virsh", "start", "live")
    require_failure(
        front_end(vm="live", disk=2, state="absent"),
        Conflict,
        says="The disk 2 of VM 'live' can't be removed while the domain 'live' runs, which loses disks on virtio and "
        "scsi only, and this one is on sata: shut it down first.",
    )
    execute("hv1", "virsh", "destroy", "live")
    assert names(four(vm="live", state="absent"))[-1] == "remove VM"
    assert sources(execute, "live", "--inactive") == {}


def test_a_guest_gets_a_disk_and_loses_it(site: Lab, front_end: Disks, four: Disks, execute: Execute) -> None:
    before = sources(execute, "hot")
    done = four(vm="hot", disk=1, image="data", attach={"target": "vdx"})
    assert names(done) == ["create VM", "create disk", "attach disk"]
    device = "/sys/class/block/vd?/size"
    sizes = site.ssh("hot", f"cat {device}").split()
    assert str((8 << 20) // 512) in sizes
    assert names(four(vm="hot", disk=1, state="absent")) == ["return disk to its image"]
    assert sources(execute, "hot") == sources(execute, "hot", "--inactive") == before
    assert str((8 << 20) // 512) not in site.ssh("hot", f"cat {device}").split()
    front_end(vm="hot", state="absent")


def test_the_guide(front_end: Disks, four: Disks, domain: Make, execute: Execute, module: Module) -> None:
    images = [
        {"name": "debian", "datastore": "default", "type": "os", "size": "8M", "format": "qcow2"},
        {"name": "db-data", "datastore": "default", "type": "datablock", "size": "8M", "persistent": True},
    ]
    assert "msg" not in module("hv1", "image", images=images)
    for host, name in (("hv1", "web"), ("old", "db")):
        domain(host, name)
    play = block("docs/vm-disks.md", "The first disk").text.replace("host01", "hv1")
    four(**yaml.safe_load(play)[0]["tasks"][0]["granary.vmstore.vm_disk"])
    assert list(sources(execute, "web", "--inactive")) == ["vda"]
    task = block("docs/vm-disks.md", "Several disks, and several VMs").text
    four(**yaml.safe_load(task.replace("host01", "hv1").replace("host02", "old"))[0]["granary.vmstore.vm_disk"])
    assert list(sources(execute, "web", "--inactive")) == ["vda", "vdb"]
    assert list(sources(execute, "db", "--inactive", host="old")) == ["vda", "vdb"]
    for task in yaml.safe_load(block("docs/vm-disks.md", "Snapshots, and images of disks").text):
        [(name, options)] = [(key, value) for key, value in task.items() if key != "name"]
        assert "msg" not in module("hv1", name.removeprefix("granary.vmstore."), **options)
    task, _check = yaml.safe_load(block("docs/vm-disks.md", "Storage of disks and system datastores").text)
    found = module("hv1", "datastore_info", **task["granary.vmstore.datastore_info"])
    check_storage(next(one for one in found["datastores"] if one["hosts"]), execute)
    for name in ("web", "db"):
        front_end(vm=name, state="absent")


def check_storage(system: dict[str, Any], execute: Execute) -> None:
    """Compare the system datastore of the guide with df(1) and virsh(1)."""
    assert [(host["name"], host["monitor_error"]) for host in system["hosts"]] == [("hv1", None), ("old", None)]
    for host in system["hosts"]:
        size = execute(host["name"], "df", "-B1", "--output=size", system["base_path"]).split()[-1]
        assert host["total_mb"] == int(size) >> 20
    for vm in system["vms"]:
        for disk, target in zip(vm["disks"], ("vda", "vdb"), strict=True):
            lines = execute(vm["host"], "virsh", "domblkinfo", vm["name"], target).splitlines()
            sizes = {name: int(value) for name, _colon, value in (line.partition(":") for line in lines) if value}
            assert disk["size_mb"] == sizes["Capacity"] >> 20
            assert disk["allocated_mb"] == -(-sizes["Allocation"] >> 20)


def test_disks_of_another_host(four: Disks, front_end: Disks, domain: Make, execute: Execute, module: Module) -> None:
    domain("old", "far")
    done = four(
        vm="far", host="old", disks=[{"image": "base", "attach": {}}, {"image": "data"}, {"size": "4M", "fs": "swap"}]
    )
    paths = [disk["path"] for disk in done["disks"]]
    assert sources(execute, "far", "--inactive", host="old") == {"vda": paths[0]}
    assert [describe(execute, "old", path)["virtual-size"] >> 20 for path in paths] == [64, 8, 4]
    assert execute("old", "blkid", "-p", "-o", "value", "-s", "TYPE", paths[2]).strip() == "swap"
    assert execute("hv1", "sh", "-c", f"ls {STORE}/0 2>/dev/null || true") == ""
    found = module("hv1", "vm_disk_info", world=True)
    assert [disk["world"]["exists"] for disk in found["vms"][0]["disks"]] == [True] * 3
    # A grown disk, and data that goes back.
    assert names(four(vm="far", disk=0, size="96M")) == ["grow disk"]
    assert describe(execute, "old", paths[0])["virtual-size"] == 96 << 20
    execute("old", "sh", "-c", f"printf guest | dd of={paths[1]} conv=notrunc status=none")
    assert names(four(vm="far", disk=1, state="absent")) == ["return disk to its image"]
    image = module("hv1", "image_info", name="data")["images"][0]
    assert execute("hv1", "head", "-c", "5", image["path"]) == "guest"
    assert names(four(vm="far", state="absent")) == ["remove disk", "remove disk", "remove VM"]
    assert execute("old", "sh", "-c", f"ls {STORE}/0") == ""
    assert sources(execute, "far", "--inactive", host="old") == {}


def test_a_vm_moves_between_hosts(four: Disks, front_end: Disks, domain: Make, execute: Execute) -> None:
    domain("hv1", "mover")
    made = four(vm="mover", disks=[{"image": "base", "attach": {}}, {"image": "data"}])
    paths = [disk["path"] for disk in made["disks"]]
    execute("hv1", "sh", "-c", f"printf mine | dd of={paths[1]} conv=notrunc status=none")
    require_failure(
        front_end(vm="mover", host="old"),
        DependencyNotFound,
        says="domain: libvirt on the host old has no domain 'mover': define it first, or leave attach out.",
    )
    domain("old", "mover")
    execute("hv1", "virsh", "start", "mover")
    require_failure(front_end(vm="mover", host="old"), Conflict, names=["'mover'", "'hv1'"])
    execute("hv1", "virsh", "destroy", "mover")
    assert names(four(vm="mover", host="old")) == ["detach disk", "move VM", "attach disk"]
    assert execute("old", "head", "-c", "4", paths[1]) == "mine"
    assert sources(execute, "mover", "--inactive", host="old") == {"vda": paths[0]}
    assert sources(execute, "mover", "--inactive") == {}
    assert execute("hv1", "sh", "-c", f"ls {STORE}/0") == ""
    # Back to the front-end, and to another datastore in the same run.
    assert "move VM" in names(four(vm="mover", host="hv1", datastore="system2"))
    [(vm, system)] = [(one["directory"], one["datastore"]) for one in [front_end(vm="mover")["vm"]]]
    assert system == "system2"
    assert execute("hv1", "head", "-c", "4", f"{vm}/disk.1") == "mine"
    assert sources(execute, "mover", "--inactive") == {"vda": f"{vm}/disk.0"}


def test_many_vms_of_a_host_are_looked_at_over_one_connection(tasks: Tasks, front_end: Disks, execute: Execute) -> None:
    def connections() -> int:
        log = execute(
            "old", "journalctl", "--quiet", "--no-pager", "-t", "sshd", "-g", "Accepted publickey", check=False
        )
        return len([line for line in log.splitlines() if "127.0.0.1" not in line])

    vms = [{"vm": f"vm{number}", "host": "old", "size": "1M"} for number in range(3)]
    assert front_end(vms=vms)["changed"]
    before = connections()
    assert front_end(vms=vms)["actions"] == []
    assert connections() == before + 1


def test_a_host_that_does_not_answer(front_end: Disks) -> None:
    for check in (True, False):
        found = front_end(vm="x", host="no-such-host.invalid", size="1M", check=check)
        require_failure(found, HostUnreachable, names=["no-such-host.invalid"])


def write(execute: Execute, domain: str, device: int, byte: int) -> None:
    """Let QEMU write a byte to the first 64 KiB of a disk of a running domain, as a guest does."""
    for command in (f"write -P {byte} 0 64k", "flush"):
        line = f'qemu-io -d /machine/peripheral/virtio-disk{device}/virtio-backend "{command}"'
        assert execute("hv1", "virsh", "qemu-monitor-command", "--hmp", domain, line).strip() == ""


def has(execute: Execute, path: str, image_format: str, byte: int) -> bool:
    said = execute("hv1", "qemu-io", "-r", "-U", "-f", image_format, "-c", f"read -P {byte} 0 64k", path)
    return "read 65536/65536" in said and "verification failed" not in said


def test_snapshots_and_images_of_a_running_vm(front_end: Disks, tasks: Tasks, domain: Make, execute: Execute) -> None:
    """A disk of layers (vda), and a raw one (vdb)."""
    domain("hv1", "busy")
    made = front_end(vm="busy", disks=[{"image": "base", "attach": {}}, {"size": "8M", "attach": {}}])
    paths = [disk["path"] for disk in made["disks"]]
    formats = ["qcow2", "raw"]

    def snapshot(disk: int, name: str, state: str = "present") -> dict[str, Any]:
        """Run the module in check mode, twice for real, and in check mode again."""
        options = {"vm": "busy", "disk": disk, "name": name, "state": state}
        results = tasks(*(("vm_disk_snapshot", options, check) for check in (True, False, False, True)))
        assert [one.get("msg") for one in results] == [None] * 4
        assert [one["changed"] for one in results] == [True, True, False, False]
        assert results[0]["actions"] == results[1]["actions"]
        return results[1]

    execute("hv1", "virsh", "start", "busy")
    for disk in (0, 1):
        write(execute, "busy", disk, 1)
        assert snapshot(disk, "one")["live"]
        write(execute, "busy", disk, 2)
        assert [one["name"] for one in snapshot(disk, "two")["snapshots"]] == ["one", "two"]
        write(execute, "busy", disk, 3)
        options = {
            "name": f"saved{disk}",
            "datastore": "default",
            "type": "os",
            "from_disk": {"vm": "busy", "disk": disk},
        }
        saved = tasks(("image", options, False), ("image", {**options, "name": f"saved{disk}"}, False))
        assert [one["changed"] for one in saved] == [True, False], saved
        write(execute, "busy", disk, 4)
        image = saved[0]["image"]
        assert (image["format"], has(execute, image["path"], formats[disk], 3)) == (formats[disk], True)
        # Only what the guest has written takes storage.
        assert int(execute("hv1", "stat", "-c", "%b", image["path"])) * 512 < 6 << 20
        snapshot(disk, "one", "absent")
        assert execute("hv1", "virsh", "domstate", "busy").strip() == "running"
    require_failure(
        tasks(("vm_disk_snapshot", {"vm": "busy", "name": "two", "state": "reverted"}, False))[0],
        Conflict,
        names=["disk 0 of VM 'busy'"],
    )
    execute("hv1", "virsh", "destroy", "busy")
    execute("hv1", "qemu-img", "check", "-q", "-f", "qcow2", paths[0])
    for disk in (0, 1):
        assert has(execute, paths[disk], formats[disk], 4)
        assert not snapshot(disk, "two", "reverted")["live"]
        assert has(execute, paths[disk], formats[disk], 2)
    execute("hv1", "virsh", "start", "busy")
    execute("hv1", "virsh", "destroy", "busy")
