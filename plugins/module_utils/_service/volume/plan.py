# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan of a domain's volumes: its own actions, and plans of virtiofs exports before and after them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from ..._core.errors import VmstoreError
from ..._core.plan import Action, Plan
from ..._core.records import dataclass, field
from ..domain_restart import RestartPlan


@dataclass
class VolumesPlan(RestartPlan):
    """A plan of which other plans are parts. Each part is planned again right before it runs, because the definition
    has changed since.

    :arg first: returns a part that runs before this plan's own actions.
    :arg then: returns a part that runs after them.
    """

    first: list[Callable[[], RestartPlan]] = field(default_factory=list)
    then: list[Callable[[], RestartPlan]] = field(default_factory=list)
    #: The parts that have run.
    _done: list[RestartPlan] = field(default_factory=list)
    #: The parts as they are planned now.
    _foreseen: tuple[Sequence[RestartPlan], Sequence[RestartPlan]] = ((), ())

    def check_parts(self) -> None:
        """Plan all parts now, so that an impossible part changes nothing. Note their reasons for a restart.

        :raises VmstoreError: a part is impossible.
        """
        self._foreseen = [part() for part in self.first], [part() for part in self.then]
        for part in (*self._foreseen[0], *self._foreseen[1]):
            for reason in part.reasons:
                self.restart_for(reason)

    def show_all(self) -> None:
        """Add the actions and warnings of the parts to this plan, for check mode."""
        first, then = self._foreseen
        self.actions = [*_actions(first), *self.actions, *_actions(then)]
        for part in (*first, *then):
            self.warnings += part.warnings
        self.add_restart()

    def run(
        self, recording: Callable[[Plan], contextlib.AbstractContextManager[Plan]] = contextlib.nullcontext
    ) -> Plan:
        """Run all parts in their order. After a failure, what has run is taken back."""
        try:
            before = self._run_parts(self.first)
            super().run(recording)
            after = self._run_parts(self.then)
        except VmstoreError as error:
            troubles = self.take_back()
            if troubles:
                raise VmstoreError(" ".join([str(error), *troubles])) from error
            raise
        self.actions = [*before, *self.actions, *after]
        return self

    def _run_parts(self, parts: Sequence[Callable[[], RestartPlan]]) -> list[Action]:
        actions = []
        for make in parts:
            part = make()
            part.run()
            self._done.append(part)
            actions += part.actions
            self.warnings += part.warnings
            for reason in part.reasons:
                if reason not in self.reasons:
                    self.restart_for(reason)
        return actions

    def take_back(self) -> list[str]:
        done, self._done = self._done, []
        return [*(trouble for part in reversed(done) for trouble in part.take_back()), *super().take_back()]


def _actions(parts: Sequence[RestartPlan]) -> list[Action]:
    return [action for part in parts for action in part.actions]


__all__ = ["VolumesPlan"]
