# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The protocol of services: desired state of one resource, planned and committed. No service knows Ansible."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from .._core.errors import DependencyMissing
from .._core.plan import Action, Plan, nothing


class Service:
    """Desired state of one resource.

    Subclasses look at the world and plan; they change nothing outside the plan's actions.
    """

    #: Is given what goes on, one line a call.
    log: Callable[[str], object] = staticmethod(str)

    #: Whether nothing will be changed, and so nothing was by the tasks before.
    is_dry_run = False

    #: Whether the plan is going to be run, so that nothing has to be tried for it.
    will_run = False

    def exclusive(self) -> contextlib.AbstractContextManager[object]:
        """Return the lock under which a normal run plans and runs its plan."""
        return contextlib.nullcontext()

    def recording(self, plan: Plan) -> contextlib.AbstractContextManager[Plan]:
        """Return the transaction in which a normal run records: it returns the plan to record, which is ``plan`` where
        nobody else can have changed anything since.
        """
        return contextlib.nullcontext(plan)

    def plan(self) -> Plan:
        """Compare the world with the desired state. Must not change anything."""
        raise NotImplementedError

    def dry_run(self) -> Plan:
        """Plan in check mode, where the results of earlier tasks are missing."""
        self.is_dry_run = True
        try:
            return self.plan()
        except DependencyMissing as error:
            plan = self.plan_unknown()
            self.report_missing(plan, error)
            return plan

    def plan_unknown(self) -> Plan:
        """Return the plan of :meth:`dry_run` without any action, and with what is known of the result."""
        return Plan()

    def report_missing(self, plan: Plan, error: DependencyMissing, *, is_planned: bool = False) -> None:
        """Raise the error, or in check mode warn of it.

        :arg is_planned: whether the plan has, or gets, the actions that need what is missing. Otherwise one stands for
            them.
        """
        if not self.is_dry_run:
            raise error
        plan.warn_once(f"{error} If no task before this one would bring that, the run fails here.")
        if not is_planned:
            plan.actions.append(Action("not known yet", str(error), None, None, nothing))

    def converge(self) -> Plan:
        """Bring about the desired state, and return what was done."""
        self.will_run = True
        with self.exclusive():
            return self.plan().run(self.recording)


__all__ = ["Service"]
