# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The devices of a domain as a declaration: the inverse of the conversion."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..._core.problems import Problem
from ..._core.records import dataclass, field
from ..conversion import DomainDevices
from ..facts import DomainFacts
from .disks import FoundVolume, describe_disk
from .filesystems import describe_filesystem
from .io_threads import find_thread_policy

_TRANSITIONAL = "virtio-transitional"
#: The sources of a filesystem that aren't made of texts.
_CLAIMS = {"persistent_volume_claim", "data_volume"}
#: The place of a problem with an element of a list.
_PLACE = re.compile(r"(disks|filesystems|volumes)\[([0-9]+)\]")


@dataclass(frozen=True)
class FoundDomain:
    """The devices of a domain with their data.

    :arg devices: the devices. Disks without an alias of this collection have the names of their targets.
    :arg volumes: the data of disks and filesystems, by their names. An empty drive has none.
    :arg tags: the tags of disks, by their names.
    """

    devices: DomainDevices
    volumes: Mapping[str, FoundVolume]
    facts: DomainFacts
    tags: Mapping[str, str] = field(default_factory=dict)


def read_back(found: FoundDomain) -> dict[str, Any]:
    """Return the declaration, as plain data for the options of ``domain_volumes``. Options with default values are left
    out.
    """
    devices = found.devices
    policy = find_thread_policy(devices.disks, devices.io_threads.count, found.facts)
    described = [
        describe_disk(
            disk,
            found.volumes.get(disk.name),
            found.facts,
            is_dedicated=disk.name in policy.dedicated,
            tag=found.tags.get(disk.name),
        )
        for disk in devices.disks
    ]
    shared = [(one, found.volumes[one.tag].source) for one in devices.filesystems]
    declaration = {
        "disks": [disk for disk, _volume in described],
        "filesystems": [describe_filesystem(one, has_texts=not _CLAIMS & source.keys()) for one, source in shared],
        "volumes": [volume for _disk, volume in described if volume is not None]
        + [{"name": one.tag, **source} for one, source in shared],
        "block_multi_queue": _has_multi_queue(found),
        "io_threads_policy": policy.name,
        "io_threads": None if policy.pool is None else {"supplemental_pool_thread_count": policy.pool},
        "downward_metrics": devices.has_metrics_port,
        "virtio_transitional": _is_transitional(devices),
        "disable_hotplug": devices.scsi_model is None,
    }
    return {option: value for option, value in declaration.items() if value not in (None, False, [])}


def _has_multi_queue(found: FoundDomain) -> bool:
    queues = {disk.queues for disk in found.devices.disks if (disk.device, disk.bus) == ("disk", "virtio")}
    return queues == {found.facts.vcpus}


def _is_transitional(devices: DomainDevices) -> bool:
    """Return whether all disks on virtio are transitional, or the SCSI controller if there are no such disks."""
    models = {disk.model for disk in devices.disks if (disk.device, disk.bus) == ("disk", "virtio")}
    return (models or {devices.scsi_model}) == {_TRANSITIONAL}


def refused_names(declaration: Mapping[str, Any], problems: Iterable[Problem]) -> dict[str, Problem]:
    """Return the names of the disks and filesystems that problems belong to, each with the first of its problems."""
    found: dict[str, Problem] = {}
    for problem in problems:
        place = _PLACE.match(problem.path)
        if place is not None:
            found.setdefault(declaration[place[1]][int(place[2])]["name"], problem)
    return found


__all__ = ["FoundDomain", "read_back", "refused_names"]
