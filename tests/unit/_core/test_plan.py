# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import functools

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import NoSpace, VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Action, Plan


def action(log: list[str], name: str, *, fails: bool = False, undo_fails: bool = False) -> Action:
    def step(word: str, failing: bool) -> None:
        log.append(f"{word} {name}")
        if failing:
            raise NoSpace(f"{word} {name} failed")

    return Action(name, "subject", None, name, functools.partial(step, "apply", fails), functools.partial(step, "undo", undo_fails))


def test_planning_changes_nothing_and_committing_does_all_in_order() -> None:
    log: list[str] = []
    plan = Plan(actions=[action(log, "a"), action(log, "b")])
    assert (plan.changed, plan.described()[0], log) == (True, {"name": "a", "subject": "subject", "before": None, "after": "a"}, [])
    plan.commit()
    assert log == ["apply a", "apply b"]


def test_a_failure_takes_back_what_was_done_in_reverse() -> None:
    log: list[str] = []
    with pytest.raises(NoSpace, match="apply c failed"):
        Plan(actions=[action(log, "a"), action(log, "b"), action(log, "c", fails=True)]).commit()
    assert log == ["apply a", "apply b", "apply c", "undo b", "undo a"]


def test_an_undo_that_fails_is_told_and_does_not_stop_the_others() -> None:
    log: list[str] = []
    plan = Plan(actions=[action(log, "a"), action(log, "b", undo_fails=True), action(log, "c", fails=True)])
    with pytest.raises(VmstoreError, match=r"apply c failed.*'b' on subject.*undo b failed"):
        plan.commit()
    assert log[-1] == "undo a"


def test_a_defect_in_an_undo_does_not_stop_the_others() -> None:
    log: list[str] = []
    broken = Action("b", "subject", None, "b", apply=lambda: None, undo=lambda: [][0])
    with pytest.raises(VmstoreError, match="apply c failed.*'b' on subject"):
        Plan(actions=[action(log, "a"), broken, action(log, "c", fails=True)]).commit()
    assert log[-1] == "undo a"


def test_the_diff_is_the_plan() -> None:
    plan = Plan(actions=[action([], "a")])
    assert [(entry["before"], entry["after"]) for entry in plan.diff()] == [("", "a")]
    assert not Plan().changed
