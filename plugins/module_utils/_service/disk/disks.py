# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The service of the disks of VMs, one VM or many (spec: storage-driver, "TM Drivers Structure", "An Example VM")."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from ..._catalog.catalog import open_catalog
from ..._catalog.vms import DISKS, VMS
from ..._core.errors import Conflict, DependencyMissing, DependencyNotFound, InvalidInput, VmstoreError, printable
from ..._core.plan import Plan, Preparation
from ..._core.records import replace
from ..._model.datastore import Datastore
from ..._model.declared_vm import NEW, DeclaredDisk, DeclaredVm
from ..._model.image import Image
from ..._model.names import LONGEST_NAME
from ..catalog import CatalogService
from ..datastore.desired import driver_of
from .actions import DiskActions
from .devices import DevicePlanner
from .info import disk_record
from .known import KnownVms
from .locks import locked_vms
from .new_disks import NewDisks
from .options import VmSpec, parse_vm
from .placing import PlacedVm, place_vm
from .planner import DiskPlanner
from .transfers import Transfers
from .world import Look, World, ask_host

E = TypeVar("E", bound=VmstoreError)


class VmDiskService(CatalogService):
    """Plan the disks of VMs of the catalog. An option that isn't given keeps its value; a new disk gets the default.

    Before data is created, its rows are reserved in the catalog. So the id of a new VM is never used twice, an image
    that is being copied can't be removed, and the next run replaces the files of a killed run.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options["catalog"])
        self._is_list = options["vms"] is not None
        self._references: list[str] = []
        self._specs: list[VmSpec] = []
        for number, one in enumerate(options["vms"] if self._is_list else [options]):
            self._references.append(printable(str(one["vm"]))[:LONGEST_NAME])
            try:
                self._specs.append(parse_vm(one))
            except InvalidInput as error:
                raise self._locate_error(number, error) from error
        self._world = World(self._tell)
        self._preparations: dict[Hashable, Preparation] = {}
        self._stored: dict[int, frozenset[str]] = {}
        self._planner: DiskPlanner | None = None
        #: The plan of :meth:`exclusive`, if it needs no reservation.
        self._planned: Plan | None = None

    def _tell(self, text: str) -> None:
        self.log(text)  # the log is assigned after the construction of the service

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the locks of the VMs, and reserve the rows of new data."""
        with self._locked():
            self._close()  # the lock may have waited for another run that changed the catalog
            plan = self.plan()
            reserved: list[DeclaredVm | DeclaredDisk] = []
            try:
                if self._has_new():
                    with self.recording(plan):
                        reserved = self._reserve()
                else:
                    self._planned = plan
                yield
            except BaseException:
                self._forget(reserved)
                raise
            finally:
                self._close()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if self.missing:
            yield
            return
        with locked_vms(self.path, self.catalog, [spec.reference for spec in self._specs]):
            yield

    def _has_new(self) -> bool:
        return self._planner is not None and bool(self._planner.reserved_vms or self._planner.reserved_disks)

    def _reserve(self) -> list[DeclaredVm | DeclaredDisk]:
        """Insert the rows of new VMs and disks into the catalog, in its transaction."""
        reserved: list[DeclaredVm | DeclaredDisk] = []
        for vm in self._planner.reserved_vms if self._planner else ():
            self.catalog.take_id("vm")
            VMS.insert(self.catalog, replace(vm, state=NEW))
            reserved.append(vm)
        for disk in self._planner.reserved_disks if self._planner else ():
            DISKS.insert(self.catalog, replace(disk, state=NEW))
            reserved.append(disk)
        return reserved

    def _forget(self, reserved: Sequence[DeclaredVm | DeclaredDisk]) -> None:
        """Delete reserved rows whose data was not recorded. The next run deletes rows that can't be deleted now."""
        if not reserved:
            return
        with (
            contextlib.suppress(VmstoreError),
            open_catalog(self.path, create=False) as catalog,
            catalog.transaction(),
        ):
            for one in reversed(reserved):
                if isinstance(one, DeclaredVm):
                    catalog.execute("DELETE FROM vm WHERE id = ? AND state = ?", [one.id, NEW])
                else:
                    statement = "DELETE FROM disk WHERE vm_id = ? AND disk_id = ? AND state = ?"
                    catalog.execute(statement, [one.vm_id, one.disk_id, NEW])

    def plan(self) -> Plan:
        planned, self._planned = self._planned, None
        if planned is not None:
            return planned
        plan = Plan()
        known = KnownVms(self.catalog)
        placed: list[PlacedVm] = []
        ids: set[int] = set()
        for number in range(len(self._specs)):
            placed.append(self._place(known, number, ids))
        self._look(known, placed)
        transfers = Transfers(known, self._tell)
        ask = functools.partial(ask_host, log=self._tell)
        report = functools.partial(self.report_missing, plan, is_planned=True)
        self._planner = DiskPlanner(
            known,
            self._world,
            transfers,
            NewDisks(known, transfers, self._has_data),
            DevicePlanner(known, self._world, report),
            DiskActions(plan, self.catalog, known, transfers, self._preparations, ask),
        )
        planner = self._planner
        vms = [vm for number, one in enumerate(placed) if (vm := self._plan_vm(plan, planner, number, one))]
        if self.missing and plan.changed:
            message = (
                f"There is no catalog at {self.path}; the module granary.vmstore.datastore makes it on the front-end."
            )
            self.report_missing(plan, DependencyNotFound(message), is_planned=True)
        if self._is_list:
            plan.result["vms"] = vms
        else:
            plan.result["disks"] = vms[0].pop("disks") if vms else []
            plan.result.update({"vm": vms[0]} if vms else {})
        return plan

    def _place(self, known: KnownVms, number: int, ids: set[int]) -> PlacedVm:
        """Return the place of a VM.

        :arg ids: the VMs before in the list. The VM is added.
        """
        try:
            found = place_vm(known, self._specs[number])
            vm = found.before or found.after
            if vm is not None and vm.id in ids:
                raise Conflict("vm: the VM is in the list more than once; give all its disks in one element.")
            ids |= set() if vm is None else {vm.id}
        except VmstoreError as error:
            raise self._locate_error(number, error) from error
        return found

    def _plan_vm(self, plan: Plan, planner: DiskPlanner, number: int, placed: PlacedVm) -> dict[str, Any] | None:
        """Return the VM after the plan; ``None`` for a VM that is to be absent."""
        try:
            return planner.plan(placed)
        except DependencyMissing as error:
            self.report_missing(plan, self._locate_error(number, error))
            return None
        except VmstoreError as error:
            raise self._locate_error(number, error) from error

    def _look(self, known: KnownVms, placed: Sequence[PlacedVm]) -> None:
        """Look at the VMs where they are, and where they will be."""
        looks = []
        for one in placed:
            for vm in dict.fromkeys(vm for vm in (one.before, one.after) if vm is not None):
                disks = tuple(disk for disk in known.disks(vm.id).values() if disk.state != NEW)
                looks.append(Look(known.place(vm), vm, disks, _needs_domain(one)))

        self._world.look(looks, functools.partial(disk_record, known))

    def _has_data(self, image: Image, datastore: Datastore) -> bool:
        """Return whether the data of an image exists. Each datastore is read once."""
        if datastore.id not in self._stored:
            driver = driver_of(self.catalog, datastore, may_mount=not self.is_dry_run, log=self._tell)
            self._stored[datastore.id] = driver.stored()
        return image.path in self._stored[datastore.id]

    def _locate_error(self, number: int, error: E) -> E:
        """Return the error with the place of the VM in the list."""
        if not self._is_list:
            return error
        return error.with_message(f"vms[{number}] ({self._references[number]}): {error}")


def _needs_domain(placed: PlacedVm) -> bool:
    """Return whether the plan for a VM depends on its domain."""
    spec = placed.spec
    changes = any(one.absent or one.attach is not None or one.size is not None for one in spec.disks)
    return spec.absent or spec.exclusive or placed.moves or changes


__all__ = ["VmDiskService"]
