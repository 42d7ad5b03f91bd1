# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The record of a domain's declared volumes in the metadata of its definition (libvirt, "General metadata").

The record tells which devices belong to the declaration of the last run. It goes along when a domain is migrated, and
is written together with the devices.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable

from ..domain_xml import obtain_child

#: The namespace of the record. libvirt keeps one element of each namespace.
NAMESPACE = "urn:granary:vmstore:volumes:1"
_RECORD, _VOLUME = "granary:volumes", "granary:volume"


def read_recorded_names(root: ET.Element) -> frozenset[str]:
    """Return the names of the volumes in the record."""
    return frozenset(one.get("name") or "" for one in root.findall("metadata/*/*") if one.tag == _VOLUME)


def record_names(root: ET.Element, names: Iterable[str]) -> None:
    """Replace the record. Without names, there is no record."""
    wanted = sorted(names)
    if wanted == sorted(read_recorded_names(root)):
        return
    metadata = obtain_child(root, "metadata")
    metadata[:] = [child for child in metadata if child.tag != _RECORD]
    if wanted:
        record = ET.SubElement(metadata, _RECORD, {"xmlns:granary": NAMESPACE})
        record[:] = [ET.Element(_VOLUME, {"name": name}) for name in wanted]
    if not len(metadata):
        root.remove(metadata)


__all__ = ["NAMESPACE", "read_recorded_names", "record_names"]
