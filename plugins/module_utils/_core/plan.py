# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A plan is a list of named actions, each with a before and an after.

Check mode returns the plan, a normal run runs the same plan, and the diff is the printed plan.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

from .errors import PartlyDone, StaleState, VmstoreError
from .records import dataclass, field


def nothing() -> None:
    """Do nothing: the phase of an action that needs none."""


#: The slow part of an action. It returns its undo.
Preparation = Callable[[], Callable[[], object]]


@dataclass(frozen=True)
class Action:
    """An action of a plan, in up to three phases.

    After ``record`` or ``prepare`` raised :class:`VmstoreError`, nothing is changed.

    :arg name: the action as an imperative: ``add subordinate range``.
    :arg subject: the object of the action: ``/etc/subuid``.
    :arg before: the subject's relevant state now (text or plain data); ``None`` when the subject is missing.
    :arg after: the same state after the action; ``None`` when the subject will be missing.
    :arg record: makes the change, under the transaction or lock of the service.
    :arg undo: reverts ``record`` when a later action of the same plan fails.
    :arg diff: ``before`` and ``after`` for the diff, if they differ from those of the result.
    :arg prepare: long work before any action is recorded, outside the transaction. A preparation that several actions
        share runs once.
    :arg finish: an irreversible step, once all actions are recorded and the transaction has ended. It returns the
        reason if the step has to wait.
    """

    name: str
    subject: str
    before: object
    after: object
    record: Callable[[], object] = nothing
    undo: Callable[[], object] = nothing
    diff: tuple[object, object] | None = None
    prepare: tuple[Preparation, ...] = ()
    finish: Callable[[], str | None] = nothing

    @property
    def is_recorded(self) -> bool:
        """Return whether the action has changed something before its ``finish``."""
        return self.record is not nothing or bool(self.prepare)


