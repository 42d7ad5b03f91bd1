# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The possible states of a disk after a crash, their order and their number."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise, permutations, product

import pytest
from sd_model import Model
from simulated_datastore.crash_states import MOST, CrashStates, State
from simulated_datastore.journal import PAGE, Content, Journal

ROOT = 0
OLD = b"o" * 4 * PAGE


@pytest.fixture
def journal() -> Journal:
    return Journal()


def result(states: CrashStates, state: State, now: bytes, fid: int = 1) -> bytes:
    """Return the content after the crash of a file with the content *now*."""
    content = bytearray(now)

    def cut(size: int) -> None:
        del content[size:]
        content.extend(bytes(size - len(content)))

    for recipe in [recipe for found, recipe in states.contents(state).items() if found == fid]:
        for change in recipe.undo:
            if change.cut is not None:
                cut(change.size)
            content[change.offset : change.offset + len(change.old)] = change.old
            cut(change.size)
        for offset, data in recipe.redo:
            if data is None:
                cut(offset)
            else:
                cut(max(len(content), offset))
                content[offset : offset + len(data)] = data
        cut(recipe.size)
    return bytes(content)


def pages(content: bytes) -> str:
    """Return the letter of each page; 0 for zeros."""
    return "".join(
        chr(content[at] or ord("0")) if len(set(content[at : at + PAGE])) == 1 else "?"
        for at in range(0, len(content), PAGE)
    )


def outcomes(journal: Journal, now: bytes, limit: int = 1000) -> set[str]:
    states = CrashStates(journal, "ordered")
    found = [result(states, state, now) for state in states.take(limit)]
    assert len(found) == len(set(found))
    return set(map(pages, found))


def test_each_page_of_an_overwrite_is_there_or_not(journal: Journal) -> None:
    journal.content(1, 0, b"n" * 4 * PAGE, OLD, 4 * PAGE)
    assert outcomes(journal, b"n" * 4 * PAGE) == {"".join(each) for each in product("on", repeat=4)}
    assert CrashStates(journal, "ordered").count() == (16, True)


def test_a_write_within_a_page_is_cut_at_a_sector_and_one_within_a_sector_is_not(journal: Journal) -> None:
    journal.content(1, 700, b"n" * 600, b"o" * 600, PAGE)
    journal.content(1, 2050, b"n" * 100, b"o" * 100, PAGE)
    assert [(piece.start, piece.end) for piece in CrashStates(journal, "ordered").pieces] == [
        (700, 1024),
        (1024, 1300),
        (2050, 2150),
    ]


def test_an_append_leaves_any_size_and_zeros_where_its_data_is_not(journal: Journal) -> None:
    journal.content(1, PAGE, b"n" * 2 * PAGE, b"", PAGE)
    now = b"o" * PAGE + b"n" * 2 * PAGE
    assert outcomes(journal, now) == {"o", "o0", "on", "o00", "on0", "o0n", "onn"}
    assert CrashStates(journal, "ordered").count() == (7, True)


def test_appends_survive_in_any_order(journal: Journal) -> None:
    journal.content(1, 0, b"a" * PAGE, b"", 0)
    journal.content(1, PAGE, b"b" * PAGE, b"", PAGE)
    found = outcomes(journal, b"a" * PAGE + b"b" * PAGE)
    # A write within one page is torn in its middle, shown as "?".
    assert {"", "00", "a0", "0b", "ab", "?0", "?b"} <= found
    # Sizes from 0 to 4 halves, each with any set of the halves before its end.
    assert CrashStates(journal, "ordered").count() == (1 + 2 + 4 + 8 + 16, True)


def test_a_page_that_is_written_again_and_again_has_one_of_its_versions(journal: Journal) -> None:
    for number in range(3):
        journal.content(1, 0, b"abc"[number : number + 1] * 2 * PAGE, b"oab"[number : number + 1] * 2 * PAGE, 2 * PAGE)
    assert outcomes(journal, b"c" * 2 * PAGE) == {"".join(each) for each in product("oabc", repeat=2)}
    assert CrashStates(journal, "ordered").count() == (16, True)


