# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The VMs of the catalog with their disks, and the disks as they are on the hosts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ..._core.arguments import ArgumentSpec
from ..._core.errors import DependencyNotFound, VmstoreError
from ..._driver.transfer.vm_host import DiskState, VmQuery
from ..._image.vm_disk import DiskRecord
from ..._model.declared_vm import NEW, DeclaredDisk, DeclaredVm
from ..catalog import CATALOG_OPTIONS, reading
from .known import KnownVms
from .world import look_at

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
    states: dict[tuple[int, int], dict[str, object]] = {}
    errors: dict[int, str] = {}
    if options["world"]:
        states, errors = _look(known, vms)
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
                "world_error": errors.get(vm.id),
                "disks": [
                    {**_disk(known, vm, disk), "world": states.get((vm.id, disk.disk_id))}
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


def _look(
    known: KnownVms, vms: Sequence[DeclaredVm]
) -> tuple[dict[tuple[int, int], dict[str, object]], dict[int, str]]:
    """Return the state of disks by VM and number, and the errors of VMs whose hosts can't be used. Each host is asked
    once.
    """
    by_host: dict[str, list[DeclaredVm]] = defaultdict(list)
    for vm in vms:
        by_host[vm.host].append(vm)
    states: dict[tuple[int, int], dict[str, object]] = {}
    errors: dict[int, str] = {}
    for host, there in by_host.items():
        queries = tuple(_query(known, vm) for vm in there)
        try:
            found = look_at(host, queries, log=str)
        except VmstoreError as error:
            errors.update({vm.id: str(error) for vm in there})
            continue
        for vm, state in zip(there, found.vms):
            disks = {f"{state.directory}/disk.{number}": number for number in known.disks(vm.id)}
            states.update({(vm.id, disks[one.path]): _state(one) for one in state.disks if one.path in disks})
    return states, errors


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
        "snapshots": list(facts.snapshots),
        "is_used": facts.is_used,
    }


__all__ = ["VM_DISK_INFO_SPEC", "disk_record", "vm_disk_info"]
