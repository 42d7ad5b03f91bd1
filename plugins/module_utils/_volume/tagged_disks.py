# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The disks with a tag, which the metadata of a ConfigDrive describes, at the places that the guest finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._core.records import dataclass, replace
from .._libvirt.devices.volume_disk import PLACE, VolumeDisk
from .._model.domain_volumes import DomainVolumes
from .._model.volume_disks import DiskDevice
from .connection import ConnectedDisk, connect_disks
from .facts import DomainFacts
from .media import tagged_devices
from .targets import choose_scsi_addresses, choose_targets


@dataclass(frozen=True)
class TaggedDisks:
    """The description of the disks with a tag.

    :arg are_placed: whether all addresses are known. libvirt chooses the others when the domain is defined.
    """

    devices: tuple[Mapping[str, Any], ...]
    are_placed: bool = True


def describe_tagged_disks(spec: DomainVolumes, facts: DomainFacts, defined: Mapping[str, VolumeDisk]) -> TaggedDisks:
    """Return the description of the disks with a tag, as the definition is going to have them.

    :arg defined: the disks of the present definition, by name. A disk that stays at its place keeps its address.
    """
    disks = connect_disks(spec, facts)
    targets = choose_targets(disks, facts)
    places = choose_scsi_addresses(disks, targets, facts)
    found, are_placed = [], True
    for disk in disks:
        if disk.spec.tag is None:
            continue
        wanted = VolumeDisk(
            disk.name,
            targets[disk.name],
            disk.bus,
            disk.kind,
            serial=disk.spec.serial,
            pci_address=_pci_address(disk),
            scsi_address=places.get(disk.name),
        )
        present = defined.get(disk.name)
        is_kept = present is not None and all(getattr(wanted, name) == getattr(present, name) for name in PLACE)
        if disk.bus == "virtio" and wanted.pci_address is None:
            if present is not None and is_kept:
                wanted = replace(wanted, pci_address=present.pci_address)
            else:
                are_placed = False
        found += tagged_devices([wanted], {disk.name: disk.spec.tag})
    return TaggedDisks(tuple(found), are_placed)


def _pci_address(disk: ConnectedDisk) -> str | None:
    device = disk.spec.device
    return device.pci_address if isinstance(device, DiskDevice) else None


__all__ = ["TaggedDisks", "describe_tagged_disks"]
