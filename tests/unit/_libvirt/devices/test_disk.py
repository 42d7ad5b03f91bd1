# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks and SCSI controllers in domain XML that libvirt printed.

tests/integration/test_disk_attachment.py passes the written XML to real libvirts.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import Conflict, InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._core.records import replace
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt import domain_xml
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.disk import (
    Disk,
    check_disk,
    choose_target,
    create_disk,
    disks,
    file_names,
    find_disk,
    layers_of,
    read_disk,
    targets,
    write_disk,
)
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.scsi import (
    choose_scsi_address,
    choose_scsi_index,
    create_scsi_controller,
    find_scsi_controller,
)
from refusal import refused

#: A disk of a running domain with two snapshots, as libvirt 11.3 prints it. disk.0 was the newest file at its start.
RUNNING = """
<disk type='file' device='disk'>
  <driver name='qemu' type='qcow2' cache='none'/>
  <source file='/ds/0/6/disk.0.snap/2' index='4'/>
  <backingStore type='file' index='3'>
    <format type='qcow2'/>
    <source file='/ds/0/6/disk.0.snap/1'/>
    <backingStore type='file' index='1'>
      <format type='qcow2'/>
      <source file='/ds/0//6/disk.0'/>
      <backingStore/>
    </backingStore>
  </backingStore>
  <target dev='vda' bus='virtio'/>
  <iotune><total_iops_sec>100</total_iops_sec></iotune>
  <serial>abc</serial>
  <shareable/>
  <alias name='virtio-disk0'/>
</disk>
"""
OTHERS = """
<disk type='network' device='disk'><source protocol='rbd' name='pool/image'/><target dev='sda' bus='scsi'/></disk>
<disk type='file' device='cdrom'><target dev='hda' bus='ide'/><readonly/></disk>
"""


def domain(devices: str) -> ET.Element:
    return domain_xml.parse(f"<domain><devices>{devices}</devices></domain>")


EVERY = [
    Disk("/ds/0/6/disk.0", "qcow2", "vda"),
    Disk('/it\'s "&<a>"', "raw", "sdb", "scsi", read_only=True, shareable=True, serial="a-1"),
    Disk("/ds/iso", "raw", "sda", "sata", "cdrom", read_only=True),
]


@pytest.mark.parametrize("disk", EVERY)
def test_a_disk_is_read_as_it_was_written(disk: Disk) -> None:
    text = domain_xml.to_text(create_disk(disk))
    assert read_disk(domain_xml.parse(text)) == disk
    check_disk(disk)


@pytest.mark.parametrize("disk", EVERY)
def test_other_content_stays(disk: Disk) -> None:
    element = domain_xml.parse(RUNNING)
    write_disk(element, disk)
    assert read_disk(element) == disk
    assert element.findtext("iotune/total_iops_sec") == "100"
    assert element.find("driver").get("cache") == "none" and element.find("alias") is not None


def test_the_disk_of_a_running_domain_is_found_by_every_file() -> None:
    root = domain(OTHERS + RUNNING)
    element = root.findall("devices/disk")[2]
    # The link leads to the newest file, or still to the one before.
    for names in (["/ds/0/6/disk.0"], ["/ds/0/6/disk.0.snap/2"], ["/ds/0/6/disk.0", "/ds/0/6/disk.0.snap/1"]):
        assert find_disk(root, frozenset(names)) is element
    # A persistent disk is a link to an image.
    image = domain(RUNNING.replace("/ds/0/6/disk.0.snap/", "/ds/1/image.snap/"))
    assert find_disk(image, frozenset(["/ds/0/6/disk.0", "/ds/1/image.snap/1"])) is image.find("devices/disk")
    assert find_disk(root, frozenset(["/ds/0/6/disk", "/", "pool/image"])) is None
    assert [layer.tag for layer in layers_of(element)] == ["disk", "backingStore", "backingStore"]
    assert [disk.serial for _element, disk in disks(root)] == ["abc"]
    assert targets(root) == {"sda": "rbd", "hda": "no medium", "vda": "/ds/0/6/disk.0.snap/2"}


