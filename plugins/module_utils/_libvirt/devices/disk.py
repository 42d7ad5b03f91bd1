# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ``<disk>`` device with a file of this host."""

from __future__ import annotations

import itertools
import os
import re
import string
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping

from ..._core.errors import Conflict, InvalidInput
from ..._core.records import dataclass, fields
from ..domain_xml import attribute, devices, drop_empty_child, obtain_child, set_attribute

#: The buses of a disk, each with the beginning of its target names.
BUSES: Mapping[str, str] = {"virtio": "vd", "scsi": "sd", "sata": "sd", "usb": "sd", "ide": "hd"}

#: The buses on which a running domain gets and loses disks.
LIVE_BUSES = ("virtio", "scsi")

#: The formats of a disk.
FORMATS = ("raw", "qcow2")

#: The kinds of a disk.
DEVICES = ("disk", "cdrom")

#: Characters of a serial number: those that libvirt accepts without quotes in QEMU's options.
_SERIAL = re.compile(r"[A-Za-z0-9_.+-]+")

#: Upper bound of a serial number in bytes. A guest sees no more of it on virtio (virtio 1.1, section 5.2.6.1) and on
#: SATA and IDE (ATA-8).
LONGEST_SERIAL = 20


@dataclass(frozen=True)
class Disk:
    """A ``<disk>`` device with a file of this host.

    :arg source: path of the file.
    :arg format: ``raw`` or ``qcow2``. It is always a recorded format, because a guest can write the header of another
        format into a raw disk.
    :arg target: name of the device, such as ``vda``; ``None`` is not chosen yet.
    :arg device: ``disk`` or ``cdrom``.
    """

    source: str
    format: str
    target: str | None = None
    bus: str = "virtio"
    device: str = "disk"
    read_only: bool = False
    shareable: bool = False
    serial: str | None = None

    def differences(self, other: Disk) -> list[str]:
        """Return the names of the fields that differ. The path of the file is left out: a running domain can have
        another one, the newest file of the disk's snapshots.
        """
        return [
            field.name
            for field in fields(self)
            if field.name != "source" and getattr(self, field.name) != getattr(other, field.name)
        ]


def check_disk(disk: Disk) -> None:
    """Refuse a disk that libvirt or QEMU doesn't support.

    :raises InvalidInput: an option is invalid, or invalid together with another one.
    """
    for option, value, accepted in (
        ("bus", disk.bus, BUSES),
        ("device", disk.device, DEVICES),
        ("format", disk.format, FORMATS),
    ):
        if value not in accepted:
            raise InvalidInput(option, value, f"one of {', '.join(accepted)} is expected")
    prefix = BUSES[disk.bus]
    if disk.target is not None and re.fullmatch(f"{prefix}[a-z]{{1,2}}", disk.target) is None:
        raise InvalidInput(
            "target", disk.target, f"a disk on the bus {disk.bus!r} is named {prefix}a to {prefix}z, or {prefix}aa on"
        )
    if disk.serial is not None and (len(disk.serial) > LONGEST_SERIAL or _SERIAL.fullmatch(disk.serial) is None):
        raise InvalidInput(
            "serial", disk.serial, f"1 to {LONGEST_SERIAL} letters, digits and characters of '_.+-' are expected"
        )
    if disk.device == "cdrom":
        if disk.bus == "virtio":
            raise InvalidInput("bus", disk.bus, "a CD-ROM drive can be on the buses scsi, sata, usb and ide")
        if not disk.read_only:
            raise InvalidInput("read_only", disk.read_only, "a CD-ROM drive is read-only")
    elif disk.read_only and disk.bus in ("sata", "ide"):
        raise InvalidInput("read_only", disk.read_only, f"a disk on the bus {disk.bus!r} is always writable in QEMU")
    if disk.shareable and disk.format != "raw":
        raise InvalidInput("shareable", disk.shareable, "only a disk of the format raw can be shared")


def file_names(path: str) -> frozenset[str]:
    """Return the paths by which a domain can name the file of a disk: ``path`` itself, and the file that ``path`` leads
    to.

    The path of a disk with snapshots is a symbolic link to its newest file.
    """
    return frozenset([os.path.normpath(path), os.path.realpath(path)])


