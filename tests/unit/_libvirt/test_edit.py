# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes of definitions and of running domains, on libvirt's own test driver."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator

import libvirt
import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import LibvirtFailed, StaleState
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.connection import Domain, Hypervisor
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.edit import DefinitionEdit, RunningDevice
from refusal import refused

URI = "test:///default"
DOMAIN = (
    "<domain type='test'><name>a</name><title>old</title><memory unit='MiB'>64</memory><os><type>hvm</type></os>"
    "<devices><graphics type='vnc' port='5901' passwd='secret'/></devices></domain>"
)


@pytest.fixture
def host() -> Iterator[libvirt.virConnect]:
    """Yield another client's connection to the test driver's host. The host exists until its last connection ends."""
    libvirt.registerErrorHandler(lambda *unused: None, None)
    connection = libvirt.open(URI)
    yield connection
    for domain in connection.listAllDomains():
        if domain.name() == "a":
            if domain.isActive():
                domain.destroy()
            domain.undefine()
    connection.close()


@pytest.fixture
def defined(host: libvirt.virConnect) -> libvirt.virDomain:
    return host.defineXML(DOMAIN)


@pytest.fixture
def domain(defined: libvirt.virDomain) -> Domain:
    return Hypervisor(URI).domain("a")


def disk(name: str = "vda") -> ET.Element:
    return ET.fromstring(
        f"<disk type='file' device='disk'><source file='/srv/{name}.raw'/><target dev='{name}' bus='virtio'/></disk>"
    )


def definition(defined: libvirt.virDomain) -> str:
    return defined.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)


def test_a_device_is_added_and_the_rest_stays(defined: libvirt.virDomain, domain: Domain) -> None:
    before = definition(defined)
    edit = DefinitionEdit(domain)
    assert not edit.is_change and edit.differing_elements() == (None, None)
    edit.add_device(disk())
    edit.root.find("title").text = "new"
    assert edit.is_change and definition(defined) == before
    old, new = edit.differing_elements()
    assert old == "<title>old</title>\n"
    assert new.startswith("<title>new</title>\n<disk ") and "secret" not in new
    edit.apply()
    after = definition(defined)
    assert "<source file='/srv/vda.raw'/>" in after and "<title>new</title>" in after and "passwd='secret'" in after
    edit.undo()
    assert definition(defined) == before


def test_a_device_is_removed(defined: libvirt.virDomain, domain: Domain) -> None:
    before = definition(defined)
    edit = DefinitionEdit(domain)
    edit.add_device(disk())
    edit.apply()
    edit = DefinitionEdit(domain)
    edit.remove_device(edit.root.find("devices/disk"))
    assert edit.differing_elements()[1] is None
    edit.apply()
    assert ET.fromstring(definition(defined)).find("devices/disk") is None
    assert "passwd='secret'" in before and "passwd='secret'" in definition(defined)


def test_the_change_of_another_program_stays(
    host: libvirt.virConnect, defined: libvirt.virDomain, domain: Domain
) -> None:
    edit = DefinitionEdit(domain)
    edit.add_device(disk())
    host.defineXML(DOMAIN.replace("old", "other").replace("<title>", f"<uuid>{domain.uuid}</uuid><title>"))
    other = definition(defined)
    with refused(
        StaleState,
        says="The definition of the domain 'a' was changed by another program in the meantime; run the module again.",
    ):
        edit.apply()
    assert definition(defined) == other


def test_the_change_of_another_program_is_not_taken_back(
    host: libvirt.virConnect, defined: libvirt.virDomain, domain: Domain
) -> None:
    """A later step of the same plan failed, after another program had added something to the new definition."""
    edit = DefinitionEdit(domain)
    edit.add_device(disk())
    edit.apply()
    host.defineXML(definition(defined).replace("<title>old", "<title>other"))
    other = definition(defined)
    with refused(
        StaleState,
        says="The definition of the domain 'a' stays as another program has changed it in the meantime.",
    ):
        edit.undo()
    assert definition(defined) == other


