# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The admission of a declaration: every rule that needs no data on the host, with all problems at once.

The rules are those of KubeVirt's admission, of libvirt and of QEMU, and rules against loss of data that neither has
(docs/kubevirt.md).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ..._core.problems import Problems
from ..._model.domain_volumes import SUPPLEMENTAL_POOL, DomainVolumes
from ..._model.volume_sources import DataVolume, DownwardMetrics, Ephemeral, PersistentVolumeClaim, ServiceAccount
from ..connection import ConnectedDisk, connect_disks
from ..facts import DomainFacts
from ..reading.declaration import read_declaration
from .data_rules import admit_data
from .disk_rules import admit_disk
from .filesystem_rules import admit_filesystems
from .names import require_different, require_label
from .template_rules import admit_templates
from .volume_rules import admit_volume

#: Upper bound of the threads of a pool: QEMU's disks have no more queues.
_LARGEST_POOL = 1024

#: Sources of which a domain has at most one, with the names of their options.
_SINGLE = ((ServiceAccount, "service_account"), (DownwardMetrics, "downward_metrics"))


def accept_declaration(options: Mapping[str, Any], facts: DomainFacts) -> DomainVolumes:
    """Return the declaration for the options of a module.

    :raises InvalidDeclaration: with every problem of the declaration.
    """
    problems = Problems()
    spec = read_declaration(problems, options)
    admit(problems, spec, facts)
    problems.raise_any()
    return spec


def admit(problems: Problems, spec: DomainVolumes, facts: DomainFacts) -> None:
    """Add a problem for each rule that a declaration breaks."""
    disks = connect_disks(spec, facts)
    _admit_names(problems, spec)
    for disk in disks:
        admit_disk(problems, disk, facts)
    for place, volume in enumerate(spec.volumes):
        admit_volume(problems, place, volume, spec)
    _admit_connections(problems, spec, disks)
    _admit_single_sources(problems, spec)
    _admit_shared_claims(problems, spec, disks)
    _admit_unique_values(problems, disks, facts)
    admit_filesystems(problems, spec, facts)
    admit_templates(problems, spec)
    admit_data(problems, spec)
    _admit_io_threads(problems, spec, facts)


def _admit_names(problems: Problems, spec: DomainVolumes) -> None:
    lists: Mapping[str, Sequence[Any]] = {
        "disks": spec.disks,
        "volumes": spec.volumes,
        "filesystems": spec.filesystems,
    }
    paths = {
        option: [(f"{option}[{place}].name", one.name) for place, one in enumerate(found)]
        for option, found in lists.items()
    }
    for named in paths.values():
        for path, name in named:
            require_label(problems, path, name)
        require_different(problems, named)
    names = {name: path for path, name in paths["disks"]}
    for path, name in paths["filesystems"]:
        if name in names:
            problems.add("disk_and_filesystem", path, name, f"another name than that of {names[name]} is expected")


def _admit_connections(problems: Problems, spec: DomainVolumes, disks: Sequence[ConnectedDisk]) -> None:
    for disk in disks:
        if disk.volume is None and disk.kind != "cdrom":
            problems.add("no_volume", f"{disk.path}.name", disk.name, "the name of a volume is expected")
    used = {disk.name for disk in disks} | {filesystem.name for filesystem in spec.filesystems}
    for place, volume in enumerate(spec.volumes):
        if volume.name not in used:
            problems.add(
                "no_device", f"volumes[{place}].name", volume.name, "the name of a disk or a filesystem is expected"
            )


def _admit_single_sources(problems: Problems, spec: DomainVolumes) -> None:
    for kind, option in _SINGLE:
        places = [place for place, volume in enumerate(spec.volumes) if isinstance(volume.source, kind)]
        for place in places[1:]:
            problems.add(
                f"one_{option}",
                f"volumes[{place}].{option}",
                spec.volumes[place].name,
                f"one volume of this kind is expected, and volumes[{places[0]}] is one",
            )


def _admit_shared_claims(problems: Problems, spec: DomainVolumes, disks: Sequence[ConnectedDisk]) -> None:
    """Refuse an image that two disks of the domain use and one of them can change unexpectedly."""
    places = {volume.name: place for place, volume in enumerate(spec.volumes)}
    users: dict[str, list[ConnectedDisk]] = defaultdict(list)
    for disk in disks:
        name = _claim_of(disk.source)
        if name is not None:
            users[name].append(disk)
    for name, sharing in users.items():
        is_safe = all(disk.spec.shareable for disk in sharing) or not any(map(_writes_claim, sharing))
        if len(sharing) > 1 and not is_safe:
            other = places[sharing[0].name]
            problems.add(
                "claim_twice",
                f"volumes[{places[sharing[1].name]}]",
                name,
                f"volumes[{other}] has this image, too. Read-only disks are expected, or shareable ones",
            )


def _claim_of(source: object) -> str | None:
    if isinstance(source, (PersistentVolumeClaim, Ephemeral)):
        return source.claim_name
    return source.name if isinstance(source, DataVolume) else None


def _writes_claim(disk: ConnectedDisk) -> bool:
    return not isinstance(disk.source, Ephemeral) and disk.kind != "cdrom" and not disk.is_read_only


def _admit_unique_values(problems: Problems, disks: Sequence[ConnectedDisk], facts: DomainFacts) -> None:
    """Refuse values of one disk that belong to another device."""
    orders = [(f"{disk.path}.boot_order", disk.spec.boot_order) for disk in disks if disk.spec.boot_order]
    serials = [(f"{disk.path}.serial", disk.spec.serial) for disk in disks if disk.spec.serial]
    addresses = [(f"{disk.path}.disk.pci_address", getattr(disk.spec.device, "pci_address", None)) for disk in disks]
    require_different(problems, [(path, str(order)) for path, order in orders], "boot_order_twice")
    require_different(problems, serials, "serial_twice")
    require_different(problems, [(path, one.lower()) for path, one in addresses if one], "pci_address_twice")
    for path, order in orders:
        if order in facts.other_boot_orders:
            accepted = f"{facts.other_boot_orders[order]} of the domain has this order already"
            problems.add("boot_order_taken", path, order, accepted)
    for path, serial in serials:
        if serial in facts.other_serials:
            problems.add(
                "serial_taken", path, serial, f"{facts.other_serials[serial]} of the domain has this number already"
            )


def _admit_io_threads(problems: Problems, spec: DomainVolumes, facts: DomainFacts) -> None:
    path = "io_threads.supplemental_pool_thread_count"
    if spec.io_threads_policy == SUPPLEMENTAL_POOL:
        if spec.io_threads is None or not 1 <= spec.io_threads <= _LARGEST_POOL:
            accepted = f"a number from 1 to {_LARGEST_POOL} is expected with {SUPPLEMENTAL_POOL}"
            problems.add("pool_size", path, spec.io_threads, accepted)
        if not facts.has_disk_io_threads:
            problems.add(
                "pool_support",
                "io_threads_policy",
                spec.io_threads_policy,
                "libvirt on this host can't give a disk several threads. shared or auto is expected",
            )
    elif spec.io_threads is not None:
        problems.add(
            "pool_policy", path, spec.io_threads, f"io_threads_policy: {SUPPLEMENTAL_POOL} is expected with it"
        )


__all__ = ["accept_declaration", "admit"]
