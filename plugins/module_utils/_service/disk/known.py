# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalog's VMs and disks while many of them are planned. They are read once, and each planned step changes them in
memory.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import TypeVar

from ..._catalog.catalog import Catalog
from ..._catalog.datastores import DATASTORES
from ..._catalog.images import IMAGES
from ..._catalog.vms import DISK_SNAPSHOTS, DISKS, VMS
from ..._core.errors import CatalogFailed, Conflict, DependencyNotFound, UnsupportedAction
from ..._model.datastore import Datastore
from ..._model.declared_vm import DeclaredDisk, DeclaredSnapshot, DeclaredVm
from ..._model.image import Image
from ..._model.place import Place

Row = TypeVar("Row", DeclaredVm, Image, Datastore)


class KnownVms:
    """The VMs with the changes that are planned so far."""

    def __init__(self, catalog: Catalog) -> None:
        self.path = catalog.path
        self.next_id = catalog.next_id("vm")
        self._vms = {vm.id: vm for vm in VMS.rows(catalog)}
        self._disks: dict[int, dict[int, DeclaredDisk]] = defaultdict(dict)
        for disk in DISKS.rows(catalog):
            self._disks[disk.vm_id][disk.disk_id] = disk
        self._snapshots: dict[tuple[int, int], list[DeclaredSnapshot]] = defaultdict(list)
        for snapshot in DISK_SNAPSHOTS.rows(catalog):
            self._snapshots[snapshot.vm_id, snapshot.disk_id].append(snapshot)
        self._images = {image.id: image for image in IMAGES.rows(catalog)}
        self._datastores = {datastore.id: datastore for datastore in DATASTORES.rows(catalog)}
        self._vm_ids = {vm.name: vm.id for vm in self._vms.values()}
        self._domains = {(vm.host, vm.domain): vm.id for vm in self._vms.values()}
        self._image_ids = {image.name: image.id for image in self._images.values()}
        self._datastore_ids = {datastore.name: datastore.id for datastore in self._datastores.values()}
        self._owners = {
            disk.image_id: disk.vm_id
            for disks in self._disks.values()
            for disk in disks.values()
            if disk.persistent and disk.image_id is not None
        }

    # VMs

    def find(self, reference: str) -> DeclaredVm | None:
        """Return the VM with this id or this name."""
        return _find(reference, self._vms, self._vm_ids)

    def vm(self, vm_id: int) -> DeclaredVm | None:
        return self._vms.get(vm_id)

    def vms(self) -> list[DeclaredVm]:
        return list(self._vms.values())

    def put_vm(self, vm: DeclaredVm) -> None:
        """Record the plan for a new or changed VM.

        :raises Conflict: another VM of the host has the same domain.
        """
        other = self._domains.get((vm.host, vm.domain), vm.id)
        if other != vm.id:
            raise Conflict(
                f"domain: {vm.domain!r} on the host {vm.host!r} belongs to the VM {self._vms[other].name!r}."
            )
        old = self._vms.get(vm.id)
        if old is not None:
            del self._domains[old.host, old.domain]
        self._vms[vm.id] = vm
        self._vm_ids[vm.name] = vm.id
        self._domains[vm.host, vm.domain] = vm.id
        self.next_id = max(self.next_id, vm.id + 1)

    # Disks

    def disks(self, vm_id: int) -> Mapping[int, DeclaredDisk]:
        """Return the disks of a VM by number, in ascending order."""
        return dict(sorted(self._disks[vm_id].items()))

    def snapshots(self, disk: DeclaredDisk) -> list[DeclaredSnapshot]:
        return self._snapshots[disk.vm_id, disk.disk_id]

    def put_disk(self, disk: DeclaredDisk) -> None:
        """Record the plan for a new or changed disk.

        :raises Conflict: another VM has the persistent image of the disk.
        """
        if disk.persistent and disk.image_id is not None:
            owner = self._owners.setdefault(disk.image_id, disk.vm_id)
            others = [one for one in self._disks[owner].values() if one.image_id == disk.image_id and one.persistent]
            if owner != disk.vm_id or any(one.disk_id != disk.disk_id for one in others):
                number = others[0].disk_id if others else disk.disk_id
                raise Conflict(
                    f"image: {self._images[disk.image_id].name!r} is persistent and already the disk {number} of "
                    f"{self._vms[owner]}, and a persistent image is one disk only."
                )
        self._disks[disk.vm_id][disk.disk_id] = disk

    def place(self, vm: DeclaredVm, disk_id: int | None = None) -> Place:
        """Return the place of a disk, or of the VM's directory."""
        directory = f"{self.datastore_of(vm).base_path}/{vm.id}"
        return Place(vm.host, directory if disk_id is None else f"{directory}/disk.{disk_id}")

    # Images and datastores

    def image(self, reference: str) -> Image:
        """Return the image with this id or this name.

        :raises DependencyNotFound: there is no such image.
        """
        found = _find(reference, self._images, self._image_ids)
        if found is None:
            raise DependencyNotFound(f"image: there is no image {reference!r} in the catalog {self.path}.")
        return found

    def find_image(self, reference: str) -> Image | None:
        return _find(reference, self._images, self._image_ids)

    def image_of(self, disk: DeclaredDisk) -> Image | None:
        """Return the image of a disk; ``None`` for a disk that began empty.

        :raises CatalogFailed: a damaged catalog lacks the image.
        """
        if disk.image_id is None:
            return None
        return self._require(self._images.get(disk.image_id), f"image {disk.image_id}")

    def datastore_of(self, owner: DeclaredVm | Image) -> Datastore:
        """Return the datastore of an image, or the system datastore of a VM.

        :raises CatalogFailed: a damaged catalog lacks the datastore.
        """
        return self.datastore_by_id(owner.datastore_id)

    def datastore_by_id(self, datastore_id: int) -> Datastore:
        return self._require(self._datastores.get(datastore_id), f"datastore {datastore_id}")

    def system_datastore(self, reference: str) -> Datastore:
        """Return the system datastore with this id or this name.

        :raises DependencyNotFound: there is no such datastore.
        :raises UnsupportedAction: the datastore is of another type, or its driver places no data on hosts.
        """
        found = _find(reference, self._datastores, self._datastore_ids)
        if found is None:
            raise DependencyNotFound(f"datastore: there is no datastore {reference!r} in the catalog {self.path}.")
        if found.type != "system":
            raise UnsupportedAction(
                f"datastore: {found.name!r} is of type {found.type!r}, and disks of VMs are in a datastore of type "
                "'system'."
            )
        return found

    def _require(self, found: Row | None, what: str) -> Row:
        if found is None:
            raise CatalogFailed(f"The catalog {self.path} lacks the {what}, so restore it from a backup.")
        return found


def _find(reference: str, rows: Mapping[int, Row], ids: Mapping[str, int]) -> Row | None:
    """Return the row with this id or this name. Text of digits only is an id, because no name has digits only."""
    if re.fullmatch("[0-9]{1,19}", reference):
        return rows.get(int(reference))
    return rows.get(ids.get(reference, -1))


__all__ = ["KnownVms"]
