# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Live migrations that fail half-way. virsh, qemu-io and ls verify that the VM runs on at its host, and that the target
is clean.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import LibvirtFailed, LibvirtMissing
from lab import Lab
from migrating_vm import CATALOG, HOSTS, SIGNAL, STORE, Execute, Vm
from refusal import require_failure

#: Size of the disk that libvirt copies, in MiB, and the room for its datastore at the target.
SIZE, ROOM = 16, 56

#: Ports of the target that receive the memory and the disk. libvirt chooses the first free ones.
MEMORY, DISK = "49152", "49153"

#: Shell command that lets the target drop everything for the port $0 after $1 bytes.
DROP = """
iptables -A faults -p tcp --dport "$0" -m quota --quota "$1" -j ACCEPT && iptables -A faults -p tcp --dport "$0" -j DROP
"""

#: Shell command that succeeds after a dropped packet.
DROPPED = "iptables -vxnL faults | grep -q '^ *[1-9].* DROP '"

#: Shell command that fills the file system $0 but for half a MiB.
FILL = 'mount -o "remount,size=$(($(df -k --output=used "$0" | tail -1) + 512))k" "$0"'

#: Lines about a VM on one host: the state of the domain, the existing names, and the number of the processes of QEMU.
LOOK = """
virsh domstate "$0" 2>/dev/null || echo none
ls -d "$1" 2>/dev/null || echo none
find "$2" -name .migrating -o -name '.*part*' | wc -l
pgrep -c -f "guest=$0,"
"""


#: Shell loop that waits, for at most two minutes, until the command $0 succeeds.
UNTIL = 'for i in $(seq 1200); do sh -c "$0" && exit; sleep 0.1; done; exit 1'

#: Shell command that succeeds without the domain.
GONE = 'names=$(virsh list --all --name) && ! echo "$names" | grep -qx copied'

#: Shell command that succeeds when a stopped libvirt has a request to read that is larger than a sign of life.
ASKED = "ss -xn | awk '$3 > 500' | grep -q libvirt-sock"

QEMU, LIBVIRTD = "qemu-system-x86", "libvirtd"

#: Number of the migrations that fail at each point. The variable is for a longer trial.
ROUNDS = int(os.environ.get("MIGRATION_ROUNDS", "1"))


@pytest.fixture
def copied(make_migrating: Callable[..., Vm], migration_execute: Execute) -> Iterator[Vm]:
    """Return a running VM, whose target has little room for its datastore."""
    disk = {"size": f"{SIZE}M", "format": "raw", "attach": {}}
    vm = make_migrating("copied", [disk], datastore="copied", start=False)
    vm.write("hv1", 0, "raw", f"0 {SIZE}M")
    vm.virsh("hv1", "start", "copied")
    datastore = vm.directory.rpartition("/")[0]
    room = f'mkdir -p "$0"; mount -t tmpfs -o size={ROOM}M,mode=0755 tmpfs "$0"'
    migration_execute("hv2", "sh", "-c", room, datastore)
    migration_execute("hv2", "sh", "-c", "iptables -N faults && iptables -I INPUT -j faults")
    yield vm
    for host in HOSTS:
        migration_execute(host, "virsh", "destroy", "copied", check=False)
    migration_execute("hv2", "umount", datastore)
    migration_execute("hv2", "sh", "-c", "iptables -F faults; iptables -D INPUT -j faults; iptables -X faults")


def look(vm: Vm, host: str) -> list[str]:
    return vm.run(host, "sh", "-c", LOOK, vm.domain, vm.directory, STORE, check=False).split()


def require_as_before(vm: Vm) -> None:
    """Require that the guest runs on at hv1, and that hv2 has nothing of the VM."""
    assert look(vm, "hv1") == ["running", vm.directory, "0", "1"]
    assert look(vm, "hv2") == ["none", "none", "0", "0"]
    assert vm.recorded_host() == "hv1"


def fail(vm: Vm, port: str, size: int, fault: Callable[[], object]) -> dict[str, Any]:
    """Let a migration stall after so many bytes for a port of the target. Then call the fault, end the stall, and
    return the result of the module.
    """
    vm.run("hv2", "sh", "-c", DROP, port, str(size))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(vm.migrate, "hv2", timeout=200)
        try:
            vm.run("hv2", "sh", "-c", UNTIL, DROPPED, deadline=150)
            fault()
        finally:
            continue_transfer(vm)
    return running.result()


def continue_transfer(vm: Vm) -> None:
    vm.run("hv2", "iptables", "-F", "faults")


def send(vm: Vm, signal: str, program: str) -> None:
    """Send a signal to a program of the target."""
    vm.run("hv2", "pkill", f"-{signal}", "-x", program)


def send_module(vm: Vm, signal: str) -> None:
    """Send a signal to the module, which directs the migration."""
    assert vm.run("hv1", "python3", "-c", SIGNAL, f"{CATALOG}.vms.lock", signal)


