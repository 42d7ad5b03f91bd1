# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The CD-ROM drive with an image of this host."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from ..._core.errors import Conflict
from ..domain_xml import attribute, devices


def cdrom_of(root: ET.Element, path: str) -> ET.Element | None:
    """Return the CD-ROM drive that holds the image ``path``."""
    for disk in devices(root).findall("disk"):
        if disk.get("device") == "cdrom" and attribute(disk, "source", "file") == path:
            return disk
    return None


def create_cdrom(root: ET.Element, path: str) -> ET.Element:
    """Return a new read-only CD-ROM drive with the raw image ``path`` for the domain ``root``.

    The drive is on SATA. The i440FX machine has no SATA, so the drive is on IDE there.

    :raises Conflict: every drive of the bus is in use.
    """
    machine = attribute(root, "os/type", "machine") or ""
    bus, prefix = ("ide", "hd") if machine == "pc" or "i440fx" in machine else ("sata", "sd")
    used = {attribute(disk, "target", "dev") for disk in devices(root).findall("disk")}
    free = [prefix + letter for letter in "abcdefghijklmnopqrstuvwxyz" if prefix + letter not in used]
    if not free:
        raise Conflict(f"The domain has no free {bus.upper()} drive for the seed {path}.")
    disk = ET.Element("disk", {"type": "file", "device": "cdrom"})
    ET.SubElement(disk, "driver", {"name": "qemu", "type": "raw"})
    ET.SubElement(disk, "source", {"file": path})
    ET.SubElement(disk, "target", {"dev": free[0], "bus": bus})
    ET.SubElement(disk, "readonly")
    return disk


__all__ = ["cdrom_of", "create_cdrom"]
