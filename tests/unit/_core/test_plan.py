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

    return Action(
        name,
        "subject",
        None,
        name,
        functools.partial(step, "apply", fails),
        functools.partial(step, "undo", undo_fails),
    )


def test_planning_changes_nothing_and_committing_does_all_in_order() -> None:
    log: list[str] = []
    plan = Plan(actions=[action(log, "a"), action(log, "b")])
    assert (plan.changed, plan.described()[0], log) == (
        True,
        {"name": "a", "subject": "subject", "before": None, "after": "a"},
        [],
    )
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
    broken = Action("b", "subject", None, "b", apply=lambda: None, undo=lambda: int("no"))
    with pytest.raises(VmstoreError, match="apply c failed.*'b' on subject"):
        Plan(actions=[action(log, "a"), broken, action(log, "c", fails=True)]).commit()
    assert log[-1] == "undo a"


def test_the_diff_is_the_plan() -> None:
    plan = Plan(actions=[action([], "a")])
    assert [(entry["before"], entry["after"]) for entry in plan.diff()] == [("", "a")]
    assert not Plan().changed


def difference(before: object, after: object, **more: object) -> tuple[object, object]:
    (entry,) = Plan(actions=[Action("change", "subject", before, after, lambda: None, **more)]).diff()
    assert (entry["before_header"], entry["after_header"]) == ("subject", "subject (change)")
    return entry["before"], entry["after"]


def test_a_diff_has_what_changes_and_nothing_else() -> None:
    before = {
        "id": 1,
        "size": 4,
        "tags": [],
        "note": None,
        "gone": 1,
        "same": "x",
        "parts": {"a": 1, "b": 2, "image_id": 3},
        "flag": True,
        "that_id": 1,
    }
    after = {
        "id": 2,
        "size": 0,
        "tags": ["x"],
        "note": "new",
        "gone": None,
        "same": "x",
        "parts": {"a": 1, "b": 5, "image_id": 4},
        "flag": False,
        "that_id": 2,
    }
    assert difference(before, after) == (
        {"size": 4, "tags": [], "gone": 1, "parts": {"b": 2}, "flag": True},
        {"size": 0, "tags": ["x"], "note": "new", "parts": {"b": 5}, "flag": False},
    )
    plan = Plan(actions=[Action("change", "subject", before, after, lambda: None)])
    assert plan.described() == [{"name": "change", "subject": "subject", "before": before, "after": after}]


def test_a_diff_of_something_new_has_what_is_set() -> None:
    state = {
        "id": 1,
        "datastore_id": 1,
        "name": "x",
        "size": 0,
        "note": None,
        "flag": False,
        "on": True,
        "tags": [],
        "text": "",
        "parts": {"a": None, "b": 1},
    }
    assert difference(None, state) == ("", {"name": "x", "size": 0, "on": True, "parts": {"b": 1}})
    assert difference(state, None) == ({"name": "x", "size": 0, "on": True, "parts": {"b": 1}}, "")
    assert difference(None, {"vm_id": {"host": "h"}}) == ("", {"vm_id": {"host": "h"}})  # a domain of this name
    assert difference("old text\n", "text\n") == ("old text\n", "text\n")
    assert difference(None, ["a", "b"]) == ("", ["a", "b"])


def test_a_diff_has_what_a_user_reads() -> None:
    assert difference({"datastore_id": 1}, {"datastore_id": 2}, shown=({"datastore": "a"}, {"datastore": "b"})) == (
        {"datastore": "a"},
        {"datastore": "b"},
    )