def hold_handover(vm: Vm) -> None:
    """Continue a migration until the guest is paused at the source. The stopped module doesn't let the target start the
    guest.
    """
    send_module(vm, "SIGSTOP")
    continue_transfer(vm)
    vm.run("hv1", "sh", "-c", UNTIL, "virsh domstate copied | grep -q paused", deadline=150)


def test_failures_at_every_stage(copied: Vm) -> None:
    """A killed QEMU, a killed libvirtd, and a full file system of the target, while the disk or the memory is copied,
    and while neither host runs the guest.
    """
    chosen, datastore = random.Random(15), copied.directory.rpartition("/")[0]

    def resize(script: str) -> None:
        copied.run("hv2", "sh", "-c", script, datastore)

    def kill_in_handover(program: str) -> None:
        hold_handover(copied)
        send(copied, "SIGKILL", program)
        copied.run("hv2", "sh", "-c", UNTIL, GONE, deadline=150)
        send_module(copied, "SIGCONT")

    for _round in range(ROUNDS):
        for port, most in ((DISK, 12 << 20), (MEMORY, 64 << 10)):
            for program in (QEMU, LIBVIRTD):
                killed = functools.partial(send, copied, "SIGKILL", program)
                require_failed(copied, fail(copied, port, chosen.randrange(1024, most), killed))
        for program in (QEMU, LIBVIRTD):
            killed = functools.partial(kill_in_handover, program)
            require_failed(copied, fail(copied, MEMORY, 1024, killed))
        filled = functools.partial(resize, f"for i in $(seq 100); do {FILL} && exit; done; exit 1")
        require_failed(copied, fail(copied, DISK, chosen.randrange(1024, 12 << 20), filled))
        resize(f'mount -o remount,size={ROOM}M "$0"')
    copied.require_data("hv1", 0, "raw", f"0 {SIZE}M")
    assert copied.migrate("hv2").get("changed")
    copied.require_on("hv2")
    copied.require_data("hv2", 0, "raw", f"0 {SIZE}M")
    assert copied.migrate("hv1").get("changed")


def require_failed(vm: Vm, result: dict[str, Any]) -> None:
    require_failure(result, LibvirtFailed, names=["'copied'", "hv2"])
    require_as_before(vm)


@pytest.mark.parametrize(("signal", "action"), [("SIGKILL", "migrate VM"), ("SIGCONT", "finish migration of VM")])
def test_a_killed_run_that_leaves_the_guest_paused(copied: Vm, signal: str, action: str) -> None:
    """The module is killed after it has asked the target to start the guest. The libvirt there ends, or starts it."""

    def kill() -> None:
        send(copied, "SIGSTOP", LIBVIRTD)
        continue_transfer(copied)
        copied.run("hv2", "sh", "-c", UNTIL, ASKED, deadline=150)
        send_module(copied, "SIGKILL")
        send(copied, signal, LIBVIRTD)

    assert "actions" not in fail(copied, MEMORY, 1024, kill)
    settled = {"SIGKILL": GONE, "SIGCONT": "virsh domstate copied | grep -q running"}[signal]
    copied.run("hv2", "sh", "-c", UNTIL, settled, deadline=150)
    assert copied.virsh("hv1", "domstate", "copied").strip() == "paused"
    result = copied.migrate("hv2")
    assert [one["name"] for one in result.get("actions", [])] == [action], result
    copied.require_on("hv2")
    copied.require_data("hv2", 0, "raw", f"0 {SIZE}M")


def test_a_cut_network(copied: Vm, migration_lab: Lab) -> None:
    """libvirt finds the cut after half a minute. TCP needs a quarter of an hour."""
    target = migration_lab.host("hv2")

    def cut() -> None:
        target.cut()
        try:
            # The libvirt of the target ends its QEMU as well.
            target.execute("sh", "-c", UNTIL, "! pgrep -x qemu-system-x86", deadline=150)
            copied.run("hv1", "sh", "-c", UNTIL, "virsh domjobinfo copied | grep -q Cancelled", deadline=150)
            assert copied.state("hv1") == "running"
        finally:
            target.join()

    result = fail(copied, DISK, 1 << 20, cut)
    require_failure(
        result,
        LibvirtFailed,
        says="The connection to libvirt on hv2 broke during the migration of the domain 'copied'.",
    )
    require_as_before(copied)
    copied.require_data("hv1", 0, "raw", f"0 {SIZE}M")


def test_a_libvirt_that_does_not_run(copied: Vm) -> None:
    units = ["libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket", "libvirtd.service"]
    copied.run("hv2", "systemctl", "stop", *units)
    try:
        # An earlier task could start libvirt, so check mode is no error.
        [unknown] = copied.migrate("hv2", check=True)["actions"]
        assert unknown["name"] == "not known yet" and "hv2" in unknown["subject"]
        require_failure(copied.migrate("hv2"), LibvirtMissing, names=["qemu:///system", "hv2"])
    finally:
        copied.run("hv2", "systemctl", "start", *units)
    require_as_before(copied)
