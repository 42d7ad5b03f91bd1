# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The protocol of services: desired state of one resource, planned and committed. No service imports Ansible."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from .._core.errors import DependencyMissing
from .._core.plan import Action, Plan, nothing


class Service:
    """Desired state of one resource.

    Subclasses inspect the host and plan. They change nothing outside the plan's actions.
    """

    #: A callable that gets each log line.
    log: Callable[[str], object] = staticmethod(str)

    #: Whether this is check mode, where this task and the tasks before change nothing.
    is_dry_run = False

    #: Whether the plan will be run, so that planning needs no trial of an action.
    will_run = False

    def exclusive(self) -> contextlib.AbstractContextManager[object]:
        """Return the lock under which a normal run plans and runs its plan."""
        return contextlib.nullcontext()

    def recording(self, plan: Plan) -> contextlib.AbstractContextManager[Plan]:
        """Return the transaction in which a normal run records. It yields the plan to record.

        That is ``plan`` itself where no other program can have changed the state since.
        """
        return contextlib.nullcontext(plan)

    def plan(self) -> Plan:
        """Compare the current state with the desired state, and change nothing."""
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
        """Return the plan of :meth:`dry_run` without any action, but with the known part of the result."""
        return Plan()

    def report_missing(self, plan: Plan, error: DependencyMissing, *, is_planned: bool = False) -> None:
        """Raise the error, or in check mode warn of the error.

        :arg is_planned: whether the plan has, or gets, the actions that need the missing object. Otherwise one action
            stands for them.
        """
        if not self.is_dry_run:
            raise error
        plan.warn_once(f"{error} If no task before this one would bring that, the run fails here.")
        if not is_planned:
            plan.actions.append(Action("not known yet", str(error), None, None, nothing))

    def converge(self) -> Plan:
        """Reach the desired state, and return the plan that was run."""
        self.will_run = True
        with self.exclusive():
            return self.plan().run(self.recording)


__all__ = ["Service"]
