# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images that are made of a disk of a VM, or of a snapshot of the disk (spec: storage-driver, cpds)."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

from ..._catalog.catalog import Catalog
from ..._core.errors import DependencyNotFound, InvalidInput, NotFound, UnsupportedAction
from ..._core.records import dataclass
from ..._driver.datastore.base import CopiedImage, DatastoreDriver
from ..._image.image_file import disk_size, opened_file
from ..._image.vm_disk_data import DiskFacts
from ..._model.declared_vm import DeclaredDisk, DeclaredSnapshot, DeclaredVm
from ..disk.actions import subject
from ..disk.info import disk_record
from ..disk.known import KnownVms
from ..disk.transfers import Transfers
from ..disk.world import Look, World

#: Argument spec of the option ``from_disk``.
FROM_DISK_OPTIONS = {
    "vm": {"type": "str", "required": True},
    "disk": {"type": "int", "default": 0},
    "snapshot": {"type": "str"},
}


@dataclass(frozen=True)
class SourceDisk:
    """The option ``from_disk``.

    :arg vm: name or id of the VM.
    :arg snapshot: name of the snapshot; ``None`` for the present data of the disk.
    """

    vm: str
    disk: int
    snapshot: str | None


def read_source_disk(given: Mapping[str, Any] | None) -> SourceDisk | None:
    return None if given is None else SourceDisk(given["vm"], given["disk"], given["snapshot"])


class SavedDisks:
    """The disks of VMs in the catalog, as sources of images.

    :arg log: is called with each log line.
    """

    def __init__(self, catalog: Catalog, log: Callable[[str], object]) -> None:
        self._known = KnownVms(catalog)
        self._log = log

    def origin(self, source: SourceDisk) -> str:
        """Return the origin of an image of a disk. The VM may have been removed since."""
        vm = self._known.find(source.vm)
        parts = ["disk", source.vm if vm is None else vm.name, str(source.disk)]
        return ":".join(parts if source.snapshot is None else [*parts, source.snapshot])

    def plan(
        self, source: SourceDisk, driver: DatastoreDriver, *, look: bool
    ) -> tuple[Callable[[], CopiedImage], CopiedImage]:
        """Return the function that creates the data of an image, and the known values of the data.

        :arg driver: the driver of the image's datastore.
        :arg look: whether to look at the disk on its host.
        :raises VmstoreError: the image can't be created.
        """
        found = self._find(source)
        vm, disk, _snapshot = found
        if "content" not in driver.info.actions:
            raise UnsupportedAction(
                f"from_disk: the images of the datastore {driver.datastore.name!r} are on the hosts of its "
                "bridge_list, and the data of a disk goes to a datastore of the front-end."
            )
        transfers = Transfers(self._known, self._log)
        transfers.require(self._known.image_of(disk), self._known.datastore_of(vm), "cpds")
        size = self._look(*found).size >> 20 if look else disk.size_mb
        return functools.partial(self._save, transfers, driver, found), CopiedImage("", disk.format, size)

    def _find(self, source: SourceDisk) -> tuple[DeclaredVm, DeclaredDisk, DeclaredSnapshot | None]:
        vm = self._known.find(source.vm)
        if vm is None:
            raise DependencyNotFound(f"from_disk.vm: there is no VM {source.vm!r} in the catalog {self._known.path}.")
        disk = self._known.disks(vm.id).get(source.disk)
        if disk is None:
            raise DependencyNotFound(f"from_disk.disk: the VM {vm.name!r} has no disk {source.disk}.")
        if source.snapshot is None:
            return vm, disk, None
        for snapshot in self._known.snapshots(disk):
            if snapshot.name == source.snapshot:
                return vm, disk, snapshot
        raise DependencyNotFound(f"from_disk.snapshot: the {subject(vm, disk)} has no snapshot {source.snapshot!r}.")

    def _look(self, vm: DeclaredVm, disk: DeclaredDisk, snapshot: DeclaredSnapshot | None) -> DiskFacts:
        """Return the disk as it is on its host.

        :raises NotFound: the disk or the snapshot is lost.
        """
        world, place = World(self._log), self._known.place(vm)
        world.look([Look(place, vm, (disk,), False)], functools.partial(disk_record, self._known))
        facts = world.disk(place, disk.disk_id)
        if facts is None or (snapshot is not None and snapshot.id not in facts.snapshots):
            what = subject(vm, disk) if snapshot is None else f"snapshot {snapshot.name!r} of the {subject(vm, disk)}"
            raise NotFound(f"from_disk: the {what} is not at {self._known.place(vm, disk.disk_id)}.")
        return facts

    def _save(
        self,
        transfers: Transfers,
        driver: DatastoreDriver,
        found: tuple[DeclaredVm, DeclaredDisk, DeclaredSnapshot | None],
    ) -> CopiedImage:
        vm, disk, snapshot = found
        facts = self._look(*found)
        driver.prepare()
        path = f"{driver.datastore.base_path}/{os.urandom(16).hex()}"
        number = None if snapshot is None else snapshot.id
        transfers.save(vm, disk, number, path, is_running=facts.is_used)
        with opened_file(path) as descriptor:
            size = disk_size(descriptor, disk.format, path)
        return CopiedImage(path, disk.format, -(-size >> 20))


def refuse_other_types(image_type: str, accepted: tuple[str, ...]) -> None:
    """Refuse an image of a disk that is no disk itself.

    :raises InvalidInput: the type isn't one of ``accepted``.
    """
    if image_type not in accepted:
        raise InvalidInput("from_disk", image_type, f"an image of type {' or '.join(accepted)} can be made of a disk")


__all__ = ["FROM_DISK_OPTIONS", "SavedDisks", "SourceDisk", "read_source_disk", "refuse_other_types"]
