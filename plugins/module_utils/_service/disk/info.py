# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The VMs of the catalog with their disks, and the disks as they are on the hosts."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ..._core.arguments import ArgumentSpec
from ..._core.deadline import run_all_with_deadline
from ..._core.errors import DependencyNotFound, VmstoreError, printable
from ..._core.records import dataclass, field
from ..._driver.transfer import vm_host_protocol
from ..._driver.transfer.vm_host import DiskState, VmQuery
from ..._image.vm_disk import DiskRecord
from ..._model.declared_vm import NEW, DeclaredDisk, DeclaredVm
from ..._remote.engine import engine_sources
from ..._remote.session import GRACE
from ..catalog import CATALOG_OPTIONS, reading
from .known import KnownVms
from .world import LOOK, look_at

VM_DISK_INFO_SPEC = ArgumentSpec(
    {
        "vm": {"type": "str"},
        "host": {"type": "str"},
        "image": {"type": "str"},
        "world": {"type": "bool", "default": False},
    }
).merge(CATALOG_OPTIONS)


def vm_disk_info(options: Mapping[str, Any]) -> dict[str, object]:
    """Return all VMs, or those that meet every given condition. With ``world``, each disk has its state on the host.

    :raises DependencyNotFound: the VM or the image is missing.
    """
    with reading(options["catalog"]) as catalog:
        known = KnownVms(catalog)
    vms = _select(known, options)
    found = look_at_vms(known, vms) if options["world"] else Findings()
    return {
        "vms": [
            {
                "id": vm.id,
                "name": vm.name,
                "domain": vm.domain,
                "host": vm.host,
                "datastore": known.datastore_of(vm).name,
                "directory": known.place(vm).path,
                "state": vm.state,
                "world_error": found.errors.get(vm.host),
                "disks": [
                    {**_disk(known, vm, disk), "world": found.disks.get((vm.id, disk.disk_id))}
                    for disk in known.disks(vm.id).values()
                ],
            }
            for vm in vms
        ],
        "warnings": [],
    }


def _select(known: KnownVms, options: Mapping[str, Any]) -> list[DeclaredVm]:
    found = known.vms()
    if options["vm"] is not None:
        one = known.find(options["vm"])
        if one is None:
            raise DependencyNotFound(f"vm: there is no VM {options['vm']!r} in the catalog {known.path}.")
        found = [one]
    if options["host"] is not None:
        found = [vm for vm in found if vm.host == options["host"]]
    if options["image"] is not None:
        image = known.image(options["image"])
        found = [vm for vm in found if any(disk.image_id == image.id for disk in known.disks(vm.id).values())]
    return found


def _disk(known: KnownVms, vm: DeclaredVm, disk: DeclaredDisk) -> dict[str, object]:
    image = known.image_of(disk)
    return {
        "disk": disk.disk_id,
        "path": known.place(vm, disk.disk_id).path,
        "format": disk.format,
        "size_mb": disk.size_mb,
        "fs": "swap" if disk.type == "swap" else disk.fs,
        "image": image and image.name,
        "persistent": disk.persistent,
        "clone": disk.clone,
        "target": disk.target,
        "bus": disk.bus,
        "read_only": disk.read_only,
        "shareable": disk.shareable,
        "state": disk.state,
        "snapshots": [{"id": one.id, "name": one.name, "active": one.is_active} for one in known.snapshots(disk)],
    }


@dataclass(frozen=True)
class Findings:
    """The disks of VMs as they are on their hosts.

    :arg disks: the state of each disk, by the id of the VM and the number of the disk.
    :arg capacity: the MiB that are used, free and there in all, by host and directory of a system datastore.
    :arg errors: the reason, by host, if a host can't be used.
    """

    disks: dict[tuple[int, int], dict[str, object]] = field(default_factory=dict)
    capacity: dict[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


def look_at_vms(known: KnownVms, vms: Sequence[DeclaredVm]) -> Findings:
    """Look at VMs on all their hosts at once, over one connection a host."""
    by_host: dict[str, list[DeclaredVm]] = defaultdict(list)
    for vm in vms:
        by_host[vm.host].append(vm)
    queries = {host: tuple(_query(known, vm) for vm in there) for host, there in by_host.items()}
    if queries:
        engine_sources(vm_host_protocol.__name__)  # read once, and not by each child process
    most = max(map(len, queries.values()), default=0)
    states = run_all_with_deadline(
        LOOK + most + 2 * GRACE,
        "Looking at the host {}",
        {host: functools.partial(look_at, host, asked, log=str) for host, asked in queries.items()},
    )
    found = Findings()
    for host, state in states.items():
        if isinstance(state, VmstoreError):
            found.errors[host] = printable(str(state))
            continue
        found.capacity.update({(host, path): capacity for path, capacity in state.capacity.items()})
        for vm, one in zip(by_host[host], state.vms):
            numbers = {f"{one.directory}/disk.{number}": number for number in known.disks(vm.id)}
            found.disks.update({(vm.id, numbers[disk.path]): _state(disk) for disk in one.disks})
    return found


def _query(known: KnownVms, vm: DeclaredVm) -> VmQuery:
    return VmQuery(
        known.place(vm).path,
        tuple(disk_record(known, vm, disk) for disk in known.disks(vm.id).values() if disk.state != NEW),
    )


def disk_record(known: KnownVms, vm: DeclaredVm, disk: DeclaredDisk) -> DiskRecord:
    """Return a disk for its host. A full clone refers to no image."""
    image = known.image_of(disk) if disk.needs_image else None
    return DiskRecord(known.place(vm, disk.disk_id).path, disk.format, None if image is None else image.path)


def _state(found: DiskState) -> dict[str, object]:
    facts = found.facts
    if facts is None:
        return {"exists": False, "error": found.trouble}
    return {
        "exists": True,
        "error": None,
        "size_mb": facts.size >> 20,
        "allocated_mb": -(-facts.allocated >> 20),
        "chain": list(facts.chain),
        "snapshots": [
            {"id": number, "allocated_mb": -(-size >> 20)}
            for number, size in zip(facts.snapshots, facts.snapshot_sizes)
        ],
        "is_used": facts.is_used,
    }


__all__ = ["VM_DISK_INFO_SPEC", "Findings", "disk_record", "look_at_vms", "vm_disk_info"]