def test_data_before_a_truncate_does_not_come_back_through_a_later_size(journal: Journal) -> None:
    journal.content(1, 0, b"a" * 2 * PAGE, OLD[: 2 * PAGE], 2 * PAGE)
    journal.content(1, 0, b"", b"a" * 2 * PAGE, 2 * PAGE, cut=0)
    journal.content(1, PAGE, b"b" * PAGE, b"", 0)
    states = CrashStates(journal, "ordered")
    now = bytes(PAGE) + b"b" * PAGE
    cut = {pages(result(states, state, now)) for state in states.take(1000) if state & states.of(2)}
    assert {"", "00", "0b"} <= cut
    assert not any("a" in found or "o" in found for found in cut)
    number, exact = states.count()
    assert not exact and number >= len(states.take(1000))


def test_a_rename_survives_what_was_written_before_it_and_the_other_way_round(journal: Journal) -> None:
    journal.content(1, 0, b"n" * PAGE, b"", 0)
    journal.names("rename", ((ROOT, b"new"), 1, None), ((ROOT, b"name"), 2, 1))
    for names in ("ordered", "strict"):
        states = CrashStates(journal, names)
        first = [(bool(states.entries(state)), result(states, state, b"n" * PAGE)) for state in states.take(5)]
        # All lost, all kept, a name without content, a name with a size only, and content without a name.
        assert set(first) == {
            (True, b""),
            (False, b"n" * PAGE),
            (False, b""),
            (False, bytes(PAGE)),
            (True, b"n" * PAGE),
        }


def hundred(journal: Journal) -> None:
    for number in range(100):
        journal.content(1, number * PAGE, b"n" * PAGE, b"o" * PAGE, 100 * PAGE)


@pytest.mark.parametrize("names", ["ordered", "strict"])
def test_twenty_states_of_many_changes_are_of_all_families(journal: Journal, names: str) -> None:
    hundred(journal)
    journal.names("rename", ((ROOT, b"new"), 1, None), ((ROOT, b"name"), 2, 1))
    states = CrashStates(journal, names)
    taken = states.take(20)
    there = [[states.whole(state, change) for change in states.pending] for state in taken]
    torn = [
        any(states.parts(state, change) for change in states.pending if not states.whole(state, change))
        for state in taken
    ]
    # A proper prefix; all but one; a part of one write; and a mixture.
    assert sum(0 < sum(each) < 101 and each == sorted(each, reverse=True) for each in there) >= 2
    assert sum(sum(each) == 100 for each in there) >= 2
    assert sum(torn) >= 2
    assert (
        sum(
            not partly and each != sorted(each, reverse=True) and 10 < sum(each) < 90
            for each, partly in zip(there, torn, strict=True)
        )
        >= 4
    )


def test_every_change_is_seen_without_every_other(journal: Journal) -> None:
    hundred(journal)
    states = CrashStates(journal, "ordered")
    missing = set(permutations(range(100), 2))
    for state in states.take(100):
        there = [states.whole(state, change) for change in states.pending]
        missing -= {
            (first, second) for first in range(100) if there[first] for second in range(100) if not there[second]
        }
    assert not missing


def test_the_seed_chooses_the_rest(journal: Journal) -> None:
    hundred(journal)
    states = CrashStates(journal, "ordered")
    first, again, other = states.take(50, 1), CrashStates(journal, "ordered").take(50, 1), states.take(50, 2)
    assert first == again
    assert 10 < len(set(first) & set(other)) < 45
    assert states.take(10, 1) == first[:10]
    assert states.count() == (4**100, True)


def test_a_number_with_too_many_digits_is_cut(journal: Journal) -> None:
    for number in range(400):
        journal.content(1, number * PAGE, b"n" * PAGE, b"o" * PAGE, 400 * PAGE)
    assert CrashStates(journal, "ordered").count() == (MOST, False)


@pytest.mark.parametrize("keep", ["none", "prefix", "subset", "torn"])
def test_the_same_seed_gives_the_same_state(journal: Journal, keep: str) -> None:
    hundred(journal)
    states = CrashStates(journal, "ordered")
    assert states.one(keep, 7) == states.one(keep, 7)
    assert (states.one(keep, 7) != states.one(keep, 8)) == (keep != "none")


