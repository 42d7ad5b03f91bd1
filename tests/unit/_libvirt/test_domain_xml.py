# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Domain XML that libvirt printed: reading, writing and comparing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import LibvirtFailed
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt import domain_xml
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.filesystem import (
    VirtioFs,
    create_filesystem,
)
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.difference import first_difference
from refusal import refused

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "domain_xml"
EVERY = sorted(path.name for path in FIXTURES.glob("*.xml"))


def text_of(name: str) -> str:
    return (FIXTURES / name).read_text()


def tree_of(name: str) -> ET.Element:
    return domain_xml.parse(text_of(name))


def domain(inside: str = "", devices: str = "", machine: str = "q35") -> ET.Element:
    return domain_xml.parse(
        f"<domain><memory>1</memory>{inside}<os><type arch='x86_64' "
        f"machine='{machine}'>hvm</type></os><devices>{devices}</devices></domain>"
    )


@pytest.mark.parametrize("name", EVERY)
def test_a_round_trip_keeps_every_name_and_namespace(name: str) -> None:
    written = domain_xml.to_text(tree_of(name))
    assert ET.canonicalize(written, rewrite_prefixes=False) == ET.canonicalize(text_of(name), rewrite_prefixes=False)
    assert re.findall(r"xmlns:?\w*=", written) == re.findall(r"xmlns:?\w*=", text_of(name))


@pytest.mark.parametrize(
    "text",
    ["<!DOCTYPE d><domain/>", "<!DOCTYPE d [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><domain>&e;</domain>"],
)
def test_document_types_are_refused(text: str) -> None:
    with refused(LibvirtFailed, says="The XML of the domain declares a document type ('d'); libvirt writes none."):
        domain_xml.parse(text)


@pytest.mark.parametrize("text", ["<domain>", "", "<domain>&e;</domain>"])
def test_broken_documents_are_refused(text: str) -> None:
    with refused(LibvirtFailed, says="The XML of the domain can't be read: *."):
        domain_xml.parse(text)


def test_a_missing_part_is_an_error() -> None:
    with refused(LibvirtFailed, says="The XML of the domain has no <devices> in <domain>."):
        domain_xml.devices(domain_xml.parse("<domain/>"))


CHANGES = [
    (r"<vcpu placement='static'>\d+</vcpu>", "<vcpu placement='static'>9</vcpu>", "/domain/vcpu"),
    (r"<clock [^>]*>", "", "/domain/clock"),
    (r"<on_crash>destroy</on_crash>", "<on_crash>destroy</on_crash><on_crash>restart</on_crash>", "/domain/on_crash"),
    (r"<readonly/>", "", "/domain/devices/filesystem/readonly"),
    (r"<uid start='0'", "<uid start='5'", "/domain/devices/filesystem/idmap/uid"),
    (r"<idmap>.*?</idmap>", "", "/domain/devices/filesystem/idmap"),
    (r"<memballoon .*?</memballoon>", "", "/domain/devices/memballoon"),
]


@pytest.mark.parametrize(("pattern", "replacement", "place"), CHANGES)
def test_a_difference_is_found_and_named(pattern: str, replacement: str, place: str) -> None:
    name = next(
        name
        for name in ("11.3-virtiofs.xml", "11.3-virtiofs-options.xml", "11.3-virtiofs-two.xml")
        if re.search(pattern, text_of(name), re.DOTALL)
    )
    changed, count = re.subn(pattern, replacement, text_of(name), count=1, flags=re.DOTALL)
    assert count == 1
    assert first_difference(tree_of(name), domain_xml.parse(changed)) == place


def test_what_libvirt_adds_for_a_device_is_no_difference_and_the_rest_is() -> None:
    wanted = domain()
    element = create_filesystem(VirtioFs("t", "/a"))
    domain_xml.devices(wanted).append(element)
    port = "<controller type='pci' index='1' model='pcie-root-port'/>"
    given = domain_xml.to_text(element)
    found = domain(
        devices=port
        + given.replace("</filesystem>", "<alias name='fs0'/><address type='pci' bus='0x01'/></filesystem>")
    )
    assert first_difference(wanted, found, frozenset({element})) is None
    assert first_difference(wanted, found) == "/domain/devices/filesystem/address"
    assert first_difference(domain(), domain(devices=given)) == "/domain/devices/filesystem"


def test_the_mark_of_a_pci_slot_is_no_difference() -> None:
    """libvirt marks the first port of a slot when a new device needs the second one."""
    place = "<controller type='pci' index='1'><address type='pci' slot='0x03' function='0x0'{}/></controller>"
    alone, marked = (domain(devices=place.format(mark)) for mark in ("", " multifunction='on'"))
    assert first_difference(alone, marked) is None
    assert first_difference(marked, alone) == "/domain/devices/controller/address"
    moved = domain(devices=place.replace("0x03", "0x04").format(""))
    assert first_difference(alone, moved) == "/domain/devices/controller/address"
