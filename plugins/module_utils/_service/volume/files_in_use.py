# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of a domain's disks that a running QEMU or a saved state needs."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from ..._libvirt.domain_xml import devices


def disk_paths(root: ET.Element | None) -> set[str]:
    """Return the paths of all disks of a domain, with those of their backing files. Without XML, there are none."""
    return set() if root is None else {path for disk in devices(root).findall("disk") for path in paths_of(disk)}


def paths_of(disk: ET.Element) -> set[str]:
    """Return the paths of one disk and its backing files."""
    paths = (source.get("file") or source.get("dev") for source in disk.iter("source"))
    return {path for path in paths if path is not None}


__all__ = ["disk_paths", "paths_of"]
