# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The journal, which is pure: what is pending after which sync, and what each crash state means."""
from __future__ import annotations

import pytest
from simulated_datastore.journal import PAGE, Content, Journal, Names, State

ROOT = 0


@pytest.fixture
def journal() -> Journal:
    return Journal()


def write(journal: Journal, fid: int, offset: int = 0, data: bytes = b"new") -> None:
    journal.content(fid, offset, data, b"old"[:len(data)], 3)


def survivors(journal: Journal, names: str = "ordered") -> list[int]:
    return [change.seq for change in journal.pending(names)]


def test_fsync_makes_the_content_of_one_file_durable(journal: Journal) -> None:
    write(journal, 1)
    write(journal, 2)
    journal.sync(1)
    assert [change.fid for change in journal.changes if isinstance(change, Content)] == [2]


def test_names_are_durable_at_once_in_order_or_by_the_fsync_of_their_directory(journal: Journal) -> None:
    journal.names("create", ((ROOT, b"a"), None, 1))
    assert (survivors(journal, "none"), survivors(journal, "ordered"), survivors(journal, "strict")) == ([], [1], [1])
    journal.sync(1)
    assert (survivors(journal, "ordered"), survivors(journal, "strict")) == ([], [1])
    journal.sync_directory(ROOT)
    assert journal.changes == []


def test_a_rename_needs_both_directories(journal: Journal) -> None:
    journal.names("rename", ((ROOT, b"a"), 1, None), ((5, b"b"), None, 1))
    journal.sync_directory(ROOT)
    assert survivors(journal, "strict") == [1]
    journal.sync_directory(5)
    assert survivors(journal, "strict") == []


def test_attributes_are_durable_at_once_in_order_or_by_the_fsync_of_their_file(journal: Journal) -> None:
    journal.attributes(1, "chmod", ("mode", 0o644, 0o600))
    assert (survivors(journal, "none"), survivors(journal, "ordered"), survivors(journal, "strict")) == ([], [1], [1])
    journal.sync(2)
    assert (survivors(journal, "ordered"), survivors(journal, "strict")) == ([], [1])
    journal.sync(1, data_only=True)
    assert survivors(journal, "strict") == [1]
    journal.sync(1)
    assert journal.changes == []


def test_an_attribute_has_the_value_of_the_last_change_that_survives(journal: Journal) -> None:
    journal.attributes(1, "chmod", ("mode", 0, 1))
    journal.attributes(1, "setxattr", (b"user.a", None, b"x"))
    journal.attributes(1, "chmod", ("mode", 1, 2))
    journal.attributes(1, "chmod", ("mode", 2, 3))
    assert journal.attribute_values(State(frozenset()), "strict") == {1: {"mode": 0, b"user.a": None}}
    assert journal.attribute_values(State(frozenset({1, 3})), "strict") == {1: {"mode": 2, b"user.a": None}}
    assert journal.attribute_values(State(frozenset({1, 2, 3, 4})), "strict") == {}


def test_what_a_failed_fsync_forgot_never_comes_back(journal: Journal) -> None:
    write(journal, 1, 0, b"AAA")
    journal.forget(1)
    write(journal, 1, 1, b"BBB")
    journal.sync(1)
    # The durable change stays in the log, as undoing the lost one would hide it.
    assert [(change.lost, change.durable) for change in journal.changes if isinstance(change, Content)] == [(True, False), (False, True)]
    steps = journal.contents(journal.state("none", "ordered"), "ordered")[1]
    assert [(step, change.seq) for step, change, _unused in steps] == [("undo", 2), ("undo", 1), ("redo", 2)]


def test_a_state_is_only_possible_if_what_it_builds_on_is_there(journal: Journal) -> None:
    journal.names("create", ((ROOT, b"a"), None, 1))
    journal.names("rename", ((ROOT, b"a"), 1, None), ((ROOT, b"b"), None, 1))
    assert journal.entries(State(frozenset({2})), "strict") == {(ROOT, b"b"): (1, None)}
    assert journal.entries(State(frozenset({1})), "strict") == {(ROOT, b"a"): (None, 1), (ROOT, b"b"): (1, None)}
    assert journal.entries(State(frozenset({1, 2})), "strict") == {}


def test_torn_writes_end_at_a_page(journal: Journal) -> None:
    journal.content(1, 100, b"x" * 5 * PAGE, b"", 0)
    for seed in range(20):
        state = journal.state("torn", "ordered", seed, count=0)
        assert state.torn == 1
        assert (100 + state.keep) % PAGE == 0
        assert 0 < state.keep < 5 * PAGE


def test_states_are_different_and_begin_with_all_lost_and_nothing_lost(journal: Journal) -> None:
    for number in range(6):
        journal.content(number, 0, b"12", b"", 0)
    states = journal.states("ordered", 1000)
    assert len(set(states)) == len(states)
    assert states[:2] == [State(frozenset()), State(frozenset(range(1, 7)))]
    assert {State(frozenset(range(1, number))) for number in range(1, 8)} <= set(states)
    # Every subset, as there are few.
    assert len({state.survivors for state in states if state.torn is None}) == 64
    assert journal.states("ordered", 5) == states[:5]


def test_the_same_seed_gives_the_same_state(journal: Journal) -> None:
    for number in range(30):
        write(journal, number)
    assert journal.state("subset", "ordered", 7) == journal.state("subset", "ordered", 7)
    assert journal.state("subset", "ordered", 7) != journal.state("subset", "ordered", 8)


def test_ordered_names_survive_as_a_prefix(journal: Journal) -> None:
    for number in range(8):
        journal.names("create", ((ROOT, b"%d" % number), None, number))
    for seed in range(30):
        kept = sorted(journal.state("subset", "ordered", seed).survivors)
        assert kept == list(range(1, len(kept) + 1))


def test_the_oldest_count_as_written_back_when_the_log_is_full() -> None:
    journal = Journal(limit=1000)
    for number in range(100):
        journal.content(number, 0, b"x" * 100, b"", 0)
    assert journal.weight <= 1000
    assert min(change.fid for change in journal.changes if isinstance(change, Content)) > 80


def test_too_many_changes_are_written_back_as_well() -> None:
    journal = Journal(length=100)
    for number in range(500):
        journal.names("create", ((ROOT, b"%d" % number), None, number))
    assert len(journal.changes) <= 100
    assert all(isinstance(change, Names) for change in journal.changes)
