# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A libvirt domain's XML (https://libvirt.org/formatdomain.html): read it, and edit the few parts that an export needs.

Nothing here talks to libvirt. Names with a prefix (``qemu:commandline``, anything in ``metadata``) and their ``xmlns``
attributes are kept as they are written, because the parser doesn't resolve namespaces.
"""

from __future__ import annotations

import copy
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from xml.parsers import expat

from .._core.errors import Conflict, LibvirtFailed
from .._core.records import dataclass, fields, replace
from .._model.idmap import IdMap


@dataclass(frozen=True)
class VirtioFs:
    """A ``<filesystem>`` device with the driver ``virtiofs``. ``None`` is what the XML doesn't say."""

    tag: str
    source: str
    read_only: bool = False
    uid_map: tuple[IdMap, ...] = ()
    gid_map: tuple[IdMap, ...] = ()
    binary: str | None = None
    cache: str | None = None
    queue: int | None = None
    xattr: bool | None = None
    sandbox: str | None = None
    thread_pool: int | None = None

    def completed(self, other: VirtioFs | None) -> VirtioFs:
        """This device with the tunables it doesn't set taken from ``other``."""
        if other is None:
            return self
        return replace(
            self,
            **{
                name: getattr(other, name)
                for name in ("queue", "xattr", "sandbox", "thread_pool")
                if getattr(self, name) is None
            },
        )

    def differences(self, other: VirtioFs) -> list[str]:
        """The fields that aren't the same, by name. A binary that this one leaves to libvirt is the same as any."""
        names = [name for name in (field.name for field in fields(self)) if getattr(self, name) != getattr(other, name)]
        return [name for name in names if name != "binary" or self.binary is not None]


def parse(text: str) -> ET.Element:
    """The tree of an XML document.

    :raises LibvirtFailed: it isn't well-formed, or has a document type (so no entity is ever declared or expanded).
    """
    builder = ET.TreeBuilder(insert_comments=True)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.CommentHandler = builder.comment
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise LibvirtFailed(f"The XML of the domain can't be read: {error}.") from error
    return builder.close()


def _refuse_doctype(name: str, *unused: object) -> None:
    raise LibvirtFailed(f"The XML of the domain declares a document type ({name!r}); libvirt writes none.")


def to_text(element: ET.Element) -> str:
    """``element`` as XML, without what follows it in its parent."""
    alone = copy.copy(element)
    alone.tail = None
    return ET.tostring(alone, encoding="unicode")


def pretty(element: ET.Element) -> str:
    """``element`` as XML for a person: indented, one element a line."""
    alone = copy.deepcopy(element)
    _indent(alone, "\n")
    return ET.tostring(alone, encoding="unicode") + "\n"


def _indent(element: ET.Element, line: str) -> None:
    children = list(element)
    element.tail = None
    if children:
        element.text = line + "  "
        for child in children:
            _indent(child, line + "  ")
            child.tail = line + "  "
        children[-1].tail = line


def devices(root: ET.Element) -> ET.Element:
    return _required(root, "devices")


def _required(parent: ET.Element, tag: str) -> ET.Element:
    found = parent.find(tag)
    if found is None:
        raise LibvirtFailed(f"The XML of the domain has no <{tag}> in <{parent.tag}>.")
    return found


def _child(parent: ET.Element, tag: str) -> ET.Element:
    """The child ``tag`` of ``parent``, made when there is none."""
    found = parent.find(tag)
    return ET.SubElement(parent, tag) if found is None else found


# Devices


def filesystems(root: ET.Element) -> Iterator[tuple[ET.Element, VirtioFs]]:
    """Every virtiofs device of a domain, as element and as data."""
    for element in devices(root).findall("filesystem"):
        driver = element.find("driver")
        if driver is not None and driver.get("type") == "virtiofs":
            yield element, read_filesystem(element)


def tags(root: ET.Element) -> dict[str, str]:
    """The mount tags in use, of virtiofs and of any other devices, and what each one names: mostly a directory, also a
    socket or a block device.
    """
    found = {}
    for element in devices(root).findall("filesystem"):
        source = element.find("source")
        found[_attribute(element, "target", "dir") or ""] = (
            " ".join(source.attrib.values()) if source is not None else ""
        )
    return found


def read_filesystem(element: ET.Element) -> VirtioFs:
    queue, threads = _attribute(element, "driver", "queue"), _attribute(element, "binary/thread_pool", "size")
    xattr = _attribute(element, "binary", "xattr")
    return VirtioFs(
        tag=_attribute(element, "target", "dir") or "",
        source=_attribute(element, "source", "dir") or "",
        read_only=element.find("readonly") is not None,
        uid_map=_maps(element, "uid"),
        gid_map=_maps(element, "gid"),
        binary=_attribute(element, "binary", "path"),
        cache=_attribute(element, "binary/cache", "mode"),
        queue=None if queue is None else int(queue),
        xattr=None if xattr is None else xattr == "on",
        sandbox=_attribute(element, "binary/sandbox", "mode"),
        thread_pool=None if threads is None else int(threads),
    )


