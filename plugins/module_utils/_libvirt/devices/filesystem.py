# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ``<filesystem>`` device with the driver ``virtiofs``."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator

from ..._core.records import dataclass, fields, replace
from ..._model.idmap import IdMap
from ..domain_xml import attribute, devices, drop_empty_child, obtain_child, set_attribute


@dataclass(frozen=True)
class VirtioFs:
    """A ``<filesystem>`` device with the driver ``virtiofs``. ``None`` is a value that the XML lacks."""

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

    def complete_from(self, other: VirtioFs | None) -> VirtioFs:
        """Return this device with missing tunables taken from ``other``."""
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
        """Return the names of the fields that differ.

        A device without a binary leaves the choice to libvirt, so any binary of ``other`` is accepted.
        """
        names = [name for name in (field.name for field in fields(self)) if getattr(self, name) != getattr(other, name)]
        return [name for name in names if name != "binary" or self.binary is not None]


def filesystems(root: ET.Element) -> Iterator[tuple[ET.Element, VirtioFs]]:
    """Yield every virtiofs device of a domain, as element and as data."""
    for element in devices(root).findall("filesystem"):
        driver = element.find("driver")
        if driver is not None and driver.get("type") == "virtiofs":
            yield element, read_filesystem(element)


def find_filesystem(root: ET.Element, tag: str, source: str) -> ET.Element | None:
    """Return the element of the virtiofs device with this mount tag and this source."""
    return next((element for element, found in filesystems(root) if (found.tag, found.source) == (tag, source)), None)


def tags(root: ET.Element) -> dict[str, str]:
    """Return the mount tags in use, of virtiofs and of any other devices, each with its source. The source is mostly
    a directory, sometimes a socket or a block device.
    """
    found = {}
    for element in devices(root).findall("filesystem"):
        source = element.find("source")
        found[attribute(element, "target", "dir") or ""] = (
            " ".join(source.attrib.values()) if source is not None else ""
        )
    return found


def read_filesystem(element: ET.Element) -> VirtioFs:
    """Return the device that ``element`` describes."""
    queue, threads = attribute(element, "driver", "queue"), attribute(element, "binary/thread_pool", "size")
    xattr = attribute(element, "binary", "xattr")
    return VirtioFs(
        tag=attribute(element, "target", "dir") or "",
        source=attribute(element, "source", "dir") or "",
        read_only=element.find("readonly") is not None,
        uid_map=_maps(element, "uid"),
        gid_map=_maps(element, "gid"),
        binary=attribute(element, "binary", "path"),
        cache=attribute(element, "binary/cache", "mode"),
        queue=None if queue is None else int(queue),
        xattr=None if xattr is None else xattr == "on",
        sandbox=attribute(element, "binary/sandbox", "mode"),
        thread_pool=None if threads is None else int(threads),
    )


def _maps(element: ET.Element, kind: str) -> tuple[IdMap, ...]:
    return tuple(
        IdMap(*(int(one.get(name, "")) for name in ("start", "target", "count")))
        for one in element.findall(f"idmap/{kind}")
    )


def create_filesystem(device: VirtioFs) -> ET.Element:
    """Return a new element for ``device``."""
    element = ET.Element("filesystem", {"type": "mount", "accessmode": "passthrough"})
    ET.SubElement(element, "driver", {"type": "virtiofs"})
    write_filesystem(element, device)
    return element


def write_filesystem(element: ET.Element, device: VirtioFs) -> None:
    """Set the values of ``device`` in ``element``. The address, the alias and other content are unchanged."""
    set_attribute(obtain_child(element, "driver"), "queue", device.queue)
    binary = obtain_child(element, "binary")
    set_attribute(binary, "path", device.binary)
    set_attribute(binary, "xattr", None if device.xattr is None else "on" if device.xattr else "off")
    for tag, name, value in (
        ("cache", "mode", device.cache),
        ("sandbox", "mode", device.sandbox),
        ("thread_pool", "size", device.thread_pool),
    ):
        set_attribute(obtain_child(binary, tag), name, value)
        drop_empty_child(binary, tag)
    drop_empty_child(element, "binary")
    set_attribute(obtain_child(element, "source"), "dir", device.source)
    set_attribute(obtain_child(element, "target"), "dir", device.tag)
    obtain_child(element, "readonly")
    if not device.read_only:
        drop_empty_child(element, "readonly")
    idmap = obtain_child(element, "idmap")
    idmap[:] = [
        ET.Element(kind, {name: str(value) for name, value in one.as_dict().items()})
        for kind, maps in (("uid", device.uid_map), ("gid", device.gid_map))
        for one in maps
    ]
    drop_empty_child(element, "idmap")


__all__ = [
    "VirtioFs",
    "create_filesystem",
    "filesystems",
    "find_filesystem",
    "read_filesystem",
    "tags",
    "write_filesystem",
]
