# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of a running guest: the guest gets and loses them, and its agent freezes them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

import pytest
from lab import Lab
from running_disks import AGENT, COPY, KILLED, QUIESCE, STORE, VM, Machine


@pytest.fixture(scope="module")
def guest(site: Lab, engine: None, execute: Callable[..., str]) -> Iterator[Machine]:
    """Start the guest `cold`, which has a channel for a guest agent, and restore its definition at the end."""
    cold = site.guest("cold")
    definition = execute("hv1", "virsh", "dumpxml", "--inactive", "--security-info", cold.name)
    cold.start()
    cold.wait_ready()
    yield Machine("hv1", cold.name, execute)
    execute("hv1", "virsh", "destroy", cold.name, check=False)
    execute("hv1", "virsh", "define", "/dev/stdin", stdin=definition)


@pytest.fixture
def plugged(guest: Machine) -> Iterator[Callable[..., dict]]:
    """Attach disks to the guest, and detach them after the test."""
    guest.lay_out()
    made = []

    def attach(**options: object) -> dict:
        made.append(options["source"])
        return guest.attach(**options)

    yield attach
    for path in made:
        assert "error" not in guest.detach(path)
    guest.run("rm", "-rf", STORE)


def test_a_running_guest_gets_disks_and_loses_them(site: Lab, guest: Machine, plugged: Callable[..., dict]) -> None:
    before = guest.definition()
    script = (
        f"cd {VM}; echo secret >secret; chmod 600 secret; qemu-img create -q -f qcow2 -F raw -b {VM}/secret raw 1M; "
        "truncate -s 1M raw; echo hello >one; truncate -s 2M one; cp one two; truncate -s 3M two; chmod 666 raw one two"
    )
    guest.shell(script)
    # The disk is raw by the record, whatever header the guest writes into it.
    raw = {"source": f"{VM}/raw", "format": "raw", "serial": "granary-1"}
    assert plugged(**raw) == {"actions": ["add disk", "plug disk"], "reasons": [], "target": "vdb"}
    assert plugged(**raw) == {"actions": [], "reasons": [], "target": "vdb"}
    found = "until [ -e /sys/block/{0} ]; do sleep 0.1; done; blockdev --getsize64 /dev/{0}; head -c 5 /dev/{0}"
    assert "QFI" in site.ssh(guest.name, found.format("vdb"))
    assert site.ssh(guest.name, "blockdev --getsize64 /dev/vdb; cat /sys/block/vdb/serial").split() == [
        str(1 << 20),
        "granary-1",
    ]
    for path, actions in (
        ("one", ["add disk", "plug controller", "plug disk"]),
        ("two", ["add disk", "plug disk"]),
    ):
        attached = plugged(source=f"{VM}/{path}", format="raw", bus="scsi")
        assert attached["actions"] == actions, attached
    site.ssh(guest.name, "modprobe virtio_scsi; modprobe sd_mod")
    # Linux names the disks in any order.
    seen = sorted(site.ssh(guest.name, found.format(name)) for name in ("sda", "sdb"))
    assert seen == [f"{size << 20}\nhello" for size in (2, 3)]
    assert guest.detach(f"{VM}/one") == {
        "actions": ["unplug disk", "remove disk"],
        "reasons": [],
        "target": "sda",
    }
    site.ssh(guest.name, f"until [ $(cat /sys/block/sd?/size) = {3 << 20 >> 9} ]; do sleep 0.1; done 2>/dev/null")
    assert guest.detach(f"{VM}/one") == {"actions": [], "reasons": [], "target": None}
    for path in ("raw", "two"):
        assert "error" not in guest.detach(f"{VM}/{path}")
    site.ssh(guest.name, "while ls /sys/block | grep -qE '^(vdb|sd)'; do sleep 0.1; done")
    after = guest.definition()
    assert set(before.splitlines()) <= set(after.splitlines()) and "<source file='/srv" not in after


@pytest.fixture
def agent(site: Lab, guest: Machine) -> Iterator[Callable[..., None]]:
    """Run a guest agent for a file system of the guest."""

    def start(*arguments: str) -> None:
        site.ssh(guest.name, "modprobe virtio_console; cat >/tmp/agent.py", stdin=AGENT.encode())
        stop()
        site.ssh(guest.name, f"setsid python3 /tmp/agent.py {shlex.join(arguments)} >/tmp/agent.log 2>&1 </dev/null &")
        connected = (
            f"until virsh dumpxml {guest.name} | grep -q \"guest_agent.0' state='connected'\"; do sleep 0.05; done"
        )
        guest.run("timeout", "30", "sh", "-c", connected)

    def stop() -> None:
        site.ssh(guest.name, "pkill -f [a]gent.py; while pgrep -f [a]gent.py; do sleep 0.1; done", check=False)

    yield start
    stop()


STATUS = 'virsh qemu-agent-command cold \'{"execute": "guest-fsfreeze-status"}\''


def test_a_guest_agent_freezes_the_guest(
    site: Lab, guest: Machine, plugged: Callable[..., dict], agent: Callable[..., None]
) -> None:
    disk = f"{VM}/disk.1"
    guest.shell(f"truncate -s 32M {disk}; mkfs.ext4 -q -F {disk}; chmod 666 {disk}")
    target = plugged(source=disk, format="raw")["target"]
    site.ssh(guest.name, f"mkdir -p /mnt/frozen; until mount /dev/{target} /mnt/frozen 2>/dev/null; do sleep 0.1; done")
    try:
        agent("/mnt/frozen")
        frozen, thawed = ['{"return":"frozen"}'], ['{"return":"thawed"}']
        assert guest.engine(QUIESCE, "auto", "60", STATUS, "0") == {"way": "agent", "inside": frozen}
        assert guest.shell(STATUS).split() == thawed
        assert guest.engine(KILLED, "agent", STATUS) == {"before": frozen, "after": thawed}
        late = guest.engine(QUIESCE, "agent", "2", STATUS, "3")
        assert late["error"] == "TimedOut" and guest.shell(STATUS).split() == thawed
        # The file system of the copy is clean, and has what the guest has only in memory.
        site.ssh(guest.name, "echo unwritten >/mnt/frozen/file")
        guest.run("qemu-img", "create", "-q", "-f", "raw", f"{VM}/copy", "32M")
        assert "error" not in guest.engine(COPY, disk, f"{VM}/copy", "raw", "60", "agent")
        assert "clean" in guest.run("e2fsck", "-n", f"{VM}/copy")
        assert guest.run("debugfs", "-R", "cat file", f"{VM}/copy") == "unwritten\n"
        # An agent that never responds: the domain is suspended instead.
        agent("/mnt/frozen", "hang")
        state = "virsh domstate cold"
        assert guest.engine(QUIESCE, "auto", "8", state, "0") == {"way": "suspend", "inside": ["paused"]}
        assert guest.state() == "running"
        refused = guest.engine(QUIESCE, "agent", "8", state, "0")
        assert refused["error"] == "LibvirtFailed" and "'cold'" in refused["says"]
    finally:
        site.ssh(guest.name, "pkill -f [a]gent.py; umount /mnt/frozen", check=False)
