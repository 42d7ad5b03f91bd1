# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The service of a snapshot of a VM's disk (spec: storage-driver, snap_create, snap_delete and snap_revert)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..._catalog.catalog import Catalog, open_catalog
from ..._catalog.vms import DISK_SNAPSHOTS
from ..._core.arguments import ArgumentSpec
from ..._core.errors import Conflict, DependencyNotFound, NotFound
from ..._core.plan import Action, Plan, Preparation, nothing
from ..._core.records import replace
from ..._driver.transfer import hosts
from ..._image.vm_disk_data import DiskFacts
from ..._model.declared_vm import READY, DeclaredDisk, DeclaredSnapshot, DeclaredVm
from ..._model.names import check_name
from ..catalog import CATALOG_OPTIONS, CatalogService
from .actions import subject
from .info import disk_record
from .known import KnownVms
from .locks import locked_vms
from .transfers import Transfers
from .world import Look, World

VM_DISK_SNAPSHOT_SPEC = ArgumentSpec(
    {
        "vm": {"type": "str", "required": True},
        "disk": {"type": "int", "default": 0},
        "name": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["present", "absent", "reverted"], "default": "present"},
    }
).merge(CATALOG_OPTIONS)


class VmDiskSnapshotService(CatalogService):
    """Plan the desired state of one snapshot. A running VM keeps running."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options["catalog"])
        self._reference: str = options["vm"]
        self._disk_id: int = options["disk"]
        self._name = check_name("name", options["name"])
        self._state: str = options["state"]
        self._world = World(self._tell)
        self._preparations: dict[int, Preparation] = {}

    def _tell(self, text: str) -> None:
        self.log(text)  # the log is assigned after the construction of the service

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        with contextlib.nullcontext() if self.missing else locked_vms(self.path, self.catalog, [self._reference]):
            self._close()  # the lock may have waited for another run that changed the catalog
            try:
                yield
            finally:
                self._close()

    def plan(self) -> Plan:
        known = KnownVms(self.catalog)
        vm, disk = self._find(known)
        place = known.place(vm)
        self._world.look([Look(place, vm, (disk,), True)], functools.partial(disk_record, known))
        facts = self._world.disk(place, disk.disk_id)
        if facts is None:
            raise NotFound(f"The {subject(vm, disk)} is not at {known.place(vm, disk.disk_id)}.")
        is_running = facts.is_used or self._is_running(vm, known)
        work = _Work(self, known, Transfers(known, self._tell), vm, disk, facts, is_running)
        plan = Plan({"vm": vm.name, "disk": disk.disk_id, "live": is_running})
        left = {"present": work.create, "absent": work.delete, "reverted": work.revert}[self._state](plan, self._name)
        plan.result["snapshots"] = [_describe(one) for one in left]
        return plan

    def _find(self, known: KnownVms) -> tuple[DeclaredVm, DeclaredDisk]:
        """Return the VM and the disk.

        :raises DependencyNotFound: one of them is missing; :raises Conflict: the disk is being removed.
        """
        vm = known.find(self._reference)
        if vm is None:
            raise DependencyNotFound(f"vm: there is no VM {self._reference!r} in the catalog {known.path}.")
        disk = known.disks(vm.id).get(self._disk_id)
        if disk is None:
            raise DependencyNotFound(f"disk: the VM {vm.name!r} has no disk {self._disk_id}.")
        if disk.state != READY:
            raise Conflict(f"disk: the {subject(vm, disk)} is being created or removed.")
        return vm, disk

    def _is_running(self, vm: DeclaredVm, known: KnownVms) -> bool:
        return self._world.is_running(known.place(vm))

    def prepare_once(self, snapshot: int, prepare: Preparation) -> Preparation:
        """Return the preparation of a snapshot. A plan that is made again has the same preparation."""
        return self._preparations.setdefault(snapshot, prepare)

    def write(self, change: Callable[[Catalog], object]) -> None:
        """Change the catalog after the transaction of the plan."""
        with open_catalog(self.path, create=False) as catalog, catalog.transaction():
            change(catalog)


class _Work:
    """The actions on the snapshots of one disk. Each method returns the snapshots after its action."""

    def __init__(
        self,
        service: VmDiskSnapshotService,
        known: KnownVms,
        transfers: Transfers,
        vm: DeclaredVm,
        disk: DeclaredDisk,
        facts: DiskFacts,
        is_running: bool,
    ) -> None:
        self._service = service
        self._known = known
        self._transfers = transfers
        self._vm = vm
        self._disk = disk
        self._facts = facts
        self._is_running = is_running
        self._rows = sorted(known.snapshots(disk), key=lambda row: row.id)

    def create(self, plan: Plan, name: str) -> list[DeclaredSnapshot]:
        found = self._find(name)
        if found is not None:
            self._require_data(found)
            return self._rows
        self._require("snap_create_live" if self._is_running else "snap_create")
        new = DeclaredSnapshot(self._vm.id, self._disk.disk_id, self._next_id(), name, is_active=True)

        def prepare() -> Callable[[], object]:
            self._transfers.create_snapshot(self._vm, self._disk, new.id, is_running=self._is_running)
            return functools.partial(
                self._transfers.delete_snapshot, self._vm, self._disk, new.id, is_running=self._is_running
            )

        def record() -> None:
            DISK_SNAPSHOTS.insert(self._service.catalog, new)
            self._activate(self._service.catalog, new)

        action = Action("create snapshot", self._subject, None, _describe(new), record)
        plan.actions.append(replace(action, prepare=(self._service.prepare_once(new.id, prepare),)))
        return [*(replace(row, is_active=False) for row in self._rows), new]

    def delete(self, plan: Plan, name: str) -> list[DeclaredSnapshot]:
        found = self._find(name)
        if found is None:
            return self._rows
        if found.id in self._facts.snapshots:
            self._require("snap_delete")
        key = (self._vm.id, self._disk.disk_id, found.id)

        def finish() -> None:
            self._transfers.delete_snapshot(self._vm, self._disk, found.id, is_running=self._is_running)
            self._service.write(lambda catalog: DISK_SNAPSHOTS.delete(catalog, *key))

        plan.actions.append(Action("delete snapshot", self._subject, _describe(found), None, nothing, finish=finish))
        return [row for row in self._rows if row != found]

    def revert(self, plan: Plan, name: str) -> list[DeclaredSnapshot]:
        found = self._find(name)
        if found is None:
            known = ", ".join(repr(row.name) for row in self._rows) or "none"
            raise NotFound(f"name: the {subject(self._vm, self._disk)} has no snapshot {name!r} (known: {known}).")
        self._require_data(found)
        self._require("snap_revert")
        if self._is_running:
            raise Conflict(
                f"The {subject(self._vm, self._disk)} can't be reverted while the VM runs: shut it down first."
            )
        record = disk_record(self._known, self._vm, self._disk)
        after = [replace(row, is_active=row == found) for row in self._rows]
        if hosts.run(self._vm.host, "is_at_snapshot", record, found.id, log=self._service.log):
            return after

        def finish() -> None:
            self._transfers.revert(self._vm, self._disk, found.id)
            self._service.write(lambda catalog: self._activate(catalog, found))

        before = {"content": "as it is now"}
        plan.actions.append(
            Action("revert disk", self._subject, before, {"content": f"snapshot {name}"}, nothing, finish=finish)
        )
        return after

    @property
    def _subject(self) -> str:
        return subject(self._vm, self._disk)

    def _find(self, name: str) -> DeclaredSnapshot | None:
        return next((row for row in self._rows if row.name == name), None)

    def _next_id(self) -> int:
        if self._facts.next_snapshot is not None:
            return self._facts.next_snapshot
        return max([row.id for row in self._rows] + list(self._facts.snapshots), default=-1) + 1

    def _require(self, action: str) -> None:
        self._transfers.require(self._known.image_of(self._disk), self._known.datastore_of(self._vm), action)

    def _require_data(self, row: DeclaredSnapshot) -> None:
        """Require that a recorded snapshot exists on the host.

        :raises NotFound: the snapshot is lost.
        """
        if row.id not in self._facts.snapshots:
            raise NotFound(
                f"name: the snapshot {row.name!r} of the {self._subject} is lost: {self._facts.path}.snap/{row.id} "
                "does not exist. Delete the snapshot with state=absent."
            )

    def _activate(self, catalog: Catalog, active: DeclaredSnapshot) -> None:
        """Record the snapshot from which the disk continues."""
        for row in DISK_SNAPSHOTS.rows(catalog, vm_id=active.vm_id, disk_id=active.disk_id):
            if row.is_active != (row.id == active.id):
                DISK_SNAPSHOTS.update(catalog, replace(row, is_active=row.id == active.id))


def _describe(row: DeclaredSnapshot) -> dict[str, object]:
    return {"id": row.id, "name": row.name, "active": row.is_active}


__all__ = ["VM_DISK_SNAPSHOT_SPEC", "VmDiskSnapshotService"]
