# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that are attached to domains and detached, on real libvirts."""

from __future__ import annotations

from running_disks import DETACH, STORE, VM, Machine

ODD = f"""{STORE}/it's "$(touch pwned)" & <a> b"""


def test_disks_of_a_domain_without_a_guest(machine: Machine) -> None:
    machine.shell('mkdir "$0"; truncate -s 1M "$0/disk"', ODD)
    definition = machine.definition()

    def attach(**options: object) -> dict:
        return machine.attach(**{"source": f"{ODD}/disk", "format": "raw", **options})

    # libvirt has no such file, so the definition is as it was.
    refused = attach(source=f"{ODD}/none")
    assert refused["error"] == "LibvirtFailed" and f"{ODD}/none" in refused["says"]
    taken = attach(target="vda")
    assert taken["error"] == "Conflict" and machine.path in taken["says"] and "'vdb'" in taken["says"]
    assert machine.definition() == definition
    # SCSI: libvirt's default controller has no driver in most guests.
    assert attach(bus="scsi") == {
        "actions": ["add disk", "plug controller", "plug disk"],
        "reasons": [],
        "target": "sda",
    }
    for options in ([], ["--inactive"]):
        text = machine.virsh("dumpxml", *options)
        assert "<controller type='scsi' index='0' model='virtio-scsi'>" in text
        assert "<address type='drive' controller='0' bus='0' target='0' unit='0'/>" in text
    assert attach(bus="scsi")["actions"] == []
    assert attach(bus="scsi", read_only=True)["reasons"] == ["the running domain has the disk with another read_only"]
    # On another bus only the definition changes.
    moved = attach(bus="sata")
    assert moved["actions"] == ["change disk"] and "bus" in moved["reasons"][0]
    assert [line.split()[0] for line in machine.virsh("domblklist").splitlines()[2:4]] == [
        "vda",
        "sda",
    ]
    # A paused guest can't release the disk.
    machine.virsh("suspend")
    refused = machine.detach(f"{ODD}/disk")
    assert refused["error"] == "Conflict" and "'sda'" in refused["says"]
    machine.virsh("destroy")
    assert machine.detach(f"{ODD}/disk")["actions"] == ["remove disk"]
    # Only the controllers stay.
    after = machine.definition()
    assert set(definition.splitlines()) <= set(after.splitlines()) and after.count("<disk ") == 1
    assert machine.shell("find /root /srv /var/lib/libvirt -name pwned") == ""


def test_a_guest_that_keeps_the_disk(machine: Machine) -> None:
    """The domain has no guest that could release it."""
    definition = machine.definition()
    impatient = "from ansible_collections.granary.vmstore.plugins.module_utils._libvirt import edit\n"
    refused = machine.engine(f"{impatient}edit.UNPLUG_DEADLINE = 1\n{DETACH}", machine.path)
    assert refused["error"] == "TimedOut" and "'vda'" in refused["says"], refused
    assert machine.definition() == definition and machine.path in machine.virsh("domblklist")


def test_an_image_below_a_disk_is_no_disk(machine: Machine) -> None:
    assert machine.detach(f"{STORE}/1/image") == {"actions": [], "reasons": [], "target": None}
    machine.virsh("destroy")
    assert machine.detach(f"{STORE}/1/image") == {"actions": [], "reasons": [], "target": None}


def test_a_saved_state_has_the_old_disks(machine: Machine) -> None:
    machine.virsh("managedsave")
    detached = machine.detach(machine.path)
    assert detached["actions"] == ["remove disk"] and "managedsave" in detached["reasons"][0]
    attached = machine.attach(source=machine.path, format="qcow2", bus="scsi")
    assert attached["actions"] == ["add disk"] and "managedsave" in attached["reasons"][0]


def test_a_transient_domain(machine: Machine) -> None:
    """A front-end of OpenNebula creates domains without a definition."""
    machine.virsh("undefine")
    machine.snapshot(0, 1)
    assert "error" not in machine.merge(3, 2, 1, 0)
    machine.run("truncate", "-s", "1M", f"{VM}/disk.1")
    options = {"source": f"{VM}/disk.1", "format": "raw"}
    refused = machine.attach(**options, bus="sata")
    assert refused["error"] == "Conflict" and "'sata'" in refused["says"]
    assert machine.attach(**options)["actions"] == ["plug disk"]
    assert f"{VM}/disk.1" in machine.virsh("domblklist")
    assert machine.name not in machine.run("virsh", "list", "--all", "--persistent", "--name")
