# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The journal: the pending changes after each sync, and their fate in a crash."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count

import pytest
from simulated_datastore.crash_states import CrashStates, State
from simulated_datastore.journal import Content, Journal, Names

ROOT = 0


@pytest.fixture
def journal() -> Journal:
    return Journal()


def write(journal: Journal, fid: int, offset: int = 0, data: bytes = b"new") -> None:
    journal.content(fid, offset, data, b"old"[: len(data)], 3)


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
    states = CrashStates(journal, "strict")
    assert states.attribute_values(0) == {1: {"mode": 0, b"user.a": None}}
    assert states.attribute_values(states.of(1, 3)) == {1: {"mode": 2, b"user.a": None}}
    assert states.attribute_values(states.of(1, 2, 3, 4)) == {}


def test_what_a_failed_fsync_forgot_never_comes_back(journal: Journal) -> None:
    write(journal, 1, 0, b"AAA")
    journal.forget(1)
    write(journal, 1, 1, b"BBB")
    journal.sync(1)
    # The durable change stays in the journal, because undoing the lost change would hide it.
    assert [(change.lost, change.durable) for change in journal.changes if isinstance(change, Content)] == [
        (True, False),
        (False, True),
    ]
    recipe = CrashStates(journal, "ordered").contents(0)[1]
    assert [change.seq for change in recipe.undo] == [2, 1]
    assert (recipe.redo, recipe.size) == ([(1, b"BBB")], 4)


def test_a_sync_of_all_leaves_what_is_lost_and_what_it_would_hide(journal: Journal) -> None:
    write(journal, 1, 0, b"AAA")
    journal.forget(1)
    write(journal, 1, 1, b"BBB")
    write(journal, 2)
    journal.names("create", ((ROOT, b"a"), None, 1))
    assert journal.sync_all() == 3
    assert [change.seq for change in journal.changes] == [1, 2]
    assert [survivors(journal, names) for names in ("none", "ordered", "strict")] == [[], [], []]
    recipe = CrashStates(journal, "ordered").contents(0)[1]
    assert [change.seq for change in recipe.undo] == [2, 1]
    assert (recipe.redo, recipe.size) == ([(1, b"BBB")], 4)


def test_a_state_is_only_possible_if_what_it_builds_on_is_there(journal: Journal) -> None:
    journal.names("create", ((ROOT, b"a"), None, 1))
    journal.names("rename", ((ROOT, b"a"), 1, None), ((ROOT, b"b"), None, 1))
    states = CrashStates(journal, "strict")
    assert states.entries(states.of(2)) == {(ROOT, b"b"): (1, None)}
    assert states.entries(states.of(1)) == {(ROOT, b"a"): (None, 1), (ROOT, b"b"): (1, None)}
    assert states.entries(states.of(1, 2)) == {}


def test_the_oldest_count_as_written_back_when_the_log_is_full() -> None:
    journal = Journal(limit=1000)
    for number in range(100):
        journal.content(number, 0, b"x" * 100, b"", 0)
    assert journal.weight <= 1000
    assert journal.written_back == 100 - len(journal.changes)
    assert min(change.fid for change in journal.changes if isinstance(change, Content)) > 80


def test_too_many_changes_are_written_back_as_well() -> None:
    journal = Journal(length=100)
    for number in range(500):
        journal.names("create", ((ROOT, b"%d" % number), None, number))
    assert len(journal.changes) <= 100
    assert all(isinstance(change, Names) for change in journal.changes)


def test_a_durable_name_stays_while_an_older_change_of_it_is_pending(journal: Journal) -> None:
    journal.names("rename", ((4, b"x"), 1, None), ((5, b"x"), None, 1))
    journal.names("unlink", ((5, b"x"), 1, None))
    journal.names("create", ((5, b"x"), None, 2))
    journal.sync_directory(5)
    assert (survivors(journal, "none"), survivors(journal, "ordered"), survivors(journal, "strict")) == ([], [], [1])
    # The rename may be lost, but the new file keeps the name.
    assert CrashStates(journal, "strict").entries(0) == {(4, b"x"): (None, 1)}
    journal.names("rename", ((5, b"x"), 2, None), ((5, b"y"), None, 2))
    journal.sync(2)
    for names, expected in (
        ("none", {}),
        ("ordered", {}),
        ("strict", {(4, b"x"): (None, 1), (5, b"x"): (None, 2), (5, b"y"): (2, None)}),
    ):
        assert CrashStates(journal, names).entries(0) == expected
    journal.sync_directory(4)
    assert survivors(journal, "strict") == [4]


def test_a_rename_that_is_durable_has_what_an_older_one_brought(journal: Journal) -> None:
    journal.names("rename", ((4, b"x"), 1, None), ((5, b"x"), None, 1))
    journal.names("rename", ((5, b"x"), 1, None), ((5, b"y"), None, 1))
    journal.sync_directory(5)
    # Otherwise a directory would be in two places.
    assert journal.changes == []


