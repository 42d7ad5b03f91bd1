# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The facts about a domain in its XML."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator

from .._libvirt.devices.alias import name_of
from .._libvirt.devices.scsi import choose_scsi_index, find_scsi_controller
from .._libvirt.domain_xml import attribute, devices
from .facts import DomainFacts


def read_domain_facts(root: ET.Element, running: ET.Element | None = None) -> DomainFacts:
    """Return the facts about a domain. The facts about its host have their default values.

    :arg root: the definition.
    :arg running: the running domain, whose devices can differ from the definition.
    """
    roots = [root] if running is None else [root, running]
    others = [device for one in roots for device in devices(one) if name_of(device) is None]
    controller = find_scsi_controller(root) or choose_scsi_index(*roots)
    pinned = _pinned_cpus(root)
    return DomainFacts(
        arch=attribute(root, "os/type", "arch") or "x86_64",
        machine=attribute(root, "os/type", "machine") or "",
        vcpus=_count_vcpus(root),
        targets={name: target for one in reversed(roots) for name, target in _targets(one)},
        other_targets=frozenset(attribute(one, "target", "dev") or "" for one in others if one.tag == "disk"),
        has_boot_devices=root.find("os/boot") is not None,
        other_boot_orders={
            int(order): _label(one) for one in others if (order := attribute(one, "boot", "order")) is not None
        },
        other_serials={
            serial: _label(one) for one in others if one.tag == "disk" and (serial := one.findtext("serial"))
        },
        other_tags={attribute(one, "target", "dir") or "": _label(one) for one in others if one.tag == "filesystem"},
        other_scsi_units=frozenset(unit for one in others for unit in _scsi_units(one, controller)),
        other_io_threads=max((number for one in others for number in _io_threads(one)), default=0),
        scsi_controller=int(controller),
        pinned_cpus=pinned,
        emulator_cpus=_emulator_cpus(root, pinned),
    )


def _count_vcpus(root: ET.Element) -> int:
    vcpu = root.find("vcpu")
    return 1 if vcpu is None else int(vcpu.get("current") or vcpu.text or "1")


def _targets(root: ET.Element) -> Iterator[tuple[str, str]]:
    for disk in devices(root).findall("disk"):
        name, target = name_of(disk), attribute(disk, "target", "dev")
        if name is not None and target is not None:
            yield name, target


def _label(device: ET.Element) -> str:
    """Return a name for a device that a user recognizes in the domain's XML."""
    name = (
        attribute(device, "alias", "name") or attribute(device, "target", "dev") or attribute(device, "mac", "address")
    )
    name = name or attribute(device, "source", "dir")
    return f"the {device.tag} {name}" if name else f"a {device.tag}"


def _scsi_units(device: ET.Element, controller: str) -> Iterator[int]:
    is_scsi = attribute(device, "target", "bus") == "scsi" or device.get("type") == "scsi"
    for address in device.findall("address[@type='drive']"):
        if is_scsi and address.get("controller", "0") == controller:
            yield int(address.get("unit", "0"))


def _io_threads(device: ET.Element) -> Iterator[int]:
    for driver in device.findall("driver"):
        yield int(driver.get("iothread", "0"))
        yield from (int(thread.get("id", "0")) for thread in driver.findall("iothreads/iothread"))


def _pinned_cpus(root: ET.Element) -> tuple[int, ...]:
    """Return the host's processors that the virtual processors run on, if each of these has its own."""
    pins = root.findall("cputune/vcpupin")
    if len(pins) < _count_vcpus(root):
        return ()
    found = [processor for pin in pins for processor in _processors(pin.get("cpuset", ""))]
    return tuple(dict.fromkeys(found))


def _emulator_cpus(root: ET.Element, pinned: tuple[int, ...]) -> tuple[int, ...]:
    """Return the host's processors of the emulator, if no virtual processor runs on them."""
    found = tuple(_processors(attribute(root, "cputune/emulatorpin", "cpuset") or ""))
    return () if set(found) & set(pinned) else found


def _processors(text: str) -> list[int]:
    """Return the processors in a set, such as ``1-4,^3,6``."""
    found: dict[int, None] = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        first, _separator, last = part.lstrip("^").partition("-")
        for number in range(int(first), int(last or first) + 1):
            if part.startswith("^"):
                found.pop(number, None)
            else:
                found[number] = None
    return list(found)


__all__ = ["read_domain_facts"]
