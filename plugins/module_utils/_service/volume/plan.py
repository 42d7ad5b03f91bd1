# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan of a domain's volumes: its own actions, followed by plans of virtiofs exports."""

from __future__ import annotations

from collections.abc import Callable

from ..._core.errors import VmstoreError
from ..._core.records import dataclass, field
from ..domain_restart import RestartPlan


@dataclass
class VolumesPlan(RestartPlan):
    """A plan of which other plans are parts. Each part is planned again right before it runs, because the definition
    has changed since.

    :arg parts: each returns a part, which runs when this plan is recorded, and before its irreversible steps.
    """

    parts: list[Callable[[], RestartPlan]] = field(default_factory=list)
    #: The parts as they were planned first.
    _foreseen: list[RestartPlan] = field(default_factory=list)
    #: The parts that have run.
    _done: list[RestartPlan] = field(default_factory=list)

    def check_parts(self) -> None:
        """Plan all parts now, so that an impossible part changes nothing.

        :raises VmstoreError: a part is impossible.
        """
        self._foreseen = [part() for part in self.parts]
        for part in self._foreseen:
            self._adopt_reasons(part)

    def _adopt_reasons(self, part: RestartPlan) -> None:
        for reason in part.reasons:
            if reason not in self.reasons:
                self.restart_for(reason)

    def show_all(self) -> None:
        """Add the actions and warnings of the parts to this plan, for check mode."""
        for part in self._foreseen:
            self.actions += part.actions
            self.warnings += part.warnings
        self.add_restart()

    def _finish(self) -> None:
        """Run the parts before the irreversible steps. After a failure, all of the plan is taken back."""
        try:
            for make in self.parts:
                part = make()
                part.run()
                self._done.append(part)
                self.warnings += part.warnings
                self._adopt_reasons(part)
        except BaseException as error:
            troubles = self.take_back()
            if troubles:
                raise VmstoreError(" ".join([str(error), *troubles])) from error
            raise
        super()._finish()
        self.actions += [action for part in self._done for action in part.actions]

    def take_back(self) -> list[str]:
        done, self._done = self._done, []
        return [*(trouble for part in reversed(done) for trouble in part.take_back()), *super().take_back()]


__all__ = ["VolumesPlan"]
