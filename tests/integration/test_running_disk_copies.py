# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of disks of running domains, and guests that don't write meanwhile, on real libvirts."""

from __future__ import annotations

import json
import shlex

import pytest
from running_disks import COPY, KILLED, QUIESCE, RESIZE, VM, Machine


def test_a_disk_grows_while_the_domain_runs(machine: Machine) -> None:
    assert machine.engine(RESIZE, machine.path, 32 << 20) == {}
    assert f"Capacity:       {32 << 20}" in machine.virsh("domblkinfo", "vda")
    assert machine.engine(RESIZE, machine.path, 32 << 20) == {}
    refused = machine.engine(RESIZE, machine.path, 16 << 20)
    assert refused["error"] == "InvalidInput" and str(32 << 20) in refused["says"]
    machine.virsh("destroy")
    assert json.loads(machine.run("qemu-img", "info", "--output=json", machine.path))["virtual-size"] == 32 << 20
    gone = machine.engine(RESIZE, machine.path, 64 << 20)
    assert gone["error"] == "NotFound" and machine.name in gone["says"]


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_copy_of_a_running_disk(machine: Machine, format: str) -> None:
    machine.write(2, 1)
    machine.snapshot(0)
    machine.write(3, 2)
    machine.run("qemu-img", "create", "-q", "-f", format, f"{VM}/copy", "16M")
    copied = machine.engine(COPY, machine.path, f"{VM}/copy", format, "60", "suspend")
    assert "error" not in copied and copied["size"] == 16 << 20
    assert machine.state() == "running"
    machine.write(4, 1)
    machine.check(f"{VM}/copy", 1, 2, 3, 0, format=format)
    allocated = int(machine.run("du", "-k", f"{VM}/copy").split()[0])
    assert (allocated < 1024) == (format == "qcow2")
    machine.check(machine.path, 1, 4, 3, 0)


def test_a_copy_without_space(machine: Machine) -> None:
    for number in range(32):
        machine.write(5, number)
    machine.shell(f"mkdir {VM}/full; mount -t tmpfs -o size=1M none {VM}/full; truncate -s 16M {VM}/full/x")
    try:
        refused = machine.engine(COPY, machine.path, f"{VM}/full/x", "raw", "60")
        assert refused["error"] == "LibvirtFailed" and f"{VM}/full/x" in refused["says"], refused
        assert machine.virsh("domjobinfo").split()[2] == "None"
        assert machine.state() == "running"
    finally:
        machine.run("umount", "-l", f"{VM}/full")


# A guest that doesn't write


def test_a_suspended_domain_runs_again(machine: Machine) -> None:
    state = shlex.join(["virsh", "domstate", machine.name])
    assert machine.engine(QUIESCE, "auto", "60", state, "0") == {"way": "suspend", "inside": ["paused"]}
    assert machine.state() == "running"
    late = machine.engine(QUIESCE, "suspend", "0.2", state, "1")
    assert late["error"] == "TimedOut" and machine.name in late["says"]
    assert machine.state() == "running"
    assert machine.engine(KILLED, "suspend", state) == {"before": ["paused"], "after": ["running"]}
    refused = machine.engine(QUIESCE, "agent", "60", state, "0")
    assert refused["error"] == "UnsupportedAction" and machine.name in refused["says"]
    # A domain that was paused before stays paused.
    machine.virsh("suspend")
    assert machine.engine(QUIESCE, "auto", "60", state, "0") == {"way": "halted", "inside": ["paused"]}
    assert machine.state() == "paused"
    machine.snapshot(0)
    assert machine.state() == "paused"
    machine.virsh("destroy")
    assert machine.engine(QUIESCE, "auto", "60", state, "0")["error"] == "NotFound"
