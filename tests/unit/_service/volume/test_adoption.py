# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that a domain had before its first declaration."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import Conflict
from ansible_collections.granary.vmstore.plugins.module_utils._core.records import replace
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.volume_disk import (
    DiskLayer,
    find_volume_disk,
    volume_disks,
)
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.domain_xml import parse
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.adoption import adopt_disks, check_adopted
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.domain_facts import (
    format_cpu_set,
    parse_cpu_set,
    read_domain_facts,
)
from refusal import refused

DISK = "<disk type='file' device='{}'><source file='{}'/><target dev='{}' bus='{}'/>{}</disk>"
ADDRESS = "<address type='drive' controller='0' unit='{}'/>"


def domain(*disks: str) -> ET.Element:
    return parse(f"<domain><os><type arch='x86_64'/></os><devices>{''.join(disks)}</devices></domain>")


def disk(target: str, alias: str | None = None, *, device: str = "disk", bus: str = "virtio", more: str = "") -> str:
    name = "" if alias is None else f"<alias name='{alias}'/>"
    return DISK.format(device, f"/i/{target}", target, bus, name + more)


def test_disks_without_an_alias_get_one() -> None:
    root = domain(disk("vda"), disk("vdb", "ua-vda"), disk("vdc"), disk("vdd"), disk("vde", "ua-x"))
    # The name of the first one is taken, and nobody has declared the last two.
    assert [one.name for one in adopt_disks(root, {"vda", "vdc", "none"})] == ["vdc"]
    assert [one.name for _element, one in volume_disks(root)] == ["vda", "vdc", "x"]
    assert adopt_disks(root, {"vda", "vdc"}) == []


def test_an_adopted_disk_has_the_same_data() -> None:
    drive = disk("sda", device="cdrom", bus="sata")
    adopted = adopt_disks(domain(disk("vda"), drive), {"vda", "sda"})
    check_adopted("web", adopted, adopted)
    check_adopted("web", adopted, [adopted[0], replace(adopted[1], layer=None)])
    sentence = (
        "The domain 'web' has another disk 'vda' already, with the data /i/vda: give the declared disk another name, "
        "or the same data."
    )
    with refused(Conflict, says=sentence):
        check_adopted("web", adopted, [replace(adopted[0], layer=DiskLayer("/i/other")), adopted[1]])
    with refused(Conflict, names=["'vda'"]):
        check_adopted("web", adopted, [replace(adopted[0], layer=None), adopted[1]])


def test_a_running_domain_has_the_alias_of_libvirt() -> None:
    defined = domain(disk("sda", bus="scsi", more=ADDRESS.format(0)), disk("sdb", bus="scsi", more=ADDRESS.format(1)))
    running = domain(
        disk("sda", "scsi0-0-0-0", bus="scsi", more=ADDRESS.format(0)),
        disk("sdb", "scsi0-0-0-1", bus="scsi", more=ADDRESS.format(1)),
    )
    adopt_disks(defined, {"sda"})
    facts = read_domain_facts(defined, running, {"sda"}, (), (11, 0, 0))
    assert (facts.targets, facts.other_targets, facts.other_scsi_units) == ({"sda": "sda"}, {"sdb"}, {1})
    assert [one.name for _element, one in volume_disks(running, {"sda", "none"})] == ["sda"]
    found = find_volume_disk(running, "sda")
    assert found is not None and found.find("alias").get("name") == "scsi0-0-0-0"  # type: ignore[union-attr]
    assert find_volume_disk(running, "none") is None
    both = domain(disk("vda", "virtio-disk0"), disk("vdb", "ua-vda"))
    assert find_volume_disk(both, "vda") is list(both.find("devices"))[1]  # type: ignore[arg-type]
    assert [one.target for _element, one in volume_disks(both, {"vda"})] == ["vdb"]


@pytest.mark.parametrize(("given", "written"), [("0,1", "0-1"), ("3,1,2,8", "1-3,8"), ("5", "5"), ("", "")])
def test_sets_of_processors_are_written_like_libvirt_does(given: str, written: str) -> None:
    assert format_cpu_set(parse_cpu_set(given)) == written
    assert parse_cpu_set(written) == parse_cpu_set(given)
