# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The memory of a domain: its backing, NUMA cells and memory devices."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from ..._core.errors import Conflict
from ..domain_xml import attribute, obtain_child, require_child


def memory_is_shared(root: ET.Element) -> bool:
    """Return whether other processes can map all of the guest's memory, which a vhost-user device needs. Each NUMA
    cell and memory device counts, or the default.
    """
    default = attribute(root, "memoryBacking/access", "mode") == "shared"
    parts = [cell.get("memAccess") for cell in root.findall("cpu/numa/cell")] or [None]
    parts += [device.get("access") for device in _memory_devices(root)]
    return all(access == "shared" or (access is None and default) for access in parts)


def _memory_devices(root: ET.Element) -> list[ET.Element]:
    """Return the memory devices that can hold any data of the guest.

    A virtio-pmem device is always shared, and an sgx-epc device holds no buffer of a guest.
    """
    return [
        device for device in root.findall("devices/memory") if device.get("model") in ("dimm", "nvdimm", "virtio-mem")
    ]


def share_memory(root: ET.Element) -> None:
    """Make the memory shared, unless it is shared already. The backing is huge pages if the domain has them, else memfd
    (spec).

    Memory backed by files can be shared unchanged, so that source stays.

    :raises Conflict: a NUMA cell or a memory device is private by an attribute of its own, which belongs to the user.
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
            alias = attribute(device, "alias", "name")
            which = f"{device.get('model')} device" + (
                f" {alias!r}" if alias else f" of the NUMA cell {(device.findtext('target/node') or '0')!r}"
            )
            raise Conflict(
                f"The {which} of the domain has access='private' and virtiofs needs shared memory: the guest hangs "
                "when a buffer lies in it; remove that attribute first."
            )
    backing = root.find("memoryBacking")
    if backing is None:
        backing = ET.Element("memoryBacking")
        root.insert(list(root).index(require_child(root, "memory")) + 1, backing)
    obtain_child(backing, "access").set("mode", "shared")
    if backing.find("hugepages") is None and attribute(backing, "source", "type") != "file":
        obtain_child(backing, "source").set("type", "memfd")


__all__ = ["memory_is_shared", "share_memory"]
