# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The live migration of a running VM."""

from __future__ import annotations

from collections.abc import Callable

from ..._core.errors import VmstoreError
from ..._core.plan import Action, Plan, nothing
from ..._core.records import replace
from ..._driver.transfer.base import TransferDriver
from ..._driver.transfer.domain_migration import Departure
from ..._libvirt.migration import Migration
from .route import Route, collected


class LiveMigration:
    """The plan of one live migration."""

    def __init__(self, route: Route) -> None:
        self._route = route
        #: The error of the removal of the data at the source. The VM runs at the target all the same.
        self._late: VmstoreError | None = None

    def plan(self, plan: Plan, *, is_target_running: bool) -> None:
        """Plan the migration, or its end if a killed run left the guest at the target.

        :raises Conflict: the VM can't migrate, with all reasons.
        """
        route = self._route
        departure = route.check_departure(is_live=True)
        if departure.is_left and is_target_running:
            self.plan_end(plan, is_left=True)
            return
        route.transfers.require(None, route.known.datastore_of(route.after), "premigrate")
        driver = route.transfers.migration_driver(route.after, frozenset(disk.number for disk in departure.written))
        reasons = [*route.reasons(departure, is_live=True), *route.lack_of_room()]
        if route.is_shared:
            with collected(reasons):  # the preparation of shared storage only compares the directories
                driver.premigrate(route.origin.host, route.target, route.before.id)
        route.require_nothing(reasons)
        disks = route.disks()
        plan.result["disks"] = disks
        plan.result["bytes"] = sum(int(str(disk["bytes"])) for disk in disks)
        before: dict[str, object] = {"host": route.before.host}
        after: dict[str, object] = {"host": route.after.host, "mode": "live", "disks": disks}
        prepare = self._preparation(driver, departure)
        action = Action("migrate VM", route.before.name, before, after, route.record, prepare=(prepare,))
        plan.actions.append(self._finished(action))

    def plan_end(self, plan: Plan, *, is_left: bool) -> None:
        """Plan the end of a migration whose run was killed after the domain had reached the target.

        :arg is_left: whether the source has the paused domain.
        """
        route = self._route

        def prepare() -> Callable[[], object]:
            if is_left:
                route.ask(route.origin, "discard_left", route.before.domain)
            self._leave(route.transfers.migration_driver(route.after))
            return nothing

        before, after = {"host": route.before.host}, {"host": route.after.host}
        action = Action("finish migration of VM", route.before.name, before, after, route.record, prepare=(prepare,))
        plan.actions.append(self._finished(action))

    def _preparation(self, driver: TransferDriver, departure: Departure) -> Callable[[], Callable[[], object]]:
        route, spec = self._route, self._route.spec
        written = tuple(disk.target for disk in departure.written)

        def prepare() -> Callable[[], object]:
            try:
                is_copied = driver.premigrate(route.origin.host, route.target, route.before.id)
                order = Migration(
                    route.target.host,
                    route.target.path,
                    written if is_copied else (),
                    spec.timeout,
                    spec.bandwidth,
                    spec.auto_converge,
                )
                route.ask(route.origin, "migrate", route.before.domain, order)
            except VmstoreError as error:
                raise self._undone(driver, error) from error
            self._leave(driver)
            return nothing

        return prepare

    def _undone(self, driver: TransferDriver, error: VmstoreError) -> VmstoreError:
        """Undo the preparation at the target, and return the error of the migration."""
        try:
            driver.failmigrate(self._route.origin.host, self._route.target, self._route.before.id)
        except VmstoreError as trouble:
            return error.with_message(f"{error} {self._route.target} was not removed: {trouble}")
        return error

    def _leave(self, driver: TransferDriver) -> None:
        """Remove the data at the source. An error must not keep the new host of the VM from being recorded."""
        try:
            driver.postmigrate(self._route.origin.host, self._route.target, self._route.before.id)
        except VmstoreError as error:
            self._late = error

    def _finished(self, action: Action) -> Action:
        def finish() -> None:
            if self._late is not None:
                raise self._late.with_message(
                    f"The VM {self._route.before.name!r} is on the host {self._route.target.host!r} now, but "
                    f"{self._route.origin} was not removed: {self._late}"
                )

        return replace(action, finish=finish)


__all__ = ["LiveMigration"]
