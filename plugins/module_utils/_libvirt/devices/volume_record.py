# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The record of a domain's declared volumes in the metadata of its definition (libvirt, "General metadata").

The record tells which devices belong to the declaration of the last run. It goes along when a domain is migrated, and
is written together with the devices. A running domain has a record of its own: a disk that its guest doesn't release
is missing in the definition, and still belongs to this collection.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Collection

from ..._core.records import dataclass, replace
from ..connection import Domain
from ..domain_xml import obtain_child, parse, to_text

#: The namespace of the record. libvirt keeps one element of each namespace.
NAMESPACE = "urn:granary:vmstore:volumes:1"
_PREFIX = "granary"
_RECORD = "granary:volumes"
_TAGS = ("granary:volume", "granary:data_volume")
_THREADS = "io_threads"


@dataclass(frozen=True)
class VolumeRecord:
    """The record of a run.

    :arg names: the names of the disks and filesystems.
    :arg data_volumes: the names of the images that go with the domain.
    :arg io_threads: the number of threads for input and output that the declaration set; 0 without a policy.
    """

    names: frozenset[str] = frozenset()
    data_volumes: frozenset[str] = frozenset()
    io_threads: int = 0


def read_record(root: ET.Element) -> VolumeRecord:
    """Return the record in a definition; an empty one without a record."""
    found = root.findall("metadata/*/*")
    names, volumes = (frozenset(one.get("name") or "" for one in found if one.tag == tag) for tag in _TAGS)
    threads = [one.get(_THREADS, "") for one in root.findall("metadata/*") if one.tag == _RECORD]
    return VolumeRecord(names, volumes, int(threads[0]) if threads and threads[0].isdigit() else 0)


def write_record(root: ET.Element, record: VolumeRecord) -> None:
    """Replace the record. An empty record is left out."""
    if record == read_record(root):
        return
    metadata = obtain_child(root, "metadata")
    metadata[:] = [child for child in metadata if child.tag != _RECORD]
    if record != VolumeRecord():
        metadata.append(_create_record(record))
    if not len(metadata):
        root.remove(metadata)


def _create_record(record: VolumeRecord) -> ET.Element:
    element = ET.Element(_RECORD, {"xmlns:granary": NAMESPACE})
    if record.io_threads:
        element.set(_THREADS, str(record.io_threads))
    for tag, names in zip(_TAGS, (record.names, record.data_volumes)):
        element.extend(ET.Element(tag, {"name": name}) for name in sorted(names))
    return element


def record_running(domain: Domain, names: Collection[str]) -> None:
    """Add the names of devices to the record of a running domain.

    :raises LibvirtFailed: libvirt can't write the record.
    """
    text = domain.running_xml()
    if text is None:
        return
    record = read_record(parse(text))
    if not record.names.issuperset(names):
        record = replace(record, names=record.names.union(names))
        element = _create_record(record)
        element.attrib.pop("xmlns:granary")
        for one in element.iter():  # libvirt adds the prefix and the namespace itself
            one.tag = one.tag.replace(f"{_PREFIX}:", "", 1)
        domain.write_metadata(to_text(element), _PREFIX, NAMESPACE)


__all__ = ["NAMESPACE", "VolumeRecord", "read_record", "record_running", "write_record"]
