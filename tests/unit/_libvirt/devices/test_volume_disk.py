# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ``<disk>`` device for a volume, and the domain's elements that go with it."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.records import replace
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt import domain_xml
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.alias import name_of, set_name
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.disk import Disk, create_disk, disks
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.io_threads import (
    count_io_threads,
    set_io_threads,
)
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.metrics_channel import (
    create_metrics_channel,
    find_metrics_channel,
)
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.volume_disk import (
    MANAGED,
    DiskLayer,
    ScsiAddress,
    VolumeDisk,
    create_volume_disk,
    read_volume_disk,
    volume_disks,
    write_volume_disk,
)
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.difference import first_difference
from hypothesis import given
from hypothesis import strategies as st

TEXTS = st.text(alphabet="abcXYZ019-_./ '\"&<>é", min_size=1, max_size=20)
LAYERS = st.builds(DiskLayer, TEXTS, st.booleans(), st.sampled_from(["raw", "qcow2"]))
BACKINGS = st.builds(DiskLayer, TEXTS, st.booleans(), st.sampled_from(["raw", "qcow2"]), st.booleans())
NUMBERS = st.none() | st.integers(1, 2**31)


def choice(*values: str) -> st.SearchStrategy[str | None]:
    return st.none() | st.sampled_from(values)


@st.composite
def devices(draw: st.DrawFn) -> VolumeDisk:
    """Return any device that can be printed."""
    bus = draw(st.sampled_from(["virtio", "scsi", "sata", "usb"]))
    device = draw(st.sampled_from(["disk", "lun", "cdrom"]))
    layer = draw(LAYERS)
    return VolumeDisk(
        name=draw(TEXTS),
        target=draw(st.from_regex("[vs]d[a-z]{1,2}", fullmatch=True)),
        bus=bus,
        device=device,
        layer=None if device == "cdrom" and draw(st.booleans()) else layer,
        backing=(backing := draw(st.none() | BACKINGS)),
        is_alone=backing is None and draw(st.booleans()),
        model=draw(choice("virtio", "virtio-non-transitional")),
        cache=draw(choice("none", "writeback")),
        error_policy=draw(choice("stop", "report")),
        io=draw(choice("native", "threads")),
        discard=draw(choice("unmap")),
        queues=draw(NUMBERS),
        io_thread=draw(NUMBERS),
        io_threads=tuple(draw(st.lists(st.integers(1, 99), max_size=4))),
        reservation=None if draw(st.booleans()) else draw(st.sampled_from([MANAGED, "/run/pr.sock"])),
        tray=draw(st.sampled_from(["open", "closed"])) if device == "cdrom" else None,
        serial=draw(st.none() | TEXTS),
        read_only=draw(st.booleans()),
        shareable=draw(st.booleans()),
        logical_block_size=draw(NUMBERS),
        physical_block_size=draw(NUMBERS),
        discard_granularity=draw(NUMBERS),
        boot_order=draw(NUMBERS),
        pci_address=draw(choice("0000:81:01.0", "00ff:00:1f.7")) if bus == "virtio" else None,
        scsi_address=draw(st.none() | st.builds(ScsiAddress, st.integers(0, 9), st.integers(0, 255)))
        if bus == "scsi"
        else None,
    )


def written(device: VolumeDisk) -> ET.Element:
    return domain_xml.parse(domain_xml.to_text(create_volume_disk(device)))


@given(devices())
def test_a_device_is_read_as_it_was_written(device: VolumeDisk) -> None:
    found = read_volume_disk(written(device))
    # The data of an empty drive has no format.
    assert found == device
    assert device.differences(found) == []


@given(devices(), devices())
def test_a_device_is_changed_to_another_one(old: VolumeDisk, new: VolumeDisk) -> None:
    """libvirt's own additions stay, and nothing else of the old device."""
    element = written(old)
    ET.SubElement(element, "iotune").append(ET.Element("total_iops_sec"))
    write_volume_disk(element, new)
    expected = replace(
        new,
        model=new.model or old.model,
        backing=new.backing or (None if new.is_alone else old.backing),
        pci_address=new.pci_address or (None if new.scsi_address else old.pci_address),
        scsi_address=new.scsi_address or (old.scsi_address if new.bus == "scsi" else None),
    )
    assert read_volume_disk(element) == expected
    assert element.find("iotune/total_iops_sec") is not None


