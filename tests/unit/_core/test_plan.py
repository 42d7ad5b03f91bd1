# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    NoSpace,
    PartlyDone,
    StaleState,
    VmstoreError,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Action, Plan, nothing
from ansible_collections.granary.vmstore.plugins.module_utils._core.records import replace
from refusal import refused


def action(log: list[str], name: str, *, fails: str = "", waits: str = "", shares: Action | None = None) -> Action:
    """Return an action that logs its phases.

    :arg fails: the phases that fail.
    :arg waits: the reason why its finish phase is postponed.
    :arg shares: an action that is prepared together with this one.
    """

    def phase(word: str) -> None:
        log.append(f"{word} {name}")
        if word in fails.split():
            raise NoSpace(f"{word} {name} failed.")

    def prepare() -> Callable[[], None]:
        phase("prepare")
        return functools.partial(phase, "remove")

    def finish() -> str:
        phase("finish")
        return waits

    return Action(
        name,
        "subject",
        None,
        name,
        functools.partial(phase, "record"),
        functools.partial(phase, "undo"),
        prepare=(prepare,) if shares is None else shares.prepare,
        finish=finish,
    )


def run(*actions: Action, **phases: Any) -> Plan:
    return Plan(actions=list(actions)).run(**phases)


def make_transaction(
    log: list[str], actions: list[Action]
) -> Callable[[Plan], contextlib.AbstractContextManager[Plan]]:
    """Return a function that opens a transaction with the ``actions`` as its plan."""

    @contextlib.contextmanager
    def transaction(_plan: Plan) -> Iterator[Plan]:
        log.append("begin")
        yield Plan(actions=actions)
        log.append("end")

    return transaction


def test_planning_changes_nothing_and_running_does_all_phases_in_order() -> None:
    log: list[str] = []
    plan = Plan(actions=[action(log, "a"), action(log, "b")])
    assert (plan.changed, plan.as_result()[0], log) == (
        True,
        {"name": "a", "subject": "subject", "before": None, "after": "a"},
        [],
    )
    assert plan.run() is plan
    assert log == ["prepare a", "prepare b", "record a", "record b", "finish a", "finish b"]


def test_an_action_needs_no_phase() -> None:
    assert run(Action("a", "subject", None, None)).changed


def test_a_failure_takes_back_what_was_done_in_reverse() -> None:
    log: list[str] = []
    with refused(NoSpace, says="record c failed."):
        run(action(log, "a"), action(log, "b"), action(log, "c", fails="record"))
    assert log[3:] == ["record a", "record b", "record c", "undo b", "undo a", "remove c", "remove b", "remove a"]


def test_what_cannot_be_prepared_is_not_recorded() -> None:
    log: list[str] = []
    with refused(NoSpace, says="prepare b failed."):
        run(action(log, "a"), action(log, "b", fails="prepare"), recording=make_transaction(log, []))
    assert log == ["prepare a", "prepare b", "remove a"]


def test_an_undo_that_fails_is_told_and_does_not_stop_the_others() -> None:
    log: list[str] = []
    with refused(VmstoreError, says="record c failed. Taking back 'b' on subject failed: undo b failed."):
        run(action(log, "a"), action(log, "b", fails="undo"), action(log, "c", fails="record"))
    assert log[-4:] == ["undo a", "remove c", "remove b", "remove a"]


def test_a_defect_in_an_undo_does_not_stop_the_others() -> None:
    log: list[str] = []
    broken = Action("b", "subject", None, "b", undo=lambda: int("no"))
    with refused(
        VmstoreError,
        says="record c failed. Taking back 'b' on subject failed: invalid literal for int() with base 10: 'no'",
    ):
        run(action(log, "a"), broken, action(log, "c", fails="record"))
    assert log[-3:] == ["undo a", "remove c", "remove a"]


def test_what_is_done_can_be_taken_back_later_once() -> None:
    log: list[str] = []
    plan = run(action(log, "a", fails="undo"), action(log, "b"))
    del log[:]
    assert plan.take_back() == ["Taking back 'a' on subject failed: undo a failed."]
    assert log == ["undo b", "undo a", "remove b", "remove a"]
    assert plan.take_back() == []


def test_the_plan_of_the_transaction_is_recorded() -> None:
    """Unneeded results of prepare are removed, and the finish phase follows the transaction."""
    log: list[str] = []
    a, b = action(log, "a"), action(log, "b")
    done = run(a, b, recording=make_transaction(log, [b]))
    assert log == ["prepare a", "prepare b", "begin", "record b", "end", "remove a", "finish b"]
    assert done.actions == [b]


def test_the_plan_of_the_transaction_needs_more_than_was_prepared() -> None:
    log: list[str] = []
    with refused(StaleState, says="Another program changed the catalog meanwhile; nothing was changed, run it again."):
        run(action(log, "a"), recording=make_transaction(log, [action(log, "b")]))
    assert log == ["prepare a", "begin", "remove a"]


def test_nothing_is_opened_for_an_empty_plan() -> None:
    log: list[str] = []
    plan = Plan(afterwards=[lambda: log.append("tidy")])
    plan.run(make_transaction(log, []))
    assert log == ["tidy"]


def test_what_actions_share_is_prepared_once() -> None:
    log: list[str] = []
    a = action(log, "a")
    run(a, action(log, "b", shares=a))
    assert log[:2] == ["prepare a", "record a"]


