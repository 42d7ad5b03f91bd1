# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The record of a domain's declared volumes in the metadata of its definition (libvirt, "General metadata").

The record tells which devices belong to the declaration of the last run. It goes along when a domain is migrated, and
is written together with the devices.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

from ..._core.records import dataclass
from ..domain_xml import obtain_child

#: The namespace of the record. libvirt keeps one element of each namespace.
NAMESPACE = "urn:granary:vmstore:volumes:1"
_RECORD = "granary:volumes"
_TAGS = ("granary:volume", "granary:data_volume")


@dataclass(frozen=True)
class VolumeRecord:
    """The record of a run.

    :arg names: the names of the disks and filesystems.
    :arg data_volumes: the names of the images that go with the domain.
    """

    names: frozenset[str] = frozenset()
    data_volumes: frozenset[str] = frozenset()


def read_record(root: ET.Element) -> VolumeRecord:
    """Return the record in a definition; an empty one without a record."""
    found = root.findall("metadata/*/*")
    return VolumeRecord(*(frozenset(one.get("name") or "" for one in found if one.tag == tag) for tag in _TAGS))


def write_record(root: ET.Element, record: VolumeRecord) -> None:
    """Replace the record. An empty record is left out."""
    if record == read_record(root):
        return
    metadata = obtain_child(root, "metadata")
    metadata[:] = [child for child in metadata if child.tag != _RECORD]
    if record != VolumeRecord():
        element = ET.SubElement(metadata, _RECORD, {"xmlns:granary": NAMESPACE})
        for tag, names in zip(_TAGS, (record.names, record.data_volumes)):
            element.extend(ET.Element(tag, {"name": name}) for name in sorted(names))
    if not len(metadata):
        root.remove(metadata)


__all__ = ["NAMESPACE", "VolumeRecord", "read_record", "write_record"]
