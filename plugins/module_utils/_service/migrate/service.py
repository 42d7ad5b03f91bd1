# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The service that migrates a VM, with its domain and its disks, to another host."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from ..._catalog.attachments import ATTACHMENTS
from ..._catalog.vms import VMS
from ..._core.errors import Conflict, DependencyNotFound, StaleState
from ..._core.plan import Plan
from ..._core.records import replace
from ..._driver.transfer.hosts import is_same_host
from ..._model.declared_vm import READY, DeclaredVm
from ..catalog import CatalogService
from ..disk.info import disk_record
from ..disk.known import KnownVms
from ..disk.locks import locked_vms
from ..disk.transfers import Transfers
from ..disk.world import Look, World
from .cold import ColdMigration
from .live import LiveMigration
from .options import parse_migrate
from .route import Route


class VmMigrateService(CatalogService):
    """Plan the migration of one VM."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options["catalog"])
        self._spec = parse_migrate(options)
        self._planned: tuple[DeclaredVm, Plan] | None = None

    def _tell(self, text: str) -> None:
        self.log(text)  # the log is assigned after the construction of the service

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        with contextlib.nullcontext() if self.missing else locked_vms(self.path, self.catalog, [self._spec.reference]):
            self._close()  # the lock may have waited for another run that changed the catalog
            try:
                yield
            finally:
                self._close()

    def plan(self) -> Plan:
        if self._planned is None:
            return self._plan()
        # The hosts have changed since, because the plan is made again to record a migration that is done.
        vm, plan = self._planned
        if VMS.find(self.catalog, vm.id) != vm:
            raise StaleState(f"Another program changed the VM {vm.name!r} meanwhile; run the module again.")
        return plan

    def _plan(self) -> Plan:
        known = KnownVms(self.catalog)
        vm = self._find(known)
        plan = Plan({"vm": vm.name, "host": vm.host, "mode": None, "disks": [], "bytes": 0})
        if is_same_host(vm.host, self._spec.host):
            return plan
        after = replace(vm, host=self._spec.host)
        known.put_vm(after)
        plan.result["host"] = after.host
        disks = tuple(known.disks(vm.id).values())
        world = World(self._tell)
        looks = [Look(known.place(one), one, disks, True) for one in (vm, after)]
        world.look(looks, functools.partial(disk_record, known))
        record = functools.partial(self._record, vm, after)
        route = Route(self._spec, known, world, Transfers(known, self._tell), vm, after, record, self._tell)
        self._plan_route(plan, route)
        self._planned = vm, plan
        return plan

    def _find(self, known: KnownVms) -> DeclaredVm:
        """Return the VM.

        :raises DependencyNotFound: the VM is missing; :raises Conflict: a disk is being created or removed.
        """
        vm = known.find(self._spec.reference)
        if vm is None:
            raise DependencyNotFound(f"vm: there is no VM {self._spec.reference!r} in the catalog {known.path}.")
        disks = known.disks(vm.id).values()
        if vm.state != READY or any(disk.state != READY for disk in disks):
            raise Conflict(
                f"vm: a disk of the VM {vm.name!r} is being created or removed: run vm_disk again, and then migrate."
            )
        return vm

    def _plan_route(self, plan: Plan, route: Route) -> None:
        """Plan a migration, or the end of one whose run was killed.

        :raises DependencyNotFound: no host has the domain.
        :raises Conflict: the VM can't migrate in this mode, or at all.
        """
        source, target = route.domains()
        if source is None:
            if target is None:
                raise DependencyNotFound(
                    f"domain: libvirt on the host {route.before.host} has no domain {route.before.domain!r}: define it "
                    "first."
                )
            LiveMigration(route).plan_end(plan, is_left=False)
            return
        mode = self._mode(route, is_running=source.is_running)
        plan.result["mode"] = mode
        if mode == "live":
            LiveMigration(route).plan(plan, is_target_running=target is not None and target.is_running)
        else:
            ColdMigration(route).plan(plan)

    def _mode(self, route: Route, *, is_running: bool) -> str:
        mode, vm = self._spec.mode, route.before
        if mode == "live" and not is_running:
            raise Conflict(
                f"mode: the VM {vm.name!r} does not run on the host {vm.host!r}, so it can't migrate live: start it, "
                "or use mode=cold."
            )
        if mode == "cold" and is_running:
            raise Conflict(
                f"mode: the VM {vm.name!r} runs on the host {vm.host!r}, so it can't migrate cold: shut it down, or "
                "use mode=live."
            )
        return "live" if is_running else "cold"

    def _record(self, before: DeclaredVm, after: DeclaredVm) -> None:
        VMS.update(self.catalog, after)
        for attachment in ATTACHMENTS.rows(self.catalog, domain=before.domain):
            if is_same_host(attachment.host, before.host):
                ATTACHMENTS.delete(self.catalog, attachment.image_id, attachment.host, attachment.domain)
                ATTACHMENTS.put(self.catalog, replace(attachment, host=after.host))


__all__ = ["VmMigrateService"]
