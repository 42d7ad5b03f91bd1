# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Devices in domain XML that libvirt printed.

tests/integration/test_virtiofs_export_xml.py passes the written XML to real libvirts.
"""

from __future__ import annotations

import difflib
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import Conflict
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt import domain_xml
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.cdrom import cdrom_of, create_cdrom
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.filesystem import (
    VirtioFs,
    create_filesystem,
    filesystems,
    read_filesystem,
    tags,
    write_filesystem,
)
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.memory import (
    memory_is_shared,
    share_memory,
)
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.pci import has_free_slot
from ansible_collections.granary.vmstore.plugins.module_utils._model.idmap import IdMap
from refusal import refused

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "domain_xml"
EVERY = sorted(path.name for path in FIXTURES.glob("*.xml"))
MAPS = (IdMap(0, 100000, 65536),)


def tree_of(name: str) -> ET.Element:
    return domain_xml.parse((FIXTURES / name).read_text())


def domain(inside: str = "", devices: str = "", machine: str = "q35") -> ET.Element:
    return domain_xml.parse(
        f"<domain><memory>1</memory>{inside}<os><type arch='x86_64' "
        f"machine='{machine}'>hvm</type></os><devices>{devices}</devices></domain>"
    )


def add_device(root: ET.Element, wanted: VirtioFs) -> ET.Element:
    element = create_filesystem(wanted)
    domain_xml.devices(root).append(element)
    return element


@pytest.mark.parametrize("name", [name for name in EVERY if "virtiofs" in name])
def test_what_is_read_and_written_back_is_the_same(name: str) -> None:
    root = tree_of(name)
    before = domain_xml.pretty(root)
    found = list(filesystems(root))
    assert found
    for element, device in found:
        if device.source:  # devices with an external daemon's socket have no source
            write_filesystem(element, device)
    assert domain_xml.pretty(root) == before


def test_every_part_of_a_device_is_read() -> None:
    [(_element, device)] = filesystems(tree_of("11.3-virtiofs-options.xml"))
    assert device == VirtioFs(
        "one-3",
        '/srv/a & b\'s "data"',
        uid_map=MAPS,
        gid_map=MAPS,
        binary="/usr/local/libexec/vfsd",
        cache="always",
        xattr=True,
        sandbox="chroot",
        thread_pool=8,
    )
    [(_element, device)] = filesystems(
        domain(devices="<filesystem><driver type='virtiofs' queue='64'/><target dir='t'/><readonly/></filesystem>")
    )
    assert device == VirtioFs("t", "", read_only=True, queue=64)


def test_a_tag_is_in_use_whatever_its_device_shares() -> None:
    devices = "".join(
        f"<filesystem><source {name}='/x/{name}'/><target dir='{name}'/></filesystem>"
        for name in ("dir", "socket", "dev")
    )
    root = domain_xml.parse(
        f"<domain><devices>{devices}<filesystem><target dir='bare'/></filesystem></devices></domain>"
    )
    assert tags(root) == {"dir": "/x/dir", "socket": "/x/socket", "dev": "/x/dev", "bare": ""}


def test_9p_devices_count_as_tags_only() -> None:
    root = tree_of("11.3-filesystem-9p.xml")
    assert list(filesystems(root)) == []
    assert len(tags(root)) == 1


def test_what_isnt_ours_in_a_device_stays_and_what_is_off_goes() -> None:
    root = domain(
        devices="<filesystem><driver type='virtiofs' iommu='on' queue='64'/><binary path='/x' xattr='on'><cache "
        "mode='always'/><lock posix='on'/></binary><source dir='/a'/><target dir='t'/><readonly/><idmap><uid start='0' "
        "target='1' count='1'/></idmap><address type='pci' bus='0x03'/></filesystem>"
    )
    [(element, device)] = filesystems(root)
    write_filesystem(element, VirtioFs("t", "/a").complete_from(device))
    assert domain_xml.to_text(element) == (
        '<filesystem><driver type="virtiofs" iommu="on" queue="64" /><binary xattr="on"><lock posix="on" /></binary>'
        '<source dir="/a" /><target dir="t" /><address type="pci" bus="0x03" /></filesystem>'
    )


def test_hostile_names_are_text() -> None:
    path = '/srv/it\'s <a> & "$(touch x)"'
    again = domain_xml.parse(domain_xml.to_text(add_device(domain(), VirtioFs("t", path))))
    assert read_filesystem(again).source == path


@pytest.mark.parametrize("name", [name for name in EVERY if "private" not in name])
def test_adding_a_device_adds_lines_and_takes_none_away(name: str) -> None:
    root = tree_of(name)
    was_shared = memory_is_shared(root)
    old = domain_xml.pretty(root)
    add_device(root, VirtioFs("new", "/srv/new", uid_map=MAPS, gid_map=MAPS, cache="none"))
    share_memory(root)
    lines = [line for line in difflib.ndiff(old.splitlines(), domain_xml.pretty(root).splitlines()) if line[0] in "+-"]
    assert [line for line in lines if line.startswith("-")] == []
    memory = {line[1:].strip() for line in lines if re.search("<access|<source type|memoryBacking", line)}
    if was_shared:
        assert memory == set()
    elif "hugepages" in name:
        assert memory == {'<access mode="shared" />'}
    else:
        assert memory == {"<memoryBacking>", '<access mode="shared" />', '<source type="memfd" />', "</memoryBacking>"}
    assert memory_is_shared(root)


@pytest.mark.parametrize(
    ("inside", "shared", "backing"),
    [
        ("", False, '<memoryBacking><access mode="shared" /><source type="memfd" /></memoryBacking>'),
        (
            "<memoryBacking><access mode='shared'/></memoryBacking>",
            True,
            '<memoryBacking><access mode="shared" /></memoryBacking>',
        ),
        (
            "<memoryBacking><hugepages/><locked/></memoryBacking>",
            False,
            '<memoryBacking><hugepages /><locked /><access mode="shared" /></memoryBacking>',
        ),
        (
            "<memoryBacking><source type='file'/></memoryBacking>",
            False,
            '<memoryBacking><source type="file" /><access mode="shared" /></memoryBacking>',
        ),
        (
            "<memoryBacking><source type='anonymous'/><access mode='private'/></memoryBacking>",
            False,
            '<memoryBacking><source type="memfd" /><access mode="shared" /></memoryBacking>',
        ),
        ("<cpu><numa><cell id='0' memAccess='shared'/></numa></cpu>", True, None),
        (
            "<cpu><numa><cell id='0' memAccess='shared'/><cell id='1'/></numa></cpu>",
            False,
            '<memoryBacking><access mode="shared" /><source type="memfd" /></memoryBacking>',
        ),
    ],
)
def test_memory_is_shared_with_the_least_change(inside: str, shared: bool, backing: str | None) -> None:
    root = domain(inside)
    assert memory_is_shared(root) is shared
    share_memory(root)
    assert memory_is_shared(root)
    found = root.find("memoryBacking")
    assert (None if found is None else domain_xml.to_text(found)) == backing


@pytest.mark.parametrize("default", ["", "<memoryBacking><access mode='shared'/></memoryBacking>"])
def test_a_private_numa_cell_is_named(default: str) -> None:
    root = domain(default + "<cpu><numa><cell id='0'/><cell id='1' memAccess='private'/></numa></cpu>")
    before = domain_xml.to_text(root)
    assert not memory_is_shared(root)
    with refused(
        Conflict,
        says="The NUMA cell '1' of the domain has memAccess='private' and virtiofs needs shared "
        "memory: remove that attribute first.",
    ):
        share_memory(root)
    assert domain_xml.to_text(root) == before


DIMM = (
    "<cpu><numa><cell id='0'/></numa></cpu><devices><memory "
    "model='{model}'{access}><target><size>1</size><node>0</node></target></memory></devices>"
)


@pytest.mark.parametrize("model", ["dimm", "nvdimm", "virtio-mem"])
def test_a_private_memory_device_is_named(model: str) -> None:
    shared = "<memoryBacking><access mode='shared'/></memoryBacking>"
    root = domain_xml.parse(f"<domain>{shared}{DIMM.format(model=model, access=' access=' + repr('private'))}</domain>")
    assert not memory_is_shared(root)
    with refused(
        Conflict,
        says=f"The {model} device of the NUMA cell '0' of the domain has access='private' and virtiofs "
        "needs shared memory: the guest hangs when a buffer lies in it; remove that attribute "
        "first.",
    ):
        share_memory(root)
    assert memory_is_shared(domain_xml.parse(f"<domain>{shared}{DIMM.format(model=model, access='')}</domain>"))


def test_memory_that_virtiofs_never_maps_may_be_private() -> None:
    shared = "<memoryBacking><access mode='shared'/></memoryBacking>"
    assert memory_is_shared(
        domain_xml.parse(
            f"<domain>{shared}{DIMM.format(model='sgx-epc', access=' access=' + repr('private'))}</domain>"
        )
    )


ALL_SLOTS = "".join(f"<video><address type='pci' bus='0x00' slot='{number:#x}'/></video>" for number in range(1, 32))


PORT = "<controller type='pci' index='{}' model='pcie-root-port'>{}</controller>"


@pytest.mark.parametrize(
    ("devices", "free"),
    [
        ("<controller type='pci' index='0' model='pcie-root'/>", False),
        (PORT.format(1, ""), True),
        (PORT.format(1, "<target hotplug='off'/>"), False),
        (PORT.format(10, "") + "<memballoon><address type='pci' bus='0x0a' slot='0x00'/></memballoon>", False),
        (
            PORT.format(10, "")
            + "<hostdev><source><address bus='0x0a'/></source><address type='pci' bus='0x01'/></hostdev>",
            True,
        ),
        ("<controller type='pci' index='0' model='pci-root'/>", True),
        ("<controller type='pci' index='0' model='pci-root'/>" + ALL_SLOTS, False),
        ("<controller type='usb' index='0'/>", True),
    ],
)
def test_free_slots(devices: str, free: bool) -> None:
    assert has_free_slot(domain(devices=devices)) is free


def test_a_seed_gets_a_drive_of_its_own() -> None:
    root = domain(devices="<disk device='cdrom'><target dev='sda' bus='sata'/></disk>")
    assert cdrom_of(root, "/seed") is None
    disk = create_cdrom(root, "/seed")
    domain_xml.devices(root).append(disk)
    assert cdrom_of(root, "/seed") is disk
    assert (disk.find("target").attrib, disk.find("readonly") is not None) == ({"dev": "sdb", "bus": "sata"}, True)
    assert create_cdrom(domain(machine="pc-i440fx-7.2"), "/seed").find("target").attrib == {
        "dev": "hda",
        "bus": "ide",
    }
