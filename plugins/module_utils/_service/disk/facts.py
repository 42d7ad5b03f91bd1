# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The facts about VMs that transfer drivers need, from the catalog and from what is planned."""

from __future__ import annotations

from ..._core.errors import InvalidInput, NotFound
from ..._driver.transfer.facts import VmFacts
from ..._model.datastore import Datastore
from ..._model.declared_vm import DeclaredDisk, DeclaredVm
from ..._model.vm import Host, Vm, VmDisk, VmSnapshot
from .known import KnownVms

#: The state of a VM (STATE of a front-end) that is off but keeps its place on a host: POWEROFF. The catalog doesn't
#: record whether the domain runs, because libvirt knows it.
POWEROFF = 8

#: The driver of the hypervisor.
VM_MAD = "kvm"


class CatalogFacts(VmFacts):
    """The facts in the catalog. A disk that is planned but not recorded yet counts.

    :arg lcm_state: the state of every VM, from which an action learns that the domain runs.
    :arg written: numbers of the disks to which the running domain writes. ``None`` takes what is recorded.
    """

    def __init__(self, known: KnownVms, lcm_state: int = 0, written: frozenset[int] | None = None) -> None:
        self._known = known
        self._lcm_state = lcm_state
        self._written = written

    def vm(self, vm_id: int) -> Vm:
        found = self._known.vm(vm_id)
        if found is None:
            raise NotFound(f"There is no VM {vm_id} in the catalog {self._known.path}.")
        system = self._known.datastore_of(found)
        return Vm(
            id=found.id,
            name=found.name,
            state=POWEROFF,
            lcm_state=self._lcm_state,
            host=found.host,
            system_datastore_id=system.id,
            tm_mad=_driver_of(system),
            vm_mad=VM_MAD,
            deploy_id=found.domain,
            disks=tuple(self._disk(found, disk) for disk in self._known.disks(vm_id).values()),
        )

    def _disk(self, vm: DeclaredVm, disk: DeclaredDisk) -> VmDisk:
        image = self._known.image_of(disk)
        datastore = self._known.datastore_of(vm if image is None else image)
        return VmDisk(
            disk_id=disk.disk_id,
            type=disk.type,
            size_mb=disk.size_mb,
            format=disk.format,
            image_id=disk.image_id,
            datastore_id=datastore.id,
            tm_mad=_driver_of(datastore),
            source=None if image is None else image.path,
            original_size_mb=None if image is None else image.size_mb,
            is_persistent=disk.persistent,
            is_saved=disk.persistent,
            target=disk.target,
            fs=disk.fs,
            is_read_only=disk.read_only if self._written is None else disk.disk_id not in self._written,
            is_standalone=not disk.linked,
            snapshots=tuple(VmSnapshot(one.id, one.is_active) for one in self._known.snapshots(disk)),
        )

    def datastore(self, datastore_id: int) -> Datastore:
        return self._known.datastore_by_id(datastore_id)

    def host(self, name: str) -> Host:
        return Host(name)


def _driver_of(datastore: Datastore) -> str:
    if datastore.tm_driver is None:
        raise InvalidInput("tm_driver", None, f"the datastore {datastore.name!r} needs a transfer driver")
    return datastore.tm_driver


__all__ = ["CatalogFacts"]