def test_an_image_below_a_disk_is_another_disk() -> None:
    clone = (
        "<disk><source file='/ds/0/6/disk.0.snap/0'/><backingStore><source file='/ds/1/image'/></backingStore></disk>"
    )
    root = domain(clone)
    assert find_disk(root, frozenset(["/ds/1/image"])) is None
    assert find_disk(root, frozenset(["/ds/0/6/disk.0", "/ds/0/6/disk.0.snap/0"])) is root.find("devices/disk")


def test_the_names_of_a_disk(tmp_path: Path) -> None:
    (tmp_path / "disk.0.snap").mkdir()
    (tmp_path / "disk.0.snap" / "3").touch()
    (tmp_path / "disk.0").symlink_to("disk.0.snap/3")
    assert file_names(f"{tmp_path}//disk.0") == {f"{tmp_path}/disk.0", f"{tmp_path}/disk.0.snap/3"}


def test_differences_leave_out_the_file() -> None:
    disk = EVERY[0]
    assert disk.differences(replace(disk, source="/other")) == []
    assert disk.differences(replace(disk, bus="scsi", serial="x")) == ["bus", "serial"]


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"format": "vmdk"}, "format"),
        ({"bus": "nvme"}, "bus"),
        ({"device": "lun"}, "device"),
        ({"target": "sda"}, "target"),
        ({"target": "vda\n"}, "target"),
        ({"target": "vdaaa"}, "target"),
        ({"serial": ""}, "serial"),
        ({"serial": "a b"}, "serial"),
        ({"serial": "a" * 21}, "serial"),
        ({"device": "cdrom", "target": None, "read_only": True}, "bus"),
        ({"device": "cdrom", "target": None, "bus": "sata"}, "read_only"),
        ({"bus": "sata", "target": None, "read_only": True}, "read_only"),
        ({"shareable": True}, "shareable"),
    ],
)
def test_disks_that_qemu_does_not_support(changes: dict[str, object], option: str) -> None:
    disk = replace(EVERY[0], **changes)
    with refused(InvalidInput, option=option, value=getattr(disk, option)):
        check_disk(disk)


def test_free_targets() -> None:
    root, other = domain(RUNNING + OTHERS), domain("<disk><target dev='sdb'/></disk>")
    assert [choose_target(bus, root) for bus in ("virtio", "scsi", "ide")] == ["vdb", "sdb", "hdb"]
    assert choose_target("usb", root, other) == "sdc"
    letters = "abcdefghijklmnopqrstuvwxyz"
    full = domain("".join(f"<disk><target dev='vd{letter}'/></disk>" for letter in letters))
    assert choose_target("virtio", full) == "vdaa"
    with refused(
        Conflict, says="The domain has no free target name for one more disk on the bus 'ide'.", names=["'ide'"]
    ):
        choose_target("ide", domain("".join(f"<disk><target dev='hd{letter}'/></disk>" for letter in "abcd")))


def test_scsi_places() -> None:
    address = "<address type='drive' controller='{}' bus='0' target='0' unit='{}'/>"
    root = domain(
        "<controller type='scsi' index='0' model='lsilogic'/><controller type='virtio-serial' index='0'/>"
        f"<disk><target bus='sata'/>{address.format(1, 0)}</disk>"
        f"<disk><target bus='scsi'/>{address.format(1, 1)}</disk>"
        f"<hostdev><source><address bus='0' target='0' unit='5'/></source>{address.format(1, 2)}</hostdev>"
    )
    assert find_scsi_controller(root) is None and choose_scsi_index(root) == "1"
    root.find("devices").append(create_scsi_controller("1"))
    assert find_scsi_controller(root) == "1" and choose_scsi_index(root, domain("")) == "2"
    units = [choose_scsi_address(index, root).get("unit") for index in ("0", "1")]
    assert units == ["0", "0"]
    other = domain(f"<disk><target bus='scsi'/>{address.format(1, 0)}</disk>")
    assert choose_scsi_address("1", root, other).attrib == {
        "type": "drive",
        "controller": "1",
        "bus": "0",
        "target": "0",
        "unit": "3",
    }
    full = domain("".join(f"<disk><target bus='scsi'/>{address.format(0, unit)}</disk>" for unit in range(256)))
    with refused(Conflict, says="The SCSI controller 0 of the domain has no free unit for one more disk."):
        choose_scsi_address("0", full)