def _attribute(element: ET.Element, path: str, name: str) -> str | None:
    found = element.find(path)
    return None if found is None else found.get(name)


def _maps(element: ET.Element, kind: str) -> tuple[IdMap, ...]:
    return tuple(
        IdMap(*(int(one.get(name, "")) for name in ("start", "target", "count")))
        for one in element.findall(f"idmap/{kind}")
    )


def new_filesystem() -> ET.Element:
    element = ET.Element("filesystem", {"type": "mount", "accessmode": "passthrough"})
    ET.SubElement(element, "driver", {"type": "virtiofs"})
    return element


def write_filesystem(element: ET.Element, wanted: VirtioFs) -> None:
    """Make ``element`` say what ``wanted`` says. Its address, alias and whatever else it holds stay."""
    _set(_child(element, "driver"), "queue", wanted.queue)
    binary = _child(element, "binary")
    _set(binary, "path", wanted.binary)
    _set(binary, "xattr", None if wanted.xattr is None else "on" if wanted.xattr else "off")
    for tag, name, value in (
        ("cache", "mode", wanted.cache),
        ("sandbox", "mode", wanted.sandbox),
        ("thread_pool", "size", wanted.thread_pool),
    ):
        _set(_child(binary, tag), name, value)
        _drop_empty(binary, tag)
    _drop_empty(element, "binary")
    _set(_child(element, "source"), "dir", wanted.source)
    _set(_child(element, "target"), "dir", wanted.tag)
    _child(element, "readonly")
    if not wanted.read_only:
        _drop_empty(element, "readonly")
    idmap = _child(element, "idmap")
    idmap[:] = [
        ET.Element(kind, {name: str(value) for name, value in one.as_dict().items()})
        for kind, maps in (("uid", wanted.uid_map), ("gid", wanted.gid_map))
        for one in maps
    ]
    _drop_empty(element, "idmap")


def _set(element: ET.Element, name: str, value: object) -> None:
    if value is None:
        element.attrib.pop(name, None)
    else:
        element.set(name, str(value))


def _drop_empty(parent: ET.Element, tag: str) -> None:
    child = parent.find(tag)
    if child is not None and not child.attrib and not len(child):
        parent.remove(child)


def cdrom_of(root: ET.Element, path: str) -> ET.Element | None:
    """The CD-ROM drive that holds the image ``path``."""
    for disk in devices(root).findall("disk"):
        if disk.get("device") == "cdrom" and _attribute(disk, "source", "file") == path:
            return disk
    return None


def add_cdrom(root: ET.Element, path: str) -> ET.Element:
    """Add a read-only CD-ROM drive with the raw image ``path``: on IDE for the i440FX machine, which has no SATA, else
    on SATA.
    """
    machine = _attribute(root, "os/type", "machine") or ""
    bus, prefix = ("ide", "hd") if machine == "pc" or "i440fx" in machine else ("sata", "sd")
    used = {_attribute(disk, "target", "dev") for disk in devices(root).findall("disk")}
    free = [prefix + letter for letter in "abcdefghijklmnopqrstuvwxyz" if prefix + letter not in used]
    if not free:
        raise Conflict(f"The domain has no free {bus.upper()} drive for the seed {path}.")
    disk = ET.SubElement(devices(root), "disk", {"type": "file", "device": "cdrom"})
    ET.SubElement(disk, "driver", {"name": "qemu", "type": "raw"})
    ET.SubElement(disk, "source", {"file": path})
    ET.SubElement(disk, "target", {"dev": free[0], "bus": bus})
    ET.SubElement(disk, "readonly")
    return disk


def has_free_slot(root: ET.Element) -> bool:
    """Whether a running domain has a place for one more hot-plugged device: a PCIe port or a PCI slot that nothing
    uses, or no PCI at all.
    """
    controllers = [device for device in devices(root).findall("controller") if device.get("type") == "pci"]
    taken = {
        (_number(place, "bus"), _number(place, "slot"))
        for device in devices(root)
        for place in device.findall("address")
        if place.get("type") == "pci"
    }
    for controller in controllers:
        bus, model = int(controller.get("index", "0")), controller.get("model")
        if model in ("pcie-root-port", "pcie-switch-downstream-port"):
            if _attribute(controller, "target", "hotplug") != "off" and all(used != bus for used, _slot in taken):
                return True
        elif model in ("pci-root", "pci-bridge") and any((bus, slot) not in taken for slot in range(1, 32)):
            return True
    return not controllers


