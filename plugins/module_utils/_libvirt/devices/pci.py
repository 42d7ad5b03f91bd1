# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The PCI slots of a running domain."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from ..domain_xml import attribute, devices


def has_free_slot(root: ET.Element) -> bool:
    """Return whether a running domain has a place for one more hot-plugged device: a free PCIe port, a free PCI slot,
    or no PCI at all.
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
            if attribute(controller, "target", "hotplug") != "off" and all(used != bus for used, _slot in taken):
                return True
        elif model in ("pci-root", "pci-bridge") and any((bus, slot) not in taken for slot in range(1, 32)):
            return True
    return not controllers


def _number(element: ET.Element, name: str) -> int:
    return int(element.get(name, "0"), 0)


__all__ = ["has_free_slot"]