def test_a_disk_that_another_program_adds_right_after_the_definition_stays(
    host: libvirt.virConnect, defined: libvirt.virDomain, domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Domain.define

    def disturbed(self: Domain, text: str, *, validate: bool = True) -> None:
        real(self, text, validate=validate)
        other = ET.tostring(disk("vdz"), encoding="unicode")
        host.defineXML(definition(defined).replace("<devices>", f"<devices>{other}"))

    monkeypatch.setattr(Domain, "define", disturbed)
    edit = DefinitionEdit(domain)
    edit.add_device(disk())
    edit.apply()
    monkeypatch.undo()
    with refused(StaleState, names=["'a'"]):
        edit.undo()
    found = ET.fromstring(definition(defined)).findall("devices/disk/target")
    assert [one.get("dev") for one in found] == ["vda", "vdz"]


def test_a_part_that_libvirt_does_not_keep_is_named_and_the_old_definition_is_back(
    defined: libvirt.virDomain, domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = definition(defined), Domain.define

    def changing(self: Domain, text: str, *, validate: bool = True) -> None:
        real(self, text.replace("<title>new</title>", "<title>newer</title>"), validate=False)

    monkeypatch.setattr(Domain, "define", changing)
    edit = DefinitionEdit(domain)
    edit.root.find("title").text = "new"
    with refused(
        LibvirtFailed,
        says="libvirt did not keep /domain/title of the definition of 'a' as it was written; the old "
        "definition is back.",
    ):
        edit.apply()
    assert definition(defined) == before


# A running domain. The test driver plugs no disks, so replaced methods of the domain represent QEMU.


class Guest:
    """The devices of a running domain; ``releases`` is true if the guest releases them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plugged: list[str] = []
        self.changes: dict[str, str] = {}
        self.releases = True
        self.requests = 0
        monkeypatch.setattr(Domain, "attach", lambda _domain, device: self.attach(device))
        monkeypatch.setattr(Domain, "running_xml", lambda _domain: self.text())
        monkeypatch.setattr(Domain, "detach", lambda _domain, device, is_gone, _deadline: self.detach(is_gone))

    def text(self) -> str:
        return f"<domain><devices>{''.join(self.plugged)}</devices></domain>"

    def attach(self, device: str) -> None:
        for old, new in self.changes.items():
            device = device.replace(old, new)
        self.plugged.append(device)

    def detach(self, is_gone: Callable[[str], bool]) -> bool:
        assert not is_gone(self.text())
        self.requests += 1
        if self.releases:
            self.plugged.clear()
        return is_gone(self.text())


@pytest.fixture
def guest(defined: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch) -> Guest:
    defined.create()
    return Guest(monkeypatch)


@pytest.fixture
def device(domain: Domain) -> RunningDevice:
    return RunningDevice(domain, "vda", lambda root: root.find("devices/disk/target[@dev='vda']/.."))


def is_the_disk(element: ET.Element) -> bool:
    return element.find("source").get("file") == "/srv/vda.raw"


def test_a_device_is_plugged_once_and_unplugged_once(guest: Guest, device: RunningDevice) -> None:
    assert device.element() is None
    device.plug(disk(), is_the_disk)
    assert is_the_disk(device.element())
    assert device.unplug() and device.unplug()
    assert (guest.plugged, guest.requests) == ([], 1)


@pytest.mark.parametrize("changes", [{"vda.raw": "other.raw"}, {'dev="vda"': 'dev="vdb"'}])
def test_a_device_that_is_not_as_requested_is_an_error(
    guest: Guest, device: RunningDevice, changes: dict[str, str]
) -> None:
    guest.changes = changes
    with refused(LibvirtFailed, says="libvirt did not plug the device 'vda' into the running domain 'a' as requested."):
        device.plug(disk(), is_the_disk)
    assert device.element() is None


def test_a_guest_that_keeps_the_device(guest: Guest, device: RunningDevice) -> None:
    device.plug(disk(), is_the_disk)
    guest.releases = False
    assert not device.unplug()
    assert is_the_disk(device.element())


def test_a_domain_that_is_off_has_no_device(defined: libvirt.virDomain, device: RunningDevice) -> None:
    assert device.element() is None and device.unplug()
    assert not defined.isActive()
