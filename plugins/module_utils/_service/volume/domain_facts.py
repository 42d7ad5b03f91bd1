# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Facts about a domain from its XML (https://libvirt.org/formatdomain.html), for the conversion of a declaration."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator, Sequence

from ..._core.errors import InvalidInput
from ..._libvirt.devices.alias import name_of
from ..._libvirt.devices.filesystem import tags
from ..._libvirt.devices.scsi import choose_scsi_index, find_scsi_controller
from ..._libvirt.devices.volume_disk import disk_name, find_volume_disk
from ..._libvirt.domain_xml import attribute, devices
from ..._volume.facts import DomainFacts

#: The first version of libvirt with several threads for a disk.
DISK_IO_THREADS = (10, 0, 0)
#: libvirt's schema, and its word for the granularity of discarded blocks. An older libvirt drops it silently.
SCHEMA, _GRANULARITY = "/usr/share/libvirt/schemas/domaincommon.rng", "discard_granularity"


def read_domain_facts(
    defined: ET.Element,
    running: ET.Element | None,
    declared: Collection[str],
    recorded: Collection[str],
    libvirt: tuple[int, int, int],
) -> DomainFacts:
    """Return the facts about a domain.

    :arg running: the XML of the running domain; ``None`` while it is off.
    :arg declared: the names of the disks and filesystems that are declared.
    :arg recorded: those that were declared by the last run. A running domain may still have their disks.
    :arg libvirt: the version of libvirt.
    """
    own = {*declared, *recorded}
    disks = [element for element in _find_disks(defined, own) if name_of(element) is not None]
    roots = [root for root in (defined, running) if root is not None]
    # libvirt has chosen the alias of a disk that was adopted while the domain runs.
    mine = {*disks, *([] if running is None else _find_disks(running, declared))}
    foreign = [element for root in roots for element in devices(root) if element not in mine]
    others = [element for element in devices(defined) if element not in mine]
    controller = find_scsi_controller(defined)
    index = int(choose_scsi_index(*roots) if controller is None else controller)
    pinned = _pinned_cpus(defined)
    emulator = parse_cpu_set(attribute(defined, "cputune/emulatorpin", "cpuset"))
    return DomainFacts(
        arch=attribute(defined, "os/type", "arch") or "x86_64",
        machine=attribute(defined, "os/type", "machine") or "",
        vcpus=_count_vcpus(defined),
        targets={disk_name(disk): attribute(disk, "target", "dev") or "" for disk in disks},
        other_targets=frozenset(attribute(one, "target", "dev") or "" for one in foreign if one.tag == "disk"),
        other_boot_orders={int(attribute(one, "boot", "order") or 0): _describe(one) for one in _booted(others)},
        other_serials={one.findtext("serial") or "": _describe(one) for one in others if one.findtext("serial")},
        other_tags={tag: source for tag, source in tags(defined).items() if tag not in own},
        other_scsi_units=frozenset(_scsi_units(foreign, index)),
        other_io_threads=max([0, *(int(number) for one in others for number in _io_threads(one))]),
        scsi_controller=index,
        pinned_cpus=pinned,
        emulator_cpus=() if set(emulator) & set(pinned) else emulator,
        has_disk_io_threads=libvirt >= DISK_IO_THREADS,
        has_discard_granularity=_has_discard_granularity(),
    )


def _find_disks(root: ET.Element, names: Collection[str]) -> list[ET.Element]:
    found = (find_volume_disk(root, name) for name in names)
    return [element for element in found if element is not None]


def _count_vcpus(root: ET.Element) -> int:
    element = root.find("vcpu")
    return int(element.get("current") or element.text or "1") if element is not None else 1


def _pinned_cpus(root: ET.Element) -> tuple[int, ...]:
    """Return the processors of the host to which all virtual processors are pinned; empty if one of them isn't."""
    pins = {pin.get("vcpu"): parse_cpu_set(pin.get("cpuset")) for pin in root.findall("cputune/vcpupin")}
    if any(str(number) not in pins for number in range(_count_vcpus(root))):
        return ()
    return tuple(sorted({cpu for cpus in pins.values() for cpu in cpus}))


def _has_discard_granularity() -> bool:
    try:
        with open(SCHEMA, encoding="utf-8") as file:
            return _GRANULARITY in file.read()
    except OSError:
        return False


def _describe(element: ET.Element) -> str:
    name = attribute(element, "target", "dev") or attribute(element, "alias", "name")
    return f"the {element.tag} {name!r}" if name else f"a device <{element.tag}>"


def _booted(elements: list[ET.Element]) -> Iterator[ET.Element]:
    return (one for one in elements if attribute(one, "boot", "order") is not None)


def _scsi_units(elements: list[ET.Element], controller: int) -> Iterator[int]:
    for one in elements:
        place = one.find("address[@type='drive']")
        on_scsi = one.tag == "hostdev" or attribute(one, "target", "bus") == "scsi"
        if place is not None and on_scsi and int(place.get("controller", "0")) == controller:
            yield int(place.get("unit", "0"))


def _io_threads(element: ET.Element) -> Iterator[str]:
    for driver in element.findall("driver"):
        yield from [str(driver.get("iothread"))] if driver.get("iothread") else []
        yield from (one.get("id", "0") for one in driver.findall("iothreads/iothread"))


def parse_cpu_set(text: str | None) -> tuple[int, ...]:
    """Return the processors in one of libvirt's sets, such as ``0-3,^2,8``.

    :raises InvalidInput: the text is no such set.
    """
    found: list[int] = []
    try:
        for part in filter(None, (text or "").split(",")):
            first, _separator, last = part.lstrip("^").partition("-")
            span = range(int(first), int(last or first) + 1)
            found = [cpu for cpu in found if cpu not in span] if part.startswith("^") else [*found, *span]
    except ValueError as error:
        raise InvalidInput("cpuset", text, "a set of processors such as 0-3,^2 is expected") from error
    return tuple(sorted(set(found)))


def format_cpu_set(processors: Sequence[int]) -> str:
    """Return a set of processors as libvirt writes it, such as ``0-3,8``."""
    parts: list[list[int]] = []
    for processor in sorted(processors):
        if parts and parts[-1][-1] == processor - 1:
            parts[-1].append(processor)
        else:
            parts.append([processor])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


__all__ = ["format_cpu_set", "parse_cpu_set", "read_domain_facts"]
