# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The two ways by which a definition orders boot devices: the kinds of devices, or a number of each device. libvirt
refuses both together.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

from ..domain_xml import devices, require_child

#: The kind of devices that libvirt adds to a definition without any order.
_DEFAULT = {"dev": "hd"}


def has_boot_numbers(root: ET.Element) -> bool:
    """Return whether a device has a number."""
    return any(device.find("boot") is not None for device in devices(root))


def settle_boot_order(root: ET.Element, *, had_numbers: bool) -> None:
    """Remove the kinds of boot devices if a device has a number. Add the default kind after the last number is gone.

    :arg had_numbers: whether a device had a number before the change.
    """
    system = require_child(root, "os")
    if has_boot_numbers(root):
        for kind in system.findall("boot"):
            system.remove(kind)
    elif had_numbers and system.find("boot") is None:
        ET.SubElement(system, "boot", _DEFAULT)


__all__ = ["has_boot_numbers", "settle_boot_order"]
