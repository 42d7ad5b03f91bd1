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

    #: Is told what goes on, one line a call.
    log: Callable[[str], object] = staticmethod(str)

    #: Whether nothing will be changed, and so nothing was by the tasks before.
    foretelling = False

    def exclusive(self) -> contextlib.AbstractContextManager[object]:
        """The lock under which a normal run plans and commits."""
        return contextlib.nullcontext()

    def plan(self) -> Plan:
        """Compare the world with the desired state. Must not change anything."""
        raise NotImplementedError

    def foretell(self) -> Plan:
        """Plan in check mode, where what earlier tasks would bring is missing."""
        self.foretelling = True
        try:
            return self.plan()
        except DependencyMissing as error:
            plan = self.unknown()
            self.lack(plan, error)
            return plan

    def unknown(self) -> Plan:
        """Return the plan without any action for :meth:`foretell`, with what can be told of the result."""
        return Plan()

    def lack(self, plan: Plan, error: DependencyMissing, *, is_planned: bool = False) -> None:
        """Raise the error, or in check mode warn of it.

        :arg is_planned: whether the plan has, or gets, the actions that need what is missing. Otherwise one stands for
            them.
        """
        if not self.foretelling:
            raise error
        plan.warn_once(f"{error} If no task before this one would bring that, the run fails here.")
        if not is_planned:
            plan.actions.append(Action("not known yet", str(error), None, None, nothing))

    def converge(self) -> Plan:
        """Make the desired state so, and answer what was done."""
        with self.exclusive():
            plan = self.plan()
            plan.run()
        return plan


__all__ = ["Service"]