def disks(root: ET.Element) -> Iterator[tuple[ET.Element, Disk]]:
    """Yield every disk with a file, as element and as data."""
    for element in devices(root).findall("disk"):
        if attribute(element, "source", "file") is not None:
            yield element, read_disk(element)


def find_disk(root: ET.Element, names: frozenset[str]) -> ET.Element | None:
    """Return the disk that has one of the files ``names``.

    A snapshot of a running domain begins with a new file, before the disk's own path leads there. So a file in the
    directory with the disk's snapshots counts, if one of its backing files is in ``names``. Other backing files don't
    count, because several disks can be based on an image.
    """
    directories = {f"{name}.snap" for name in names} | {os.path.dirname(name) for name in names}
    for element in devices(root).findall("disk"):
        newest, *backing = [os.path.normpath(attribute(layer, "source", "file") or ".") for layer in layers_of(element)]
        directory = os.path.dirname(newest)
        is_newer = directory.endswith(".snap") and directory in directories
        if newest in names or (is_newer and not names.isdisjoint(backing)):
            return element
    return None


def layers_of(element: ET.Element) -> list[ET.Element]:
    """Return the elements with the files of a disk: the disk itself, and below it each ``<backingStore>``."""
    found = [element]
    while (backing := found[-1].find("backingStore")) is not None and backing.find("source") is not None:
        found.append(backing)
    return found


def read_disk(element: ET.Element) -> Disk:
    """Return the disk that ``element`` describes."""
    return Disk(
        source=attribute(element, "source", "file") or "",
        format=attribute(element, "driver", "type") or "raw",
        target=attribute(element, "target", "dev"),
        bus=attribute(element, "target", "bus") or "",
        device=element.get("device", "disk"),
        read_only=element.find("readonly") is not None,
        shareable=element.find("shareable") is not None,
        serial=element.findtext("serial"),
    )


def create_disk(disk: Disk) -> ET.Element:
    """Return a new element for ``disk``."""
    element = ET.Element("disk", {"type": "file", "device": disk.device})
    ET.SubElement(element, "driver", {"name": "qemu"})
    write_disk(element, disk)
    return element


def write_disk(element: ET.Element, disk: Disk) -> None:
    """Set the values of ``disk`` in ``element``. The address, the alias and other content are unchanged."""
    element.set("device", disk.device)
    obtain_child(element, "driver").set("type", disk.format)
    obtain_child(element, "source").set("file", disk.source)
    target = obtain_child(element, "target")
    set_attribute(target, "dev", disk.target)
    target.set("bus", disk.bus)
    for tag, is_set in (("readonly", disk.read_only), ("shareable", disk.shareable)):
        obtain_child(element, tag)
        if not is_set:
            drop_empty_child(element, tag)
    serial = obtain_child(element, "serial")
    serial.text = disk.serial
    if disk.serial is None:
        element.remove(serial)


def targets(*roots: ET.Element) -> dict[str, str]:
    """Return the target names in use, each with the file or the device of its disk."""
    found = {}
    for root in roots:
        for element in devices(root).findall("disk"):
            source = element.find("source")
            values = [] if source is None else list(source.attrib.values())
            found[attribute(element, "target", "dev") or ""] = values[0] if values else "no medium"
    return found


def choose_target(bus: str, *roots: ET.Element) -> str:
    """Return the first target name of ``bus`` that no disk of the domain has, running or defined.

    :raises Conflict: every name is in use.
    """
    used, letters = targets(*roots), string.ascii_lowercase
    endings = letters[:4] if bus == "ide" else (*letters, *map("".join, itertools.product(letters, repeat=2)))
    for ending in endings:
        if BUSES[bus] + ending not in used:
            return BUSES[bus] + ending
    raise Conflict(f"The domain has no free target name for one more disk on the bus {bus!r}.")


__all__ = [
    "BUSES",
    "DEVICES",
    "FORMATS",
    "LIVE_BUSES",
    "LONGEST_SERIAL",
    "Disk",
    "check_disk",
    "choose_target",
    "create_disk",
    "disks",
    "file_names",
    "find_disk",
    "layers_of",
    "read_disk",
    "targets",
    "write_disk",
]
