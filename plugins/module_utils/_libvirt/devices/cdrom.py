# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The CD-ROM drive with an image of this host."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from ..domain_xml import attribute
from .disk import Disk, choose_target, create_disk, disks


def cdrom_of(root: ET.Element, path: str) -> ET.Element | None:
    """Return the CD-ROM drive that holds the image ``path``."""
    return next((element for element, disk in disks(root) if (disk.device, disk.source) == ("cdrom", path)), None)


def create_cdrom(root: ET.Element, path: str) -> ET.Element:
    """Return a new read-only CD-ROM drive with the raw image ``path`` for the domain ``root``.

    The drive is on SATA. The i440FX machine has no SATA, so the drive is on IDE there.

    :raises Conflict: every drive of the bus is in use.
    """
    machine = attribute(root, "os/type", "machine") or ""
    bus = "ide" if machine == "pc" or "i440fx" in machine else "sata"
    return create_disk(Disk(path, "raw", choose_target(bus, root), bus, device="cdrom", read_only=True))


__all__ = ["cdrom_of", "create_cdrom"]