def _number(element: ET.Element, name: str) -> int:
    return int(element.get(name, "0"), 0)


# Memory


def memory_is_shared(root: ET.Element) -> bool:
    """Return whether other processes can map all of the guest's memory, which a vhost-user device needs: each NUMA cell
    and memory device, or the default.
    """
    default = _attribute(root, "memoryBacking/access", "mode") == "shared"
    parts = [cell.get("memAccess") for cell in root.findall("cpu/numa/cell")] or [None]
    parts += [device.get("access") for device in _memory_devices(root)]
    return all(access == "shared" or (access is None and default) for access in parts)


def _memory_devices(root: ET.Element) -> list[ET.Element]:
    """Memory that the guest can use like any other.

    A virtio-pmem device is always shared, and no buffer of a guest lies in an sgx-epc device.
    """
    return [
        device for device in root.findall("devices/memory") if device.get("model") in ("dimm", "nvdimm", "virtio-mem")
    ]


def share_memory(root: ET.Element) -> None:
    """Make the memory shared (spec: huge pages if the domain has them, else memfd) and leave it alone where it is
    already.

    Memory backed by files can be shared as it is, so that source stays.

    :raises Conflict: a NUMA cell or a memory device is private by its own attribute, which isn't ours to change.
    """
    if memory_is_shared(root):
        return
    for cell in root.findall("cpu/numa/cell"):
        if cell.get("memAccess") == "private":
            raise Conflict(
                f"The NUMA cell {cell.get('id')!r} of the domain has memAccess='private' and virtiofs needs shared "
                "memory: remove that attribute first."
            )
    for device in _memory_devices(root):
        if device.get("access") == "private":
            alias = _attribute(device, "alias", "name")
            which = f"{device.get('model')} device" + (
                f" {alias!r}" if alias else f" of the NUMA cell {(device.findtext('target/node') or '0')!r}"
            )
            raise Conflict(
                f"The {which} of the domain has access='private' and virtiofs needs shared memory: the guest hangs "
                "when a buffer lies in it; "
                "remove that attribute first."
            )
    backing = root.find("memoryBacking")
    if backing is None:
        backing = ET.Element("memoryBacking")
        root.insert(list(root).index(_required(root, "memory")) + 1, backing)
    _child(backing, "access").set("mode", "shared")
    if backing.find("hugepages") is None and _attribute(backing, "source", "type") != "file":
        _child(backing, "source").set("type", "memfd")


# Comparison


def first_difference(
    expected: ET.Element, found: ET.Element, ours: frozenset[ET.Element] = frozenset(), path: str = ""
) -> str | None:
    """Where ``found`` differs from ``expected``, as a path; ``None`` when they say the same.

    Only what libvirt itself rearranges is left out: the order of elements with different names, white space, and PCI
    controllers and other controllers that it adds for new devices.

    :arg ours: elements of ``expected`` to which libvirt may add (address, alias).
    """
    here = f"{path}/{expected.tag}"
    added = expected in ours
    attributes = dict(found.attrib)
    if added:
        attributes = {name: value for name, value in attributes.items() if name in expected.attrib}
    if (
        expected.tag != found.tag
        or expected.attrib != attributes
        or (expected.text or "").strip() != (found.text or "").strip()
    ):
        return here
    wanted, got = _grouped(expected), _grouped(found)
    known = {_place(child) for child in wanted}
    got = [child for child in got if _place(child) in known or not (added or child.tag == "controller")]
    for one, other in zip(wanted, got):
        if _place(one) != _place(other):  # the earlier one has no counterpart
            return f"{here}/{min(one, other, key=_place).tag}"
        difference = first_difference(one, other, ours, here)
        if difference is not None:
            return difference
    alone = wanted[len(got) :] or got[len(wanted) :]
    return f"{here}/{alone[0].tag}" if alone else None


def _grouped(element: ET.Element) -> list[ET.Element]:
    return sorted(element, key=_place)


def _place(element: ET.Element) -> tuple[str, str]:
    """What elements are ordered by; disks by their target, as libvirt does, and controllers by type and index.

    Others keep their order.
    """
    if element.tag == "disk":
        return "disk", _attribute(element, "target", "dev") or ""
    if element.tag == "controller":
        return "controller", f"{element.get('type')} {element.get('index')}"
    return str(element.tag), ""


__all__ = [
    "VirtioFs",
    "add_cdrom",
    "cdrom_of",
    "devices",
    "filesystems",
    "first_difference",
    "has_free_slot",
    "memory_is_shared",
    "new_filesystem",
    "parse",
    "pretty",
    "read_filesystem",
    "share_memory",
    "tags",
    "to_text",
    "write_filesystem",
]
