# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The adoption of disks that a domain had before its first declaration."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Collection, Sequence

from ..._core.errors import Conflict
from ..._libvirt.devices.alias import name_of, set_name
from ..._libvirt.devices.volume_disk import VolumeDisk, disk_name, read_volume_disk
from ..._libvirt.domain_xml import devices


def adopt_disks(root: ET.Element, names: Collection[str]) -> list[VolumeDisk]:
    """Give a disk without an alias of this collection such an alias, if its target is among ``names``. Return these
    disks.
    """
    elements = devices(root).findall("disk")
    taken = {name_of(element) for element in elements}
    adopted = [one for one in elements if name_of(one) is None and disk_name(one) in set(names) - taken]
    for element in adopted:
        set_name(element, disk_name(element))
    return [read_volume_disk(element) for element in adopted]


def check_adopted(domain: str, adopted: Sequence[VolumeDisk], declared: Sequence[VolumeDisk]) -> None:
    """Refuse to replace the data of an adopted disk, because the same name may be an accident. The medium of a drive is
    replaced.

    :arg domain: the name of the domain, for the error.
    :raises Conflict: an adopted disk has other data than the declared disk.
    """
    wanted = {disk.name: disk for disk in declared}
    for disk in adopted:
        if disk.device != "cdrom" and _path(disk) != _path(wanted[disk.name]):
            raise Conflict(
                f"The domain {domain!r} has another disk {disk.name!r} already, with the data {_path(disk)}: give the "
                "declared disk another name, or the same data."
            )


def _path(disk: VolumeDisk) -> str | None:
    return None if disk.layer is None else os.path.realpath(disk.layer.path)


__all__ = ["adopt_disks", "check_adopted"]
