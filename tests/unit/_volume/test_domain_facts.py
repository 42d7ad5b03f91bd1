# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts about a domain in its XML."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.granary.vmstore.plugins.module_utils._libvirt import domain_xml
from ansible_collections.granary.vmstore.plugins.module_utils._volume.domain_facts import read_domain_facts
from ansible_collections.granary.vmstore.plugins.module_utils._volume.facts import DomainFacts

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "domain_xml"

DEFINITION = """
<domain>
  <vcpu placement='static' current='2'>4</vcpu>
  <iothreads>2</iothreads>
  <cputune>
    <vcpupin vcpu='0' cpuset='2'/>
    <vcpupin vcpu='1' cpuset='4-6,^5'/>
    <emulatorpin cpuset='0,1'/>
  </cputune>
  <os><type arch='aarch64' machine='virt-7.2'>hvm</type><boot dev='hd'/></os>
  <devices>
    <disk type='file'><target dev='vda' bus='virtio'/><driver iothread='2'/><serial>A</serial>
      <alias name='virtio-disk0'/><boot order='1'/></disk>
    <disk type='file'><target dev='sdb' bus='scsi'/><alias name='ua-data'/><serial>B</serial><boot order='2'/>
      <driver iothread='9'/><address type='drive' controller='1' unit='1'/></disk>
    <disk type='file'><target dev='sda' bus='scsi'/><address type='drive' controller='1' unit='5'/></disk>
    <disk type='file'><target dev='sdc' bus='sata'/><address type='drive' controller='1' unit='7'/></disk>
    <hostdev type='scsi'><address type='drive' controller='1' unit='6'/></hostdev>
    <hostdev type='scsi'><address type='drive' controller='0' unit='8'/></hostdev>
    <controller type='scsi' index='0' model='lsilogic'/>
    <controller type='scsi' index='1' model='virtio-scsi'/>
    <interface><mac address='52:54:00:00:00:01'/><boot order='3'/></interface>
    <filesystem><source dir='/srv/home'/><target dir='home'/></filesystem>
    <filesystem><source dir='/srv/ours'/><target dir='ours'/><alias name='ua-ours'/></filesystem>
  </devices>
</domain>
"""
RUNNING = """
<domain><devices>
  <disk><target dev='vdb' bus='virtio'/><driver><iothreads><iothread id='3'/></iothreads></driver></disk>
  <disk><target dev='vdd' bus='virtio'/><alias name='ua-data'/></disk>
  <disk><target dev='vde' bus='virtio'/><alias name='ua-old'/></disk>
</devices></domain>
"""


def test_the_facts_of_a_definition_and_of_the_running_domain() -> None:
    found = read_domain_facts(domain_xml.parse(DEFINITION), domain_xml.parse(RUNNING))
    assert found == DomainFacts(
        arch="aarch64",
        machine="virt-7.2",
        vcpus=2,
        targets={"data": "sdb", "old": "vde"},
        other_targets=frozenset(["vda", "vdb", "sda", "sdc"]),
        has_boot_devices=True,
        other_boot_orders={1: "the disk virtio-disk0", 3: "the interface 52:54:00:00:00:01"},
        other_serials={"A": "the disk virtio-disk0"},
        other_tags={"home": "the filesystem /srv/home"},
        other_scsi_units=frozenset([5, 6]),
        other_io_threads=3,
        scsi_controller=1,
        pinned_cpus=(2, 4, 6),
        emulator_cpus=(0, 1),
    )


def test_a_domain_without_pins_and_controllers() -> None:
    text = (
        "<domain><vcpu>2</vcpu><cputune><vcpupin vcpu='0' cpuset='1'/>{}</cputune><os><type/></os><devices/></domain>"
    )
    assert read_domain_facts(domain_xml.parse(text.format(""))) == DomainFacts(machine="", vcpus=2)
    shared = "<vcpupin vcpu='1' cpuset='1'/><emulatorpin cpuset='1-2'/>"
    found = read_domain_facts(domain_xml.parse(text.format(shared)))
    assert (found.pinned_cpus, found.emulator_cpus) == ((1,), ())


def test_definitions_that_libvirt_printed() -> None:
    for path in sorted(FIXTURES.glob("*.xml")):
        found = read_domain_facts(domain_xml.parse(path.read_text()))
        assert found.vcpus >= 1 and found.arch == "x86_64" and "vda" in found.other_targets
        assert found.has_pci_express == ("i440fx" not in path.name)
