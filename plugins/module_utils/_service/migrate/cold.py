# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The migration of a VM that is shut off: its definition and its data move."""

from __future__ import annotations

import functools
from collections.abc import Callable

from ..._core.errors import VmstoreError
from ..._core.plan import Action, Plan
from ..._libvirt.domain_xml import parse
from ..disk.moving import require_movable
from .route import Route, collected


class ColdMigration:
    """The plan of one migration without a running guest."""

    def __init__(self, route: Route) -> None:
        self._route = route

    def plan(self, plan: Plan) -> None:
        """Plan the migration.

        :raises Conflict: the VM can't migrate, with all reasons.
        """
        route = self._route
        departure = route.check_departure(is_live=False)
        reasons = route.reasons(departure, is_live=False)
        with collected(reasons):
            require_movable(route.known, route.world, route.transfers, route.before, route.after)
        route.require_nothing(reasons)
        disks = route.disks()
        plan.result["disks"] = disks
        plan.result["bytes"] = sum(int(str(disk["bytes"])) for disk in disks)
        before: dict[str, object] = {"host": route.before.host}
        after: dict[str, object] = {"host": route.after.host, "mode": "cold", "disks": disks}
        uuid = parse(departure.xml).findtext("uuid") or ""
        prepare = functools.partial(self._prepare, uuid, departure.has_autostart)
        plan.actions.append(Action("migrate VM", route.before.name, before, after, route.record, prepare=(prepare,)))

    def _prepare(self, uuid: str, has_autostart: bool) -> Callable[[], object]:
        """Define the domain at the target, move the data, and undefine the domain at the source.

        After a kill before the last step, the next run begins again. After the last step, only the record is missing.
        """
        route = self._route
        text = route.ask(route.origin, "read_definition", route.before.domain)
        route.ask(route.target, "define", text)
        try:
            route.transfers.move(route.before, route.after)
        except VmstoreError:
            route.ask(route.target, "undefine", uuid)
            raise
        try:
            if has_autostart:
                route.ask(route.target, "enable_autostart", uuid)
            route.ask(route.origin, "undefine", uuid)
        except VmstoreError:
            self._move_back(uuid)
            raise

        def undo() -> None:
            route.ask(route.origin, "define", text)
            if has_autostart:
                route.ask(route.origin, "enable_autostart", uuid)
            self._move_back(uuid)

        return undo

    def _move_back(self, uuid: str) -> None:
        self._route.transfers.move(self._route.after, self._route.before)
        self._route.ask(self._route.target, "undefine", uuid)


__all__ = ["ColdMigration"]
