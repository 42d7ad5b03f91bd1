# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ``<disk>`` device for a volume of KubeVirt's model.

The devices of :mod:`.disk` have no alias, and their other properties belong to the user. A device of this module is
recognized by its alias, and all of its properties belong to the declaration.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator

from ..._core.records import dataclass, fields, replace
from ..domain_xml import attribute, devices, drop_empty_child, obtain_child, set_attribute
from .alias import name_of, set_name

#: The value of :attr:`VolumeDisk.reservation` if libvirt runs the helper for persistent reservations itself.
MANAGED = "managed"

#: The element of a source that decides about the owner of its file (https://libvirt.org/formatdomain.html, "Security
#: label").
_OWNER_LABEL = "seclabel[@model='dac']"

#: Fields whose change needs a new device, because the old address or name doesn't fit any more.
PLACE = frozenset({"target", "bus", "device", "scsi_address"})

#: Fields that libvirt chooses itself if they are ``None``.
_CHOSEN_BY_LIBVIRT = ("backing", "model", "pci_address", "scsi_address")


@dataclass(frozen=True)
class DiskLayer:
    """A file or a block device with the data of a disk, or with a part of the data.

    :arg keeps_owner: whether libvirt leaves the owner of a backing file as it is. By default, libvirt gives the file to
        the user of QEMU, who can then write to it.
    """

    path: str
    is_block: bool = False
    format: str = "raw"
    keeps_owner: bool = False


@dataclass(frozen=True)
class ScsiAddress:
    """The place of a disk on a SCSI controller."""

    controller: int
    unit: int


@dataclass(frozen=True)
class VolumeDisk:
    """A ``<disk>`` device for a volume. ``None`` is a value that the XML lacks.

    :arg name: the name of the disk and its volume.
    :arg target: the name of the device, such as ``vda``.
    :arg layer: the data; ``None`` for an empty drive.
    :arg backing: the data that an overlay is based on. ``None`` leaves the backing chain to libvirt.
    :arg is_alone: whether the disk has no backing file, whatever its header names. QEMU could have written any file of
        the host into the header, and libvirt would open that file to QEMU.
    :arg io_threads: the threads that share the disk's queues.
    :arg reservation: the socket of the helper for persistent reservations, or :data:`MANAGED`.
    :arg pci_address: such as ``0000:81:01.0``.
    """

    name: str
    target: str
    bus: str
    device: str = "disk"
    layer: DiskLayer | None = None
    backing: DiskLayer | None = None
    is_alone: bool = False
    model: str | None = None
    cache: str | None = None
    error_policy: str | None = None
    io: str | None = None
    discard: str | None = None
    queues: int | None = None
    io_thread: int | None = None
    io_threads: tuple[int, ...] = ()
    reservation: str | None = None
    tray: str | None = None
    serial: str | None = None
    read_only: bool = False
    shareable: bool = False
    logical_block_size: int | None = None
    physical_block_size: int | None = None
    discard_granularity: int | None = None
    boot_order: int | None = None
    pci_address: str | None = None
    scsi_address: ScsiAddress | None = None

    def differences(self, other: VolumeDisk) -> list[str]:
        """Return the names of the fields in which ``other``, a device of a domain, differs from this declared one.

        Properties that this device leaves to libvirt are no difference. libvirt makes every CD-ROM drive read-only.
        """
        chosen = [name for name in _CHOSEN_BY_LIBVIRT if getattr(self, name) is None]
        chosen += ["read_only"] if self.device == "cdrom" else []
        chosen += [] if self.is_alone else ["is_alone"]
        names = [field.name for field in fields(self)]
        return [name for name in names if name not in chosen and getattr(self, name) != getattr(other, name)]


def volume_disks(root: ET.Element, adopted: Collection[str] = ()) -> Iterator[tuple[ET.Element, VolumeDisk]]:
    """Yield every disk with an alias of this collection, as element and as data.

    :arg adopted: names of disks of which a running domain may have the alias that libvirt chose. Such a disk is
        recognized by its target.
    """
    elements = devices(root).findall("disk")
    taken = {name_of(element) for element in elements}
    for element in elements:
        name = disk_name(element)
        if name_of(element) is not None or (name in adopted and name not in taken):
            yield element, replace(read_volume_disk(element), name=name)


def disk_name(element: ET.Element) -> str:
    """Return the name in the alias of a disk. A disk without such an alias has the name of its target."""
    return name_of(element) or attribute(element, "target", "dev") or ""


