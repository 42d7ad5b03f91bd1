# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The transfer drivers of the disks of VMs, and their operations on the disks of the catalog."""

from __future__ import annotations

import os
from collections.abc import Callable

from ..._core.errors import InvalidInput, UnsupportedAction
from ..._driver.datastore.attributes import settings_of
from ..._driver.transfer import hosts
from ..._driver.transfer.base import TransferDriver, TransferInfo
from ..._driver.transfer.registry import transfer_class
from ..._model.datastore import Datastore
from ..._model.declared_vm import DeclaredDisk, DeclaredVm
from ..._model.image import Image
from ..._model.place import Place
from ..._model.vm import DISK_SNAPSHOT_DELETE, HOTPLUG_SAVEAS
from .facts import CatalogFacts
from .info import disk_record
from .known import KnownVms


class Transfers:
    """The operations of transfer drivers. The driver of a disk is that of its image, or of the system datastore.

    :arg log: is called with each line about the progress.
    """

    def __init__(self, known: KnownVms, log: Callable[[str], object]) -> None:
        self._known = known
        self._log = log
        self._front_end = os.uname().nodename

    def info(self, image: Image | None, system: Datastore) -> TransferInfo:
        """Return the abilities of the driver of a disk.

        :arg image: ``None`` for a disk that began empty.
        :arg system: the system datastore of the VM.
        :raises InvalidInput: a datastore has no transfer driver.
        """
        return _class_of(self._origin(image, system), system).info

    def require(self, image: Image | None, system: Datastore, action: str) -> None:
        """Require an action of the driver of a disk.

        :raises UnsupportedAction: the driver lacks the action, or places no data on hosts.
        """
        info = self.info(image, system)
        if action not in info.actions or not info.stores_data:
            datastore = self._origin(image, system)
            raise UnsupportedAction(
                f"{action} is not supported by the transfer driver {info.name} of the datastore {datastore.name!r}."
            )

    def create(self, vm: DeclaredVm, disk: DeclaredDisk) -> None:
        """Create the data of a disk. Files of a disk that a killed run left are replaced."""
        driver, place = self._driver(vm, disk), self._known.place(vm, disk.disk_id)
        image = self._known.image_of(disk)
        if image is None:
            if disk.type == "swap":
                driver.mkswap(disk.size_mb, place, vm.id)
            else:
                driver.mkimage(disk.size_mb, disk.format, place, vm.id)
            return
        origin = Place(self._front_end, image.path)
        if not disk.persistent:
            driver.clone(origin, place, vm.id)
            return
        driver.ln(origin, place, vm.id)
        if disk.size_mb > image.size_mb:
            driver.resize(place, disk.size_mb, vm.id)

    def delete(self, vm: DeclaredVm, disk: DeclaredDisk) -> None:
        """Remove the data of a disk."""
        self._driver(vm, disk).delete(self._known.place(vm, disk.disk_id), vm.id)

    def give_back(self, vm: DeclaredVm, disk: DeclaredDisk) -> None:
        """Replace the data of a persistent image by that of the disk, and remove the disk."""
        image = self._known.image_of(disk)
        if image is None:
            raise AssertionError(f"the disk {disk.disk_id} of {vm} has no image")
        self._driver(vm, disk).mvds(self._known.place(vm, disk.disk_id), image.path, vm.id)

    def resize(self, vm: DeclaredVm, disk: DeclaredDisk) -> None:
        """Grow a disk to its size."""
        self._driver(vm, disk).resize(self._known.place(vm, disk.disk_id), disk.size_mb, vm.id)

    def shrink(self, vm: DeclaredVm, disk: DeclaredDisk) -> None:
        """Cut the end of a disk, which must hold no data. A front-end has no such action."""
        hosts.run(vm.host, "shrink", disk_record(self._known, vm, disk), disk.size_mb << 20, log=self._log)

    def create_snapshot(self, vm: DeclaredVm, disk: DeclaredDisk, snapshot: int, *, is_running: bool) -> None:
        """Take a snapshot of a disk."""
        driver, place = self._driver(vm, disk), self._known.place(vm, disk.disk_id)
        (driver.snap_create_live if is_running else driver.snap_create)(place, snapshot, vm.id)

    def delete_snapshot(self, vm: DeclaredVm, disk: DeclaredDisk, snapshot: int, *, is_running: bool) -> None:
        """Remove a snapshot of a disk."""
        driver = self._driver(vm, disk, DISK_SNAPSHOT_DELETE if is_running else 0)
        driver.snap_delete(self._known.place(vm, disk.disk_id), snapshot, vm.id)

    def revert(self, vm: DeclaredVm, disk: DeclaredDisk, snapshot: int) -> None:
        """Replace the data of a disk by that of a snapshot."""
        self._driver(vm, disk).snap_revert(self._known.place(vm, disk.disk_id), snapshot, vm.id)

    def save(self, vm: DeclaredVm, disk: DeclaredDisk, snapshot: int | None, image: str, *, is_running: bool) -> None:
        """Create the data of a new image from a disk, or from a snapshot of the disk.

        :arg image: the path of the image.
        """
        driver = self._driver(vm, disk, HOTPLUG_SAVEAS if is_running else 0)
        driver.cpds(self._known.place(vm, disk.disk_id), image, snapshot, vm.id)

    def move(self, before: DeclaredVm, after: DeclaredVm) -> None:
        """Move the directory of a VM, with all disks, to another host or system datastore."""
        system = self._known.datastore_of(after)
        for disk in self._known.disks(after.id).values():
            origin, target = self._known.place(before, disk.disk_id), self._known.place(after, disk.disk_id)
            self._driver(after, disk).mv(origin, target, after.id)
        driver = self._driver_in(system, system)
        driver.mv(self._known.place(before), self._known.place(after), after.id)

    def migration_driver(self, vm: DeclaredVm, written: frozenset[int] | None = None) -> TransferDriver:
        """Return the driver of the system datastore, for the actions of a live migration.

        :arg written: see :class:`CatalogFacts`.
        """
        system = self._known.datastore_of(vm)
        return self._driver_in(system, system, written=written)

    def delete_vm(self, vm: DeclaredVm) -> None:
        """Remove the directory of a VM."""
        system = self._known.datastore_of(vm)
        self._driver_in(system, system).delete(self._known.place(vm), vm.id)

    def _driver(self, vm: DeclaredVm, disk: DeclaredDisk, lcm_state: int = 0) -> TransferDriver:
        system = self._known.datastore_of(vm)
        return self._driver_in(self._origin(self._known.image_of(disk), system), system, lcm_state)

    def _driver_in(
        self, datastore: Datastore, system: Datastore, lcm_state: int = 0, written: frozenset[int] | None = None
    ) -> TransferDriver:
        made = _class_of(datastore, system)
        return made(
            CatalogFacts(self._known, lcm_state, written),
            settings_of(datastore.attributes),
            system_driver=system.tm_driver,
            log=self._log,
        )

    def _origin(self, image: Image | None, system: Datastore) -> Datastore:
        return system if image is None else self._known.datastore_of(image)


def _class_of(datastore: Datastore, system: Datastore) -> type[TransferDriver]:
    if datastore.tm_driver is None:
        raise InvalidInput("tm_driver", None, f"the datastore {datastore.name!r} needs one")
    return transfer_class(datastore.tm_driver, system.tm_driver)


__all__ = ["Transfers"]