@dataclass
class Plan:
    """The planned or completed actions, and further values of the module's result (``result``).

    :arg errors: failures while the rest of the plan was done.
    :arg postponed: actions whose ``finish`` has to wait, each with the reason. They are no longer in ``actions``.
    :arg preparing: returns a block in which actions are prepared, such as a batch of many files.
    :arg finishing: returns a block in which actions are finished.
    :arg further: returns the actions that can be planned only once all others are recorded. They are recorded next.
    :arg checks: calls that raise unless the recorded state works. They also run without actions. A failure undoes all
        actions.
    :arg afterwards: clean-up at the end, which also runs without actions. The result doesn't contain it.
    """

    result: dict[str, object] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[VmstoreError] = field(default_factory=list)
    postponed: list[tuple[Action, str]] = field(default_factory=list)
    preparing: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
    finishing: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
    further: Callable[[], Sequence[Action]] = tuple
    checks: list[Callable[[], object]] = field(default_factory=list)
    afterwards: list[Callable[[], object]] = field(default_factory=list)
    #: The undo functions of the completed phases, in the order of these.
    _undos: list[tuple[Action, Callable[[], object]]] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.actions)

    def warn_once(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def run(
        self, recording: Callable[[Plan], contextlib.AbstractContextManager[Plan]] = contextlib.nullcontext
    ) -> Plan:
        """Prepare, record and finish every action, and return the plan that was done.

        When an action can't be prepared or recorded, or a check fails, all completed phases are undone in reverse
        order.

        :arg recording: opens the transaction of the records, and returns the plan to record. That is this plan, or a
            new plan that was made in the transaction, so that preconditions are checked under the lock of the change.
        :raises StaleState: the new plan needs another preparation.
        :raises PartlyDone: a step failed that can't be undone, or that the other actions don't need.
        """
        plan = self._record(recording) if self.actions or self.checks else self
        plan._finish()
        plan.raise_errors()
        return plan

    def raise_errors(self) -> None:
        """Raise the failures while the rest of the plan was done.

        :raises VmstoreError: the only one, if nothing has changed.
        :raises PartlyDone: a part is done and stays.
        """
        if len(self.errors) == 1 and not self.changed:
            raise self.errors[0]
        if self.errors:
            raise PartlyDone(" ".join(map(str, self.errors)), self)

    def _record(self, recording: Callable[[Plan], contextlib.AbstractContextManager[Plan]]) -> Plan:
        prepared: dict[Preparation, tuple[Action, Callable[[], object]]] = {}
        recorded: list[tuple[Action, Callable[[], object]]] = []
        try:
            with self.preparing():
                for action in self.actions:
                    for prepare in action.prepare:
                        if prepare not in prepared:
                            prepared[prepare] = action, prepare()
            with recording(self) as plan:
                needed = {prepare for action in plan.actions for prepare in action.prepare}
                if not needed.issubset(prepared):
                    raise StaleState(
                        "Another program changed the catalog meanwhile; nothing was changed, run it again."
                    )
                for action in plan.actions:
                    action.record()
                    recorded.append((action, action.undo))
                for action in plan.further():
                    action.record()
                    recorded.append((action, action.undo))
                    plan.actions.append(action)
                for check in plan.checks:
                    check()
        except BaseException as error:
            troubles = _take_back([*prepared.values(), *recorded])
            if troubles:
                raise VmstoreError(" ".join([str(error), *troubles])) from error
            raise
        unneeded = [undo for prepare, undo in prepared.items() if prepare not in needed]
        plan.errors += [VmstoreError(trouble) for trouble in _take_back(unneeded)]
        plan._undos = [*(undo for prepare, undo in prepared.items() if prepare in needed), *recorded]
        return plan

    def _finish(self) -> None:
        done = []
        with self.finishing():
            for action in self.actions:
                try:
                    reason = action.finish()
                except VmstoreError as error:
                    self.errors.append(error)
                    done += [action] if action.is_recorded else []
                    continue
                if reason:
                    self.postponed.append((action, reason))
                else:
                    done.append(action)
        self.actions = done
        for tidy in self.afterwards:
            tidy()

    def take_back(self) -> list[str]:
        """Undo the preparations and records in reverse order. Return one sentence for each failure."""
        undos, self._undos = self._undos, []
        return _take_back(undos)

    def as_result(self) -> list[dict[str, object]]:
        """Return the actions as plain data, for the result's ``actions``."""
        return [
            {"name": action.name, "subject": action.subject, "before": action.before, "after": action.after}
            for action in self.actions
        ]

    def diff(self) -> list[dict[str, object]]:
        """Return the actions in the form of ``--diff``, with the differences only."""
        entries = []
        for action in self.actions:
            before, after = _difference(*(action.diff or (action.before, action.after)))
            headers = {"before_header": action.subject, "after_header": f"{action.subject} ({action.name})"}
            entries.append(
                {**headers, "before": "" if before is None else before, "after": "" if after is None else after}
            )
        return entries


def _difference(before: object, after: object) -> tuple[object, object]:
    """Reduce two states to the values that differ. Without one of the states, these are the values of the other."""
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
    """Return ``state``; of a mapping, only the values that are neither false nor empty."""
    if not isinstance(state, Mapping):
        return state
    values = {name: _set_values(value) for name, value in _without_ids(state).items()}
    return {
        name: value for name, value in _not_null(values).items() if value is not False and value not in ("", [], {})
    }


def _not_null(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


def _without_ids(state: Mapping[str, object]) -> dict[str, object]:
    """Leave out the ids of the catalog, because they mean nothing to a user. A mapping by name may have any key."""
    return {
        name: value
        for name, value in state.items()
        if isinstance(value, Mapping) or not (name == "id" or name.endswith("_id"))
    }


def _take_back(undos: Sequence[tuple[Action, Callable[[], object]]]) -> list[str]:
    """Call the undo functions in reverse order. Return one sentence for each failure."""
    troubles = []
    for action, undo in reversed(undos):
        try:
            undo()
        except Exception as error:  # after any error, the other functions are called as well
            troubles.append(f"Taking back '{action.name}' on {action.subject} failed: {error}")
    return troubles


__all__ = ["Action", "Plan", "Preparation", "nothing"]