def test_phases_have_what_is_open_for_all_of_them() -> None:
    log: list[str] = []

    @contextlib.contextmanager
    def opened(name: str) -> Iterator[None]:
        log.append(f"open {name}")
        yield
        log.append(f"close {name}")

    preparing, finishing = (functools.partial(opened, name) for name in ("x", "y"))
    Plan(actions=[action(log, "a")], preparing=preparing, finishing=finishing).run()
    assert log == ["open x", "prepare a", "close x", "record a", "open y", "finish a", "close y"]


def test_a_postponed_action_is_not_done() -> None:
    log: list[str] = []
    a, b = action(log, "a", waits="the guest is asleep"), action(log, "b")
    plan = run(a, b)
    assert (plan.actions, plan.postponed) == ([b], [(a, "the guest is asleep")])


def test_an_action_that_only_finishes_is_not_done_where_that_fails() -> None:
    log: list[str] = []
    with pytest.raises(PartlyDone) as raised:
        run(action(log, "a"), replace(action(log, "b", fails="finish"), record=nothing, prepare=()))
    assert [one["name"] for one in raised.value.plan.as_result()] == ["a"]
    with refused(NoSpace, says="finish b failed."):
        run(replace(action(log, "b", fails="finish"), record=nothing, prepare=()))


def test_an_end_that_fails_stops_nothing_and_is_told() -> None:
    log: list[str] = []
    with refused(PartlyDone, says="finish a failed. finish b failed.") as raised:
        run(action(log, "a", fails="finish"), action(log, "b", fails="finish"), action(log, "c"))
    assert log[-3:] == ["finish a", "finish b", "finish c"]
    assert isinstance(raised.value.plan, Plan) and len(raised.value.plan.actions) == 3


def test_the_only_error_of_a_plan_that_changes_nothing_is_raised_itself() -> None:
    error = NoSpace("no space")
    with refused(NoSpace, says="no space"):
        Plan(errors=[error]).run()


def test_what_cannot_be_removed_is_told_once_the_rest_is_done() -> None:
    log: list[str] = []
    a, b = action(log, "a", fails="remove"), action(log, "b")
    with refused(PartlyDone, says="Taking back 'a' on subject failed: remove a failed."):
        run(a, b, recording=make_transaction(log, [b]))
    assert log[-1] == "finish b"


# Actions that can be planned late, and checks


def failing_check(log: list[str]) -> None:
    log.append("check")
    raise NoSpace("The store is full.")


def test_further_actions_are_planned_once_all_others_are_recorded() -> None:
    log: list[str] = []

    def plan_further() -> list[Action]:
        log.append("plan")
        return [action(log, "c"), action(log, "d")]

    plan = Plan(actions=[action(log, "a"), action(log, "b")], further=plan_further)
    plan.checks.append(lambda: log.append("check"))
    done = plan.run()
    assert log[2:] == [
        *("record a", "record b", "plan", "record c", "record d", "check"),
        *("finish a", "finish b", "finish c", "finish d"),
    ]
    assert [one.name for one in done.actions] == ["a", "b", "c", "d"]
    del log[:]
    assert done.take_back() == []
    assert log == ["undo d", "undo c", "undo b", "undo a", "remove b", "remove a"]


def test_a_failure_of_further_actions_takes_back_all() -> None:
    log: list[str] = []
    further = [action(log, "b"), action(log, "c", fails="record")]
    plan = Plan(actions=[action(log, "a")], further=lambda: further)
    with pytest.raises(NoSpace):
        plan.run()
    assert log[1:] == ["record a", "record b", "record c", "undo b", "undo a", "remove a"]


def test_further_actions_that_cannot_be_planned_take_back_all() -> None:
    log: list[str] = []

    def refuse() -> list[Action]:
        raise StaleState("The store is another one.")

    with pytest.raises(StaleState):
        Plan(actions=[action(log, "a")], further=refuse).run()
    assert log == ["prepare a", "record a", "undo a", "remove a"]


def test_a_check_that_fails_takes_back_all_actions_in_reverse() -> None:
    log: list[str] = []
    plan = Plan(actions=[action(log, "a")], further=lambda: [action(log, "b")])
    plan.checks += [functools.partial(failing_check, log), lambda: log.append("never")]
    with pytest.raises(NoSpace):
        plan.run()
    assert log == ["prepare a", "record a", "record b", "check", "undo b", "undo a", "remove a"]


def test_a_check_runs_without_actions() -> None:
    log: list[str] = []
    with pytest.raises(NoSpace):
        Plan(checks=[functools.partial(failing_check, log)]).run()
    assert not Plan(checks=[lambda: log.append("second")]).run().changed
    assert log == ["check", "second"]


def test_a_check_may_be_added_with_the_further_actions() -> None:
    log: list[str] = []
    plan = Plan(actions=[action(log, "a")])

    def plan_further() -> list[Action]:
        plan.checks.append(functools.partial(failing_check, log))
        return []

    plan.further = plan_further
    with pytest.raises(NoSpace):
        plan.run()
    assert log == ["prepare a", "record a", "check", "undo a", "remove a"]


def test_the_diff_is_the_plan() -> None:
    plan = Plan(actions=[action([], "a")])
    assert [(entry["before"], entry["after"]) for entry in plan.diff()] == [("", "a")]
    assert not Plan().changed


def difference(before: object, after: object, **more: object) -> tuple[object, object]:
    (entry,) = Plan(actions=[Action("change", "subject", before, after, **more)]).diff()
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
    plan = Plan(actions=[Action("change", "subject", before, after)])
    assert plan.as_result() == [{"name": "change", "subject": "subject", "before": before, "after": after}]


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
    assert difference({"datastore_id": 1}, {"datastore_id": 2}, diff=({"datastore": "a"}, {"datastore": "b"})) == (
        {"datastore": "a"},
        {"datastore": "b"},
    )
