# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks that no data is lost because two disks, or a disk and a snapshot of it, are the same data."""

from __future__ import annotations

import contextlib
import os
import stat
import xml.etree.ElementTree as ET
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

from ..._core.directory import open_file_at, opened_parent
from ..._core.errors import Conflict, VmstoreError
from ..._image.layer_header import read_backing_name
from ..._libvirt.devices.alias import name_of
from ..._libvirt.devices.volume_disk import VolumeDisk, read_volume_disk
from ..._libvirt.domain_xml import devices
from .same_data import differences

#: Upper bound of the files of a backing chain that are read (libvirt has the same).
_LONGEST_CHAIN = 200


def refuse_shared_data(disks: Sequence[VolumeDisk], defined: ET.Element) -> None:
    """Refuse two disks of one domain with the same data, if one of them writes and not both are shareable.

    :arg disks: the declared disks.
    :arg defined: the definition after the change. Its other disks count, too.
    :raises Conflict: two disks have the same data.
    """
    names = {disk.name for disk in disks}
    others = [read_volume_disk(one) for one in devices(defined).findall("disk") if name_of(one) not in names]
    users: dict[Hashable, VolumeDisk] = {}
    for disk in [*others, *disks]:
        for path, writes in _layers(disk):
            identity = _identity(path)
            other = users.setdefault(identity, disk)
            is_safe = (disk.shareable and other.shareable) or not (writes or _writes(other, identity))
            if other is not disk and not is_safe:
                raise Conflict(
                    f"The disks {other.name or other.target!r} and {disk.name or disk.target!r} have the same data, "
                    f"{path}: different data is expected, or disks that are all read-only, or all shareable."
                )
            if writes:
                users[identity] = disk


def _layers(disk: VolumeDisk) -> Iterator[tuple[str, bool]]:
    """Yield the path of each layer of a disk, and whether the disk writes to it."""
    if disk.layer is not None:
        yield disk.layer.path, not disk.read_only and disk.device != "cdrom"
    if disk.backing is not None:
        yield disk.backing.path, False


def _writes(disk: VolumeDisk, identity: Hashable) -> bool:
    return any(writes and _identity(path) == identity for path, writes in _layers(disk))


def _identity(path: str) -> Hashable:
    """Return a value that all names of the same file or block device have."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_rdev if stat.S_ISBLK(status.st_mode) else (status.st_dev, status.st_ino)


def refuse_snapshots(disks: Iterable[VolumeDisk], *domains: Mapping[str, VolumeDisk]) -> None:
    """Refuse to replace a disk whose file is a snapshot over the declared data. The domain would lose all data since
    the snapshot was created.

    :arg domains: the disks of the definition and of the running domain, by name.
    :raises Conflict: a disk has a snapshot that another program has created.
    """
    for disk in disks:
        for found in (present[disk.name] for present in domains if disk.name in present):
            if disk.layer is None or found.layer is None or "layer" not in differences(disk, found):
                continue
            base = os.path.realpath(disk.layer.path)
            if base in _backing_files(found.layer.path):
                raise Conflict(
                    f"The disk {disk.name!r} has the snapshot {found.layer.path} over {disk.layer.path}, whose newer "
                    "data would be lost: remove the snapshot first ('virsh blockcommit --active --pivot')."
                )


def _backing_files(path: str) -> set[str]:
    """Return the resolved paths of the backing files of an image, up to the first file without one."""
    found: set[str] = set()
    with contextlib.suppress(VmstoreError, OSError):
        while len(found) < _LONGEST_CHAIN:
            with opened_parent(path) as (directory, name):
                descriptor = open_file_at(directory, name)
            try:
                backing = read_backing_name(descriptor, path)
            finally:
                os.close(descriptor)
            if backing is None:
                break
            path = os.path.realpath(os.path.join(os.path.dirname(path), backing))
            if path in found:
                break
            found.add(path)
    return found


__all__ = ["refuse_shared_data", "refuse_snapshots"]
