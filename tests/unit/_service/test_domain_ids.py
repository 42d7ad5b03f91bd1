# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ids that a domain gets for itself, and the resulting lines of subuid(5) and subgid(5)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import Conflict, UnsupportedAction
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Action, Plan
from ansible_collections.granary.vmstore.plugins.module_utils._host.ids import domain_ids
from ansible_collections.granary.vmstore.plugins.module_utils._host.ids.domain_ids import (
    COUNT,
    FIRST,
    LAST,
    choose_start,
    read_allocations,
)
from ansible_collections.granary.vmstore.plugins.module_utils._model.idmap import IdMap
from ansible_collections.granary.vmstore.plugins.module_utils._service.ids.domain_ids import (
    DomainIds,
    check_foreign_ranges,
    free_ranges,
)
from refusal import refused

USER = "nobody-here"
#: First ids of the domains' preferred ranges, with all ids free.
A, B = (choose_start(uuid, [(FIRST, LAST - FIRST + 1)], []) for uuid in ("a", "b"))


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(domain_ids, "ALLOCATIONS", str(tmp_path / "state" / "domain_ids.json"))
    directory = tmp_path / "etc"
    directory.mkdir()
    for name in ("subuid", "subgid"):
        (directory / name).write_text(f"{USER}:100000:65536\n# kept\n")
    return directory


@pytest.fixture
def allocate(etc: Path) -> Callable[..., int]:
    def one(uuid: str, *used: IdMap, action: Action | None = None) -> int:
        ids = DomainIds(uuid, f"name of {uuid}", USER, used, str(etc))
        Plan(actions=ids.prepend_to(action)).run()
        return ids.map.target

    return one


def lines(etc: Path) -> list[str]:
    assert (etc / "subuid").read_text() == (etc / "subgid").read_text()
    return (etc / "subuid").read_text().splitlines()


def test_each_domain_has_its_own_and_keeps_it(allocate: Callable, etc: Path) -> None:
    assert [allocate("a"), allocate("b"), allocate("a")] == [A, B, A]
    assert lines(etc) == [f"{USER}:100000:65536", f"{USER}:{A}:65536", f"{USER}:{B}:65536", "# kept"]
    assert DomainIds("a", "a", USER, [], str(etc)).prepend_to(None) == []


def test_what_somebody_has_is_not_allocated(allocate: Callable, etc: Path) -> None:
    (etc / "subgid").write_text(f"{USER}:100000:65536\nother:{A}:1\n")
    assert allocate("a", IdMap(0, A + COUNT + 5, 1)) == A + 2 * COUNT


def test_a_first_range_that_holds_them_all_is_for_everybody(allocate: Callable, etc: Path) -> None:
    (etc / "subuid").write_text(f"{USER}:100000:4000000000\n")
    with refused(
        Conflict,
        says="subid: no range of 65536 ids from 1879048192 to 2147352575 is free for the domain; "
        "remove exports of domains that are gone.",
    ):
        allocate("a")


def test_an_entry_that_was_removed_is_written_again(allocate: Callable, etc: Path) -> None:
    allocate("a")
    (etc / "subgid").write_text(f"{USER}:100000:65536\n")
    [action] = DomainIds("a", "a", USER, [], str(etc)).prepend_to(None)
    assert (action.name, action.after) == ("grant subordinate ids", f"{USER}:{A}:65536")
    action.record()
    assert f"{USER}:{A}:65536\n" in (etc / "subgid").read_text()


def test_an_action_that_fails_leaves_nothing(allocate: Callable, etc: Path) -> None:
    before = lines(etc)

    def fail() -> None:
        assert read_allocations()  # the range is allocated at this time
        raise Conflict("no")

    with refused(Conflict, says="no"):
        allocate("a", action=Action("add", "x", None, None, fail))
    assert (lines(etc), read_allocations()) == (before, {})
    done = Plan(actions=DomainIds("a", "a", USER, [], str(etc)).prepend_to(Action("add", "x", None, None))).run()
    assert done.take_back() == []
    assert (lines(etc), read_allocations()) == (before, {})


def test_another_user_takes_the_range_over(allocate: Callable, etc: Path) -> None:
    allocate("a")
    before = lines(etc)
    [action] = DomainIds("a", "a", "another", [], str(etc)).prepend_to(None)
    plan = Plan(actions=[action]).run()
    assert lines(etc) == [f"{USER}:100000:65536", "# kept", f"another:{A}:65536"]
    assert read_allocations()["a"].user == "another"
    assert DomainIds("a", "a", "another", [], str(etc)).prepend_to(None) == []
    assert plan.take_back() == []
    assert (lines(etc), read_allocations()["a"].user) == (before, USER)


def test_freed_when_no_device_has_them(allocate: Callable, etc: Path) -> None:
    before = lines(etc)
    for uuid in ("a", "gone"):
        allocate(uuid)
    free_ranges("name of a", {"a"}, "a", [IdMap(0, A, 1)], str(etc))
    assert set(read_allocations()) == {"a", "gone"}
    free_ranges("name of a", {"a"}, "a", [IdMap(0, 100000, 1)], str(etc))
    free_ranges("name of gone", {"a"}, None, [], str(etc))
    assert (lines(etc), read_allocations()) == (before, {})
    # Remaining files with these ids belong to the domain itself.
    assert allocate("a") == A


def test_a_domain_with_the_name_of_another_keeps_its_ids(allocate: Callable, etc: Path) -> None:
    allocate("a")
    free_ranges("name of a", {"a", "b"}, "b", [], str(etc))
    assert set(read_allocations()) == {"a"}


def test_maps_into_the_ids_of_another_domain(allocate: Callable) -> None:
    allocate("a")
    check_foreign_ranges("a", [IdMap(0, A, 10)])
    check_foreign_ranges("b", [IdMap(0, A - 10, 10), IdMap(10, A + COUNT, 1)])
    with refused(
        Conflict, says=f"The map '5:{A + COUNT - 1}:2' leads into the ids {A}:65536 of the domain 'name of a' alone."
    ):
        check_foreign_ranges("b", [IdMap(5, A + COUNT - 1, 2)])


def test_a_host_with_a_directory_service(
    allocate: Callable, etc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (etc / "nsswitch.conf").write_text("subid: sss\n")
    program = tmp_path / "getsubids"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program.write_text(f"#!/bin/sh\necho '0: {USER} 100000 65536'\n")
    program.chmod(0o755)
    with refused(
        UnsupportedAction,
        says=f"subid: no range of {COUNT} ids is free for the domain: grant '{USER}' further subordinate "
        "uids and gids, with the same numbers, where this host takes them from (subid: sss in "
        "nsswitch.conf).",
    ):
        allocate("a")
    program.write_text(f"#!/bin/sh\necho '0: {USER} 100000 65536'\necho '1: {USER} 3000000 140000'\n")
    before = lines(etc)
    assert {allocate("a"), allocate("b")} == {3000000, 3065536}
    free_ranges("name of a", {"a"}, "a", [], str(etc))
    assert lines(etc) == before