class Reference:
    """The required content of a disk, without a journal: of each name and byte every value since the last sync."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.now: dict[tuple[int, bytes], int] = {}
        #: By name, its values, each with the directories without a later sync.
        self.values: dict[tuple[int, bytes], list[tuple[int | None, set[int]]]] = {}
        #: All names after each change since the last sync.
        self.snapshots: list[dict[tuple[int, bytes], int]] = [{}]
        self.content: dict[int, bytes] = {}
        #: By file, the values of each byte since its fsync.
        self.bytes: dict[int, list[set[int]]] = {}
        self.linked: set[int] = set()

    def names(self, op: str, *changes: tuple[tuple[int, bytes], int | None]) -> None:
        self.journal.names(op, *((key, self.now.get(key), new) for key, new in changes))
        unsynced = {key[0] for key, _unused in changes}
        for key, new in changes:
            self.values.setdefault(key, [(None, set())]).append((new, unsynced))
            if new is None:
                del self.now[key]
            else:
                self.now[key] = new
        self.snapshots.append(dict(self.now))

    def create(self, fid: int, key: tuple[int, bytes]) -> None:
        self.content[fid], self.bytes[fid] = bytes(4), [{0} for _unused in range(4)]
        self.names("create", (key, fid))

    def link(self, fid: int, key: tuple[int, bytes]) -> None:
        self.linked.add(fid)
        self.names("link", (key, fid))

    def write(self, fid: int, offset: int, data: bytes) -> None:
        old = self.content[fid]
        self.journal.content(fid, offset, data, old[offset : offset + len(data)], len(old))
        self.content[fid] = old[:offset] + data + old[offset + len(data) :]
        for number, byte in enumerate(data, offset):
            self.bytes[fid][number].add(byte)

    def fsync(self, fid: int) -> None:
        self.journal.sync(fid)
        self.bytes[fid] = [{byte} for byte in self.content[fid]]
        self.snapshots = [dict(self.now)]

    def fsyncdir(self, directory: int) -> None:
        self.journal.sync_directory(directory)
        for values in self.values.values():
            for _unused, unsynced in values:
                unsynced.discard(directory)
        self.snapshots = [dict(self.now)]

    def sync(self) -> None:
        self.journal.sync_all()
        for fid, content in self.content.items():
            self.bytes[fid] = [{byte} for byte in content]
        for values in self.values.values():
            for _unused, unsynced in values:
                unsynced.clear()
        self.snapshots = [dict(self.now)]

    def possible(self, key: tuple[int, bytes]) -> set[int | None]:
        values = self.values[key]
        durable = max(number for number, (_unused, unsynced) in enumerate(values) if not unsynced)
        return {value for value, _unused in values[durable:]}

    def check(self, states: CrashStates, state: State) -> None:
        after, names = dict(self.now), states.names
        for key, (now, target) in states.entries(state).items():
            assert self.now.get(key) == now
            after.pop(key, None)
            if target is not None:
                after[key] = target
        if names == "none":
            assert after == self.now
        elif names == "ordered":
            assert after in self.snapshots
        else:
            assert all(after.get(key) in self.possible(key) for key in self.values)
        places = [fid for fid in after.values() if fid not in self.linked]
        assert len(places) == len(set(places))
        contents = {fid: bytearray(content) for fid, content in self.content.items()}
        for fid, recipe in states.contents(state).items():
            for change in recipe.undo:
                contents[fid][change.offset : change.offset + len(change.old)] = change.old
            for offset, data in recipe.redo:
                contents[fid][offset : offset + len(data or b"")] = data or b""
            assert recipe.size == len(contents[fid])
        for fid, content in contents.items():
            assert all(byte in possible for byte, possible in zip(content, self.bytes[fid], strict=True))


#: The operations of a random history, the frequent ones several times.
OPERATIONS = (
    "create",
    "rename",
    "rename",
    "exchange",
    "unlink",
    "link",
    "write",
    "write",
    "fsync",
    "fsyncdir",
    "fsyncdir",
    "sync",
)
KEYS = [(directory, name) for directory in (100, 101, 102) for name in (b"a", b"b")]


def act_at_random(reference: Reference, chance: random.Random, fids: Iterator[int]) -> None:
    op = chance.choice(OPERATIONS)
    taken = sorted(reference.now)
    key, free = chance.choice(KEYS), [key for key in KEYS if key not in reference.now]
    if op == "sync":
        if chance.random() < 0.2:
            reference.sync()
    elif op == "fsyncdir":
        reference.fsyncdir(key[0])
    elif op == "create":
        if free:
            reference.create(next(fids), chance.choice(free))
    elif op == "link":
        if taken and free:
            reference.link(reference.now[chance.choice(taken)], chance.choice(free))
    elif taken:
        change_at_random(reference, chance, op, chance.choice(taken), key)


def change_at_random(
    reference: Reference, chance: random.Random, op: str, old: tuple[int, bytes], new: tuple[int, bytes]
) -> None:
    """Change the file with the name *old*; *new* is its name after a rename."""
    fid = reference.now[old]
    if op == "unlink":
        reference.names(op, (old, None))
    elif op == "fsync":
        reference.fsync(fid)
    elif op == "write":
        offset = chance.randrange(4)
        reference.write(fid, offset, chance.randbytes(chance.randint(1, 4 - offset)))
    elif op == "rename" and reference.now.get(new) != fid:
        reference.names(op, (old, None), (new, fid))
    elif op == "exchange" and reference.now.get(new, fid) != fid:
        reference.names(op, (old, reference.now[new]), (new, fid))


@pytest.mark.parametrize("seed", range(25))
def test_nothing_that_was_synced_is_lost_in_any_state(journal: Journal, seed: int) -> None:
    chance = random.Random(seed)
    reference = Reference(journal)
    fids = count(1)
    for _unused in range(60):
        act_at_random(reference, chance, fids)
        for names in ("none", "ordered", "strict"):
            states = CrashStates(journal, names)
            assert (states.entries(states.everything), states.contents(states.everything)) == ({}, {})
            for state in states.take(15):
                reference.check(states, state)
