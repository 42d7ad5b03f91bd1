# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A plan is a list of named actions, each with a before and an after.

Check mode returns the plan, a normal run commits the same plan, the diff is the plan printed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .errors import VmstoreError
from .records import dataclass, field


def nothing() -> None:
    """The undo of an action that needs none."""


@dataclass(frozen=True)
class Action:
    """One step.

    :arg name: what is done, as an imperative: ``add subordinate range``.
    :arg subject: what it is done to: ``/etc/subuid``.
    :arg before: the subject's relevant state now (text or plain data); ``None`` when it doesn't exist.
    :arg after: the same once the action is done; ``None`` when it will not exist.
    :arg apply: does it; raises :class:`VmstoreError` and then has changed nothing.
    :arg undo: takes it back when a later action of the same plan fails.
    :arg shown: ``before`` and ``after`` for the diff, where a user reads something else there.
    """

    name: str
    subject: str
    before: object
    after: object
    apply: Callable[[], None]
    undo: Callable[[], None] = nothing
    shown: tuple[object, object] | None = None


@dataclass
class Plan:
    """What would be or was done, and what the module returns besides (``result``)."""

    result: dict[str, object] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.actions)

    def warn_once(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def commit(self) -> None:
        """Apply every action in turn; when one fails, undo the earlier ones in reverse and raise its error."""
        done: list[Action] = []
        try:
            for action in self.actions:
                action.apply()
                done.append(action)
        except BaseException as error:
            troubles = [trouble for trouble in map(_undo, reversed(done)) if trouble]
            if troubles:
                raise VmstoreError(" ".join([str(error), *troubles])) from error
            raise

    def described(self) -> list[dict[str, object]]:
        """The actions as plain data, for the result's ``actions``."""
        return [
            {"name": action.name, "subject": action.subject, "before": action.before, "after": action.after}
            for action in self.actions
        ]

    def diff(self) -> list[dict[str, object]]:
        """The actions in the form ``--diff`` prints: what changes, and nothing else."""
        entries = []
        for action in self.actions:
            before, after = _difference(*(action.shown or (action.before, action.after)))
            headers = {"before_header": action.subject, "after_header": f"{action.subject} ({action.name})"}
            entries.append(
                {**headers, "before": "" if before is None else before, "after": "" if after is None else after}
            )
        return entries


def _difference(before: object, after: object) -> tuple[object, object]:
    """Reduce two states to the values that differ. Of something new or removed, that is what is set."""
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return _set_values(before), _set_values(after)
    old, new = _without_ids(before), _without_ids(after)
    changes = {
        name: _difference(old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)
    }
    return _not_null({name: change[0] for name, change in changes.items()}), _not_null(
        {name: change[1] for name, change in changes.items()}
    )


def _set_values(state: object) -> object:
    """``state``; if it is a mapping, without what is off or empty."""
    if not isinstance(state, Mapping):
        return state
    values = {name: _set_values(value) for name, value in _without_ids(state).items()}
    return {
        name: value for name, value in _not_null(values).items() if value is not False and value not in ("", [], {})
    }


def _not_null(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


def _without_ids(state: Mapping[str, object]) -> dict[str, object]:
    """Leave out the ids of the catalog, which tell a user nothing. A mapping by name may have any name."""
    return {
        name: value
        for name, value in state.items()
        if isinstance(value, Mapping) or not (name == "id" or name.endswith("_id"))
    }


def _undo(action: Action) -> str:
    """Take ``action`` back; the answer says what went wrong, if anything."""
    try:
        action.undo()
    except Exception as error:  # pylint: disable=broad-except  # whatever it is, the other actions are taken back too
        return f"Taking back '{action.name}' on {action.subject} failed: {error}"
    return ""


__all__ = ["Action", "Plan"]