PRINTED = """
<disk type='file' device='cdrom'>
  <driver name='qemu' type='raw' cache='none' error_policy='stop'/>
  <source file='/i/a.iso' index='1'/>
  <backingStore/>
  <target dev='sda' bus='sata'/>
  <readonly/>
  <alias name='ua-iso'/>
  <address type='drive' controller='0' bus='0' target='0' unit='0'/>
</disk>
"""


def test_the_owner_of_a_backing_file_stays() -> None:
    """libvirt gives all other files of the disk to the user of QEMU."""
    base = DiskLayer("/c/disk", False, "raw", keeps_owner=True)
    element = written(VolumeDisk("a", "vda", "virtio", layer=DiskLayer("/a", False, "qcow2"), backing=base))
    assert [one.attrib for one in element.iter("seclabel")] == [{"model": "dac", "relabel": "no"}]
    assert element.find("backingStore/source/seclabel") is not None


def test_what_libvirt_adds_is_no_difference() -> None:
    declared = VolumeDisk(
        "iso", "sda", "sata", "cdrom", DiskLayer("/i/a.iso"), cache="none", error_policy="stop", tray="closed"
    )
    found = read_volume_disk(domain_xml.parse(PRINTED))
    assert found == replace(declared, read_only=True, is_alone=True)
    assert declared.differences(found) == []
    assert replace(declared, serial="A", cache="writeback").differences(found) == ["cache", "serial"]


def test_libvirt_leaves_out_the_tray_of_a_closed_drive() -> None:
    expected = "<domain><devices><disk><target dev='sda' tray='{}'/></disk></devices></domain>"
    found = domain_xml.parse("<domain><devices><disk><target dev='sda'/></disk></devices></domain>")
    assert first_difference(domain_xml.parse(expected.format("closed")), found) is None
    assert first_difference(domain_xml.parse(expected.format("open")), found) == "/domain/devices/disk/target"


def test_libvirt_changes_the_type_of_an_empty_drive() -> None:
    expected = "<domain><devices><disk type='block' device='cdrom'>{}</disk></devices></domain>"
    found = expected.replace("block", "file")
    trees = [domain_xml.parse(text.format(inner)) for inner in ("", "<source dev='/a'/>") for text in (expected, found)]
    assert first_difference(*trees[:2]) is None
    assert first_difference(*trees[2:]) == "/domain/devices/disk"


def test_devices_of_others_are_none_of_ours() -> None:
    root = domain_xml.parse("<domain><devices><disk/></devices></domain>")
    inner = domain_xml.devices(root)
    inner.append(create_disk(Disk("/ds/a", "raw", "vdb")))
    inner.append(create_volume_disk(VolumeDisk("a", "vda", "virtio", layer=DiskLayer("/dev/b", True))))
    assert [disk.name for _element, disk in volume_disks(root)] == ["a"]
    assert [disk.target for _element, disk in disks(root)] == ["vdb"]


def test_names_are_those_of_user_aliases() -> None:
    element = ET.Element("disk")
    assert name_of(element) is None
    ET.SubElement(element, "alias", {"name": "virtio-disk0"})
    assert name_of(element) is None
    set_name(element, "root")
    assert (name_of(element), domain_xml.attribute(element, "alias", "name")) == ("root", "ua-root")


@pytest.mark.parametrize("before", ["", "<iothreads>2</iothreads><cputune><vcpupin vcpu='0' cpuset='1'/></cputune>"])
def test_threads_are_set_and_removed(before: str) -> None:
    root = domain_xml.parse(f"<domain>{before}<devices/></domain>")
    text = domain_xml.to_text(root)
    set_io_threads(root, 3, {2: "6", 1: "4,5"})
    assert count_io_threads(root) == 3
    pins = [dict(pin.attrib) for pin in root.findall("cputune/iothreadpin")]
    assert pins == [{"iothread": "1", "cpuset": "4,5"}, {"iothread": "2", "cpuset": "6"}]
    assert len(root.findall("cputune/vcpupin")) == text.count("vcpupin")
    set_io_threads(root, 0, {})
    assert (count_io_threads(root), root.find("iothreads")) == (0, None)
    assert ("cputune" in domain_xml.to_text(root)) == ("cputune" in text)


def test_the_channel_for_metrics() -> None:
    root = domain_xml.parse(
        "<domain><devices><channel><target name='org.qemu.guest_agent.0'/></channel></devices></domain>"
    )
    assert find_metrics_channel(root) is None
    channel = create_metrics_channel("/run/m.sock")
    domain_xml.devices(root).append(channel)
    assert find_metrics_channel(root) is channel