def test_torn_is_some_pages_of_the_next_write(journal: Journal) -> None:
    journal.content(1, 0, b"x" * PAGE, b"o" * PAGE, 6 * PAGE)
    journal.content(1, 100 + PAGE, b"x" * 4 * PAGE, b"o" * 4 * PAGE, 6 * PAGE)
    states, seen = CrashStates(journal, "ordered"), set()
    for seed in range(50):
        state = states.one("torn", seed, count=1)
        assert state & states.of(1) == states.of(1)
        parts = states.parts(state, states.pending[1])
        seen.add(tuple(part.start // PAGE for part in parts))
        assert 0 < len(parts) < 5
        assert all(part.start in (100 + PAGE, part.start // PAGE * PAGE) for part in parts)
    assert any(second > first + 1 for found in seen for first, second in pairwise(found))


def test_ordered_names_survive_as_a_prefix(journal: Journal) -> None:
    for number in range(8):
        journal.names("create", ((ROOT, b"%d" % number), None, number))
        journal.content(number, 0, b"x", b"", 0)
    states = CrashStates(journal, "ordered")
    for state in [*states.take(200), *(states.one("subset", seed) for seed in range(30))]:
        kept = [states.whole(state, change) for change in states.pending if not isinstance(change, Content)]
        assert kept == sorted(kept, reverse=True)


def test_names_that_build_on_each_other_are_counted_as_far_as_they_can_be_there(journal: Journal) -> None:
    journal.names("create", ((ROOT, b"a"), None, 1))
    journal.names("rename", ((ROOT, b"a"), 1, None), ((5, b"b"), None, 1))
    journal.names("unlink", ((5, b"b"), 1, None))
    journal.names("create", ((ROOT, b"c"), None, 2))
    journal.attributes(1, "chmod", ("mode", 0, 1))
    journal.attributes(1, "chmod", ("mode", 1, 2))
    states = CrashStates(journal, "strict")
    # The first three in order, the fourth or not, and three modes.
    assert states.count() == (4 * 2 * 3, True)
    assert len(states.take(1000)) == 24
    assert len(CrashStates(journal, "ordered").take(1000)) == 7
    assert len(CrashStates(journal, "none").take(1000)) == 1


@pytest.mark.parametrize("seed", range(20))
def test_where_the_number_is_exact_there_are_so_many(journal: Journal, seed: int) -> None:
    """Compare the number with that of different contents and names over all combinations, in small histories."""
    chance = random.Random(seed)
    size, now, names = PAGE, bytearray(b"o" * PAGE), 0
    for number in range(4):
        what = chance.choice(["append", "overwrite", "create", "chmod"])
        letter = bytes([ord("a") + number])
        if what == "append":
            journal.content(1, size, letter, b"", size)
            now += letter
            size += 1
        elif what == "overwrite":
            journal.content(1, 8, letter, bytes(now[8:9]), size)
            now[8:9] = letter
        elif what == "create":
            journal.names("create", ((ROOT, letter), None, 10 + number))
            names += 1
        else:
            journal.attributes(1, "chmod", ("mode", number, number + 1))
    states = CrashStates(journal, "strict")
    every = {
        (result(states, state, bytes(now)), str(states.entries(state)), str(states.attribute_values(state)))
        for state in range(states.everything + 1)
    }
    assert states.count() == (len(every), True)
    assert len(states.take(10_000)) == len(every)


def test_the_datastore_takes_every_state_that_it_lists(make: Callable[..., Model]) -> None:
    """Write three pages and overwrite them in a real file. Each number leads to another content, and the answer names
    its pages.
    """
    found: dict[bytes, str] = {}
    number = 0
    while True:
        model = make()
        handle = model.create("file", b"o" * PAGE)
        durability = model.datastore.durability
        durability.track()
        model.write(handle, PAGE, b"n" * 3 * PAGE)
        counted = durability.count(limit=1000)
        assert (counted["exact"], counted["listed"]) == (True, counted["states"])
        if number == counted["listed"]:
            break
        told = model.datastore.crash(state=number, restart=True)
        found[model.tree()["file"] or b""] = "; ".join(told["torn"])
        number += 1
    assert len(found) == number == 1 + 2 + 4 + 8
    middle = found[b"o" * PAGE + b"n" * PAGE + bytes(PAGE) + b"n" * PAGE]
    assert (
        middle == f"bytes {PAGE} to {2 * PAGE}, bytes {3 * PAGE} to {4 * PAGE}, the size {4 * PAGE} of 1: write "
        f"{3 * PAGE}@{PAGE} of /file"
    )