def find_volume_disk(root: ET.Element, name: str) -> ET.Element | None:
    """Return the disk with the name ``name`` in its alias, or else the one without such an alias and with this target.

    ``None`` is no such disk.
    """
    found = [element for element in devices(root).findall("disk") if disk_name(element) == name]
    return min(found, key=lambda element: name_of(element) is None, default=None)


def read_volume_disk(element: ET.Element) -> VolumeDisk:
    """Return the disk that ``element`` describes."""
    device = element.get("device", "disk")
    # libvirt leaves out the tray of a closed drive.
    tray = attribute(element, "target", "tray") or ("closed" if device == "cdrom" else None)
    return VolumeDisk(
        name=name_of(element) or "",
        target=attribute(element, "target", "dev") or "",
        bus=attribute(element, "target", "bus") or "",
        device=device,
        layer=_read_layer(element, element.get("type"), attribute(element, "driver", "type")),
        backing=_read_backing(element),
        is_alone=_is_empty_store(element.find("backingStore")),
        model=element.get("model"),
        cache=attribute(element, "driver", "cache"),
        error_policy=attribute(element, "driver", "error_policy"),
        io=attribute(element, "driver", "io"),
        discard=attribute(element, "driver", "discard"),
        queues=_number(element, "driver", "queues"),
        io_thread=_number(element, "driver", "iothread"),
        io_threads=tuple(int(one.get("id", "0")) for one in element.findall("driver/iothreads/iothread")),
        reservation=_read_reservation(element),
        tray=tray,
        serial=element.findtext("serial"),
        read_only=element.find("readonly") is not None,
        shareable=element.find("shareable") is not None,
        logical_block_size=_number(element, "blockio", "logical_block_size"),
        physical_block_size=_number(element, "blockio", "physical_block_size"),
        discard_granularity=_number(element, "blockio", "discard_granularity"),
        boot_order=_number(element, "boot", "order"),
        pci_address=_read_pci_address(element),
        scsi_address=_read_scsi_address(element),
    )


def _number(element: ET.Element, path: str, name: str) -> int | None:
    value = attribute(element, path, name)
    return None if value is None else int(value)


def _read_layer(element: ET.Element, kind: str | None, form: str | None) -> DiskLayer | None:
    path = attribute(element, "source", "dev" if kind == "block" else "file")
    return None if path is None else DiskLayer(path, kind == "block", form or "raw")


def _read_backing(element: ET.Element) -> DiskLayer | None:
    found = element.find("backingStore")
    layer = None if found is None else _read_layer(found, found.get("type"), attribute(found, "format", "type"))
    if found is None or layer is None:
        return None
    return replace(layer, keeps_owner=attribute(found, f"source/{_OWNER_LABEL}", "relabel") == "no")


def _is_empty_store(store: ET.Element | None) -> bool:
    """Return whether the element ends a backing chain."""
    return store is not None and store.get("type") is None and len(store) == 0


def _read_reservation(element: ET.Element) -> str | None:
    found = element.find("source/reservations")
    if found is None:
        return None
    return MANAGED if found.get("managed") == "yes" else attribute(found, "source", "path")


def _read_pci_address(element: ET.Element) -> str | None:
    place = element.find("address[@type='pci']")
    if place is None:
        return None
    domain, bus, slot, function = (int(place.get(name, "0"), 0) for name in ("domain", "bus", "slot", "function"))
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"


def _read_scsi_address(element: ET.Element) -> ScsiAddress | None:
    place = element.find("address[@type='drive']")
    if place is None or attribute(element, "target", "bus") != "scsi":
        return None
    return ScsiAddress(int(place.get("controller", "0")), int(place.get("unit", "0")))


def create_volume_disk(disk: VolumeDisk) -> ET.Element:
    """Return a new element for ``disk``."""
    element = ET.Element("disk")
    write_volume_disk(element, disk)
    return element


