# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans that attach disks to definitions and detach them, on libvirt's own test driver, which plugs no disks.

tests/integration/test_disk_attachment.py has running domains.
"""

from __future__ import annotations

from collections.abc import Iterator

import libvirt
import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    InvalidInput,
    LibvirtFailed,
    StaleState,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.connection import Domain, Hypervisor
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.disk import Disk
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.disk_attachment import (
    DiskPlan,
    plan_attachment,
    plan_detachment,
)
from refusal import refused

URI = "test:///default"
NAME = 'it\'s <6> & "$(id)"'
FOREIGN = """
<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='rbd' name='pool/image'/>
<target dev='vda' bus='virtio'/></disk><graphics type='vnc' port='5901' passwd='secret'/>
"""


@pytest.fixture
def defined() -> Iterator[libvirt.virDomain]:
    libvirt.registerErrorHandler(lambda *unused: None, None)
    connection = libvirt.open(URI)
    name = NAME.replace("&", "&amp;").replace("<", "&lt;")
    found = connection.defineXML(
        f"<domain type='test'><name>{name}</name><title>kept</title><memory unit='MiB'>64</memory>"
        f"<os><type>hvm</type></os><devices>{FOREIGN}</devices></domain>"
    )
    yield found
    if found.isActive():
        found.destroy()
    found.undefine()
    connection.close()


@pytest.fixture
def domain(defined: libvirt.virDomain) -> Domain:
    return Hypervisor(URI).domain(NAME)


def definition(defined: libvirt.virDomain) -> str:
    return defined.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)


def names(plan: DiskPlan) -> list[str]:
    return [action.name for action in plan.actions]


def run(plan: DiskPlan) -> None:
    Plan(actions=plan.actions).run()


DISK = Disk("/ds/0/6/disk.0", "qcow2")


def test_a_disk_is_added_changed_and_removed(defined: libvirt.virDomain, domain: Domain) -> None:
    before = definition(defined)
    plan = plan_attachment(domain, DISK)
    assert (names(plan), plan.disk and plan.disk.target, plan.restart_reasons) == (["add disk"], "vdb", [])
    [action] = plan.actions
    assert action.subject == f"domain {NAME!r}" and action.before is None
    assert '<source file="/ds/0/6/disk.0" />' in str(action.after) and "secret" not in str(action.after)
    assert definition(defined) == before
    run(plan)
    assert "passwd='secret'" in definition(defined) and "<source file='/ds/0/6/disk.0'/>" in definition(defined)
    assert names(plan_attachment(domain, DISK)) == []
    # In place, and on another bus as a new device. OpenNebula writes the path with two slashes.
    for disk, target in (
        (Disk("/ds/0//6/disk.0", "qcow2", serial="a"), "vdb"),
        (Disk("/ds/0/6/disk.0", "qcow2", bus="sata"), "sda"),
        (Disk("/ds/0/6/disk.0", "qcow2", "vdc"), "vdc"),
    ):
        plan = plan_attachment(domain, disk)
        assert (names(plan), plan.disk and plan.disk.target) == (["change disk"], target)
        run(plan)
        assert names(plan_attachment(domain, disk)) == []
        assert definition(defined).count("<disk ") == 2
    plan = plan_detachment(domain, "/ds/0/6/disk.0")
    assert (names(plan), plan.disk and plan.disk.target) == (["remove disk"], "vdc")
    run(plan)
    assert names(plan_detachment(domain, "/ds/0/6/disk.0")) == []
    assert [line for line in before.splitlines() if line not in definition(defined)] == []


def test_a_scsi_disk_gets_a_controller_that_guests_have_a_driver_for(
    defined: libvirt.virDomain, domain: Domain
) -> None:
    run(plan_attachment(domain, Disk("/ds/0/6/disk.1", "raw", bus="scsi")))
    run(plan_attachment(domain, Disk("/ds/0/6/disk.2", "raw", bus="scsi")))
    text = definition(defined)
    assert (
        text.count("<controller type='scsi' index='0' model='virtio-scsi'")
        == text.count("<controller type='scsi'")
        == 1
    )
    assert [f"target='0' unit='{unit}'/>" in text for unit in (0, 1, 2)] == [True, True, False]


def test_a_target_in_use_is_named(defined: libvirt.virDomain, domain: Domain) -> None:
    with refused(
        Conflict,
        says=f"target: 'vda' belongs to 'rbd' in the domain {NAME!r}; 'vdb' is free.",
        names=["'vda'", "'vdb'"],
    ):
        plan_attachment(domain, Disk("/ds/0/6/disk.0", "raw", "vda"))
    with refused(InvalidInput, option="bus", value="nvme"):
        plan_attachment(domain, Disk("/ds/0/6/disk.0", "raw", bus="nvme"))


def test_a_change_of_another_program_stays(defined: libvirt.virDomain, domain: Domain) -> None:
    plan = plan_attachment(domain, DISK)
    other = definition(defined).replace("kept", "other")
    defined.connect().defineXML(other)
    with refused(StaleState, names=[repr(NAME)]):
        run(plan)
    assert "<title>other</title>" in definition(defined) and "disk.0" not in definition(defined)


def test_a_failed_plug_restores_the_definition(defined: libvirt.virDomain, domain: Domain) -> None:
    defined.create()
    before = definition(defined)
    plan = plan_attachment(domain, DISK)
    assert names(plan) == ["add disk", "plug disk"]
    with refused(LibvirtFailed, names=[repr(NAME)]):
        run(plan)
    assert definition(defined) == before


def test_a_bus_without_hot_plug_needs_a_restart(defined: libvirt.virDomain, domain: Domain) -> None:
    defined.create()
    plan = plan_attachment(domain, Disk("/ds/0/6/disk.0", "raw", bus="sata"))
    assert names(plan) == ["add disk"]
    assert plan.restart_reasons == [
        "a running domain gets disks on the buses virtio and scsi only, and this one is on 'sata'"
    ]
    run(plan)
    assert len(plan_attachment(domain, Disk("/ds/0/6/disk.0", "raw", bus="sata")).restart_reasons) == 1
    defined.destroy()
    assert plan_attachment(domain, Disk("/ds/0/6/disk.0", "raw", bus="sata")).restart_reasons == []
    defined.create()
    plan = plan_detachment(domain, "/ds/0/6/disk.0")
    assert names(plan) == ["remove disk"] and "loses" in plan.restart_reasons[0]
