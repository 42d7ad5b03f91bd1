# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan of an export."""

from __future__ import annotations

from collections.abc import Callable

from ..._core.plan import Action
from ..._core.records import dataclass, field
from .domain_restart import RestartPlan


@dataclass
class ExportPlan(RestartPlan):
    """A plan with actions that may turn out to wait for a restart of the domain.

    :arg afterwards: what to tidy up at the end. The user doesn't see these steps.
    """

    postponed: list[Action] = field(default_factory=list)
    afterwards: list[Callable[[], None]] = field(default_factory=list)

    def commit(self) -> None:
        super().commit()
        self.actions = [action for action in self.actions if action not in self.postponed]
        for tidy in self.afterwards:
            tidy()


__all__ = ["ExportPlan"]
