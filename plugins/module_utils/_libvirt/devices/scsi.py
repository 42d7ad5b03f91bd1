# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The SCSI controllers of a domain and the places of disks on them."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from ..._core.errors import Conflict
from ..domain_xml import devices

#: Number of the disks on a controller that are used here. virtio-scsi has more units.
_UNITS = 256
#: The models of a virtio-scsi controller.
_VIRTIO = ("virtio-scsi", "virtio-transitional", "virtio-non-transitional")


def find_scsi_controller(root: ET.Element) -> str | None:
    """Return the index of the first virtio-scsi controller; ``None`` without such a controller."""
    found = _find_virtio(root)
    return None if found is None else found.get("index")


def find_scsi_model(root: ET.Element) -> str | None:
    """Return the model of the first virtio-scsi controller; ``None`` without such a controller."""
    found = _find_virtio(root)
    return None if found is None else found.get("model")


def _find_virtio(root: ET.Element) -> ET.Element | None:
    return next((one for one in _controllers(root) if one.get("model") in _VIRTIO), None)


def choose_scsi_index(*roots: ET.Element) -> str:
    """Return the first index that no SCSI controller of the domain has, running or defined."""
    used = {controller.get("index") for root in roots for controller in _controllers(root)}
    return next(index for index in map(str, range(len(used) + 1)) if index not in used)


def create_scsi_controller(index: str, model: str = "virtio-scsi") -> ET.Element:
    """Return a new virtio-scsi controller. Without a model, libvirt creates one for which guests lack a driver."""
    return ET.Element("controller", {"type": "scsi", "index": index, "model": model})


def choose_scsi_address(index: str, *roots: ET.Element) -> ET.Element:
    """Return the address of the first free unit of the controller ``index``.

    :raises Conflict: every unit is in use.
    """
    place = {"type": "drive", "controller": index, "bus": "0", "target": "0"}
    used = {
        address.get("unit")
        for root in roots
        for tag in ("disk", "hostdev")
        for device in devices(root).findall(tag)
        for address in device.findall("address")
        if place.items() <= address.attrib.items() and _is_scsi(device)
    }
    for unit in map(str, range(_UNITS)):
        if unit not in used:
            return ET.Element("address", {**place, "unit": unit})
    raise Conflict(f"The SCSI controller {index} of the domain has no free unit for one more disk.")


def _is_scsi(device: ET.Element) -> bool:
    """Return whether a device is on a SCSI controller. Addresses on SATA and IDE look the same."""
    target = device.find("target")
    return target is None or target.get("bus") == "scsi"


def _controllers(root: ET.Element) -> list[ET.Element]:
    return [one for one in devices(root).findall("controller") if one.get("type") == "scsi"]


__all__ = [
    "choose_scsi_address",
    "choose_scsi_index",
    "create_scsi_controller",
    "find_scsi_controller",
    "find_scsi_model",
]
