# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Live migrations that fail half-way. virsh, qemu-io and ls verify that the VM runs on at its host, and that the target
is clean.
"""

from __future__ import annotations

import concurrent.futures
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import LibvirtFailed, LibvirtMissing
from lab import Lab
from migrating_vm import CATALOG, HOSTS, KILL, STORE, Execute, Vm
from refusal import require_failure

MIB = 1 << 20

#: Size of the disk that libvirt copies, in MiB, and the bandwidth in MiB/s.
SIZE, BANDWIDTH = 16, 12

#: Program of the target: wait until the disk has so many bytes, and then fill the file system, or send a signal to the
#: processes with a word in their command lines.
FAULT = """
import os, signal, sys, time
path, action, enough, name, number = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5]

def processes(word):
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                found += [int(name)] * (word in file.read())
        except OSError:
            pass
    return found

def allocated():
    try:
        return os.stat(path).st_blocks * 512
    except OSError:
        return -1

end = time.monotonic() + 100
while allocated() < enough or not processes(f"guest={name},".encode()):
    if time.monotonic() > end:
        sys.exit(f"{path} has {allocated()} bytes")
    time.sleep(0.005)
if action == "fill":
    with open(os.path.dirname(os.path.dirname(path)) + "/fill", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 20))
        except OSError:
            pass
else:
    for process in processes(action.encode()):
        if process != os.getpid():
            os.kill(process, getattr(signal, number))
"""

#: Lines about a VM on one host: the state of the domain, the existing names, and the number of the processes of QEMU.
LOOK = """
virsh domstate "$0" 2>/dev/null || echo none
ls -d "$1" 2>/dev/null || echo none
find "$2" -name .migrating -o -name '.*part*' | wc -l
pgrep -c -f "guest=$0,"
"""


#: Shell loop that waits, for at most two minutes, until the command $0 succeeds.
UNTIL = 'for i in $(seq 1200); do sh -c "$0" && exit; sleep 0.1; done; exit 1'

LIBVIRTD = "/usr/sbin/libvirtd"

#: Number of the moments at which a migration fails. The variable is for a longer trial.
MOMENTS = int(os.environ.get("MIGRATION_MOMENTS", "9"))


@pytest.fixture
def copied(make_migrating: Callable[..., Vm], migration_execute: Execute) -> Iterator[Vm]:
    """Return a running VM, whose target has little room for its datastore."""
    disk = {"size": f"{SIZE}M", "format": "raw", "attach": {}}
    vm = make_migrating("copied", [disk], datastore="copied", start=False)
    vm.write("hv1", 0, "raw", f"0 {SIZE}M")
    vm.virsh("hv1", "start", "copied")
    datastore = vm.directory.rpartition("/")[0]
    room = f'mkdir -p "$0"; mount -t tmpfs -o size={SIZE + 40}M,mode=0755 tmpfs "$0"'
    migration_execute("hv2", "sh", "-c", room, datastore)
    yield vm
    for host in HOSTS:
        migration_execute(host, "virsh", "destroy", "copied", check=False)
    migration_execute("hv2", "umount", datastore)


def look(vm: Vm, host: str) -> list[str]:
    return vm.run(host, "sh", "-c", LOOK, vm.domain, vm.directory, STORE, check=False).split()


def require_as_before(vm: Vm) -> None:
    """Require that the guest runs on at hv1, and that hv2 has nothing of the VM."""
    assert look(vm, "hv1") == ["running", vm.directory, "0", "1"]
    assert look(vm, "hv2") == ["none", "none", "0", "0"]
    assert vm.recorded_host() == "hv1"


def fail(vm: Vm, action: str, enough: int, number: str = "SIGKILL", then: Callable[[], object] = str) -> dict[str, Any]:
    """Let a migration fail when the target has so many bytes, and return the result of the module.

    :arg then: is called after the fault.
    """
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(vm.migrate, "hv2", bandwidth=BANDWIDTH)
        arguments = (f"{vm.directory}/disk.0", action, str(enough), vm.domain, number)
        vm.run("hv2", "python3", "-c", FAULT, *arguments, deadline=150)
        then()
    return running.result()


def test_failures_at_random_moments(copied: Vm) -> None:
    """A killed QEMU, a killed libvirtd, and a full file system of the target."""
    chosen, failed = random.Random(15), set()
    datastore = copied.directory.rpartition("/")[0]
    for number in range(MOMENTS):
        action = ("guest=copied", LIBVIRTD, "fill")[number % 3]
        result = fail(copied, action, chosen.randrange(SIZE * MIB * 3 // 4))
        copied.run("hv2", "rm", "-f", f"{datastore}/fill")
        if result["changed"]:  # the fault was too late
            copied.virsh("hv2", "start", "copied", check=False)
            result = copied.migrate("hv1")
            assert result.get("changed"), result
        else:
            failed.add(action)
            require_failure(result, LibvirtFailed, names=["'copied'", "hv2"])
        require_as_before(copied)
    assert len(failed) == 3
    copied.require_data("hv1", 0, "raw", f"0 {SIZE}M")
    assert copied.migrate("hv2").get("changed")
    copied.require_on("hv2")
    copied.require_data("hv2", 0, "raw", f"0 {SIZE}M")
    assert copied.migrate("hv1").get("changed")


def test_a_killed_run_that_leaves_the_guest_paused(copied: Vm) -> None:
    """The libvirt of the target ends before the guest can start there."""

    def kill() -> None:
        copied.run("hv1", "sh", "-c", UNTIL, "virsh domstate copied | grep -q paused", deadline=150)
        copied.run("hv1", "python3", "-c", KILL, f"{CATALOG}.vms.lock")
        copied.run("hv2", "pkill", "-SIGKILL", "-x", "libvirtd")

    assert "actions" not in fail(copied, LIBVIRTD, MIB, "SIGSTOP", kill)
    assert copied.virsh("hv1", "domstate", "copied").strip() == "paused"
    settled = "[ $(virsh domstate copied 2>/dev/null || echo none) = none ]"
    copied.run("hv2", "sh", "-c", UNTIL, settled, deadline=150)
    result = copied.migrate("hv2")
    assert [one["name"] for one in result.get("actions", [])] == ["migrate VM"], result
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

    result = fail(copied, "nothing", MIB, then=cut)
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