def write_volume_disk(element: ET.Element, disk: VolumeDisk) -> None:
    """Set the values of ``disk`` in ``element``. Addresses that ``disk`` leaves to libvirt, and other content, are
    unchanged.
    """
    # An empty drive has this type in KubeVirt.
    element.set("type", "block" if disk.layer is None or disk.layer.is_block else "file")
    element.set("device", disk.device)
    if disk.model is not None:
        element.set("model", disk.model)
    _write_driver(obtain_child(element, "driver"), disk)
    _write_source(element, disk)
    _write_end(element, is_alone=disk.is_alone)
    _write_backing(element, disk.backing)
    target = obtain_child(element, "target")
    for name, value in (("dev", disk.target), ("bus", disk.bus), ("tray", disk.tray)):
        set_attribute(target, name, value)
    _write_text(element, "serial", disk.serial)
    for tag, is_set in (("readonly", disk.read_only), ("shareable", disk.shareable)):
        obtain_child(element, tag)
        if not is_set:
            drop_empty_child(element, tag)
    blocks = obtain_child(element, "blockio")
    for name in ("logical_block_size", "physical_block_size", "discard_granularity"):
        set_attribute(blocks, name, getattr(disk, name))
    drop_empty_child(element, "blockio")
    set_attribute(obtain_child(element, "boot"), "order", disk.boot_order)
    drop_empty_child(element, "boot")
    _write_address(element, disk)
    set_name(element, disk.name)


def _write_driver(driver: ET.Element, disk: VolumeDisk) -> None:
    for name, value in (
        ("name", "qemu"),
        ("type", "raw" if disk.layer is None else disk.layer.format),
        ("cache", disk.cache),
        ("error_policy", disk.error_policy),
        ("io", disk.io),
        ("discard", disk.discard),
        ("queues", disk.queues),
        ("iothread", disk.io_thread),
    ):
        set_attribute(driver, name, value)
    threads = obtain_child(driver, "iothreads")
    threads[:] = [ET.Element("iothread", {"id": str(number)}) for number in disk.io_threads]
    drop_empty_child(driver, "iothreads")


def _write_source(element: ET.Element, disk: VolumeDisk) -> None:
    source = obtain_child(element, "source")
    set_attribute(source, "file", None if disk.layer is None or disk.layer.is_block else disk.layer.path)
    set_attribute(source, "dev", disk.layer.path if disk.layer and disk.layer.is_block else None)
    reservations = obtain_child(source, "reservations")
    set_attribute(reservations, "managed", None if disk.reservation is None else _yes(disk.reservation == MANAGED))
    reservations[:] = (
        []
        if disk.reservation in (None, MANAGED)
        else [ET.Element("source", {"type": "unix", "path": str(disk.reservation), "mode": "client"})]
    )
    drop_empty_child(source, "reservations")
    drop_empty_child(element, "source")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _write_end(element: ET.Element, *, is_alone: bool) -> None:
    """Let the backing chain end with the disk itself, or not."""
    store = element.find("backingStore")
    if is_alone:
        obtain_child(element, "backingStore").clear()
    elif store is not None and _is_empty_store(store):
        element.remove(store)


def _write_backing(element: ET.Element, backing: DiskLayer | None) -> None:
    if backing is None:
        return
    store = obtain_child(element, "backingStore")
    store.set("type", "block" if backing.is_block else "file")
    obtain_child(store, "format").set("type", backing.format)
    source = obtain_child(store, "source")
    set_attribute(source, "dev", backing.path if backing.is_block else None)
    set_attribute(source, "file", None if backing.is_block else backing.path)
    label = source.find(_OWNER_LABEL)
    if backing.keeps_owner:
        label = ET.SubElement(source, "seclabel", {"model": "dac"}) if label is None else label
        label.set("relabel", "no")
    elif label is not None and label.get("relabel") == "no":
        source.remove(label)


def _write_text(element: ET.Element, tag: str, text: str | None) -> None:
    child = obtain_child(element, tag)
    child.text = text
    if text is None:
        element.remove(child)


def _write_address(element: ET.Element, disk: VolumeDisk) -> None:
    if disk.pci_address is not None:
        domain, bus, rest = disk.pci_address.split(":")
        slot, function = rest.split(".")
        values = {"domain": domain, "bus": bus, "slot": slot, "function": function}
        _set_address(element, {"type": "pci", **{name: f"0x{value}" for name, value in values.items()}})
    elif disk.scsi_address is not None:
        place = disk.scsi_address
        _set_address(
            element,
            {
                "type": "drive",
                "controller": str(place.controller),
                "bus": "0",
                "target": "0",
                "unit": str(place.unit),
            },
        )


def _set_address(element: ET.Element, values: dict[str, str]) -> None:
    address = obtain_child(element, "address")
    address.attrib.clear()
    address.attrib.update(values)


__all__ = [
    "MANAGED",
    "PLACE",
    "DiskLayer",
    "ScsiAddress",
    "VolumeDisk",
    "create_volume_disk",
    "disk_name",
    "find_volume_disk",
    "read_volume_disk",
    "volume_disks",
    "write_volume_disk",
]
