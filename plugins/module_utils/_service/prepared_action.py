# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An action that first notes what it is about to need, without being two actions for the user."""

from __future__ import annotations

from collections.abc import Callable

from .._core.plan import Action
from .._core.records import replace


def prepared(action: Action, prepare: Callable[[], None], take_back: Callable[[], None]) -> Action:
    """Return ``action`` with ``prepare`` before it.

    ``take_back`` undoes the preparation when the action fails or is undone.
    """

    def apply() -> None:
        prepare()
        try:
            action.apply()
        except BaseException:
            take_back()
            raise

    def undo() -> None:
        action.undo()
        take_back()

    return replace(action, apply=apply, undo=undo)


__all__ = ["prepared"]
