# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The possible states of a disk after a crash: the sets of pieces of pending changes on the disk.

The module is pure, like the journal. POSIX only promises the durability of synced changes (fsync(2)). Content therefore
gets to the disk in any order, and in part:

- A write gets there page by page. A write within one page may be cut at a sector, which disks write as a whole.
- A write beyond the end also changes the size. The size grows to the end of any piece, with or without its data;
  missing data is zeros.
- Truncates, and changes of names and attributes, are on the disk as a whole or not at all. *names* decides how far the
  order of the latter two is kept (:meth:`Journal.pending`). A rename is one step.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from .journal import PAGE, Attribute, Attributes, Change, Content, Journal, Key, Names

SECTOR = 512
#: A set of pieces on the disk: bit *n* for the piece *n* of all pending ones.
State = int
#: Upper bound of counts; larger ones count as this one.
MOST = 10**100
#: Number of pieces up to which every combination is listed.
_FEW = 12
#: Number of already known states in a row after which the search for another one ends.
_VAIN = 1000
#: Upper bound of the combinations of dependent names that are tried for the count.
_TRIED = 4096


@dataclass(frozen=True)
class Piece:
    """A unit that is on the disk or not: bytes of a write from *start* to *end*, the *size* after a write (*end*), or a
    *whole* change.
    """

    change: Change
    kind: Literal["data", "size", "whole"]
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class _Step:
    """A piece in the history of one file. *number* is None for a durable piece."""

    number: int | None
    kind: str
    start: int
    end: int
    change: Content


class CrashStates:
    """The possible states after a crash at this moment."""

    def __init__(self, journal: Journal, names: str) -> None:
        self.names = names
        self.changes = list(journal.changes)
        self.pending = journal.pending(names)
        self.pieces: list[Piece] = []
        #: By number of a change, its first piece and the number of its pieces.
        self._spans: dict[int, tuple[int, int]] = {}
        self._files: dict[int, list[_Step]] = {}
        #: By file, its durable size before all changes.
        self._sizes: dict[int, int] = {}
        self._divide()
        self.everything: State = (1 << len(self.pieces)) - 1
        #: Changes that are only kept in order: the disk has a prefix of them.
        self._ordered = (
            [change for change in self.pending if not isinstance(change, Content)] if names == "ordered" else []
        )
        self._free = [change for change in self.pending if names != "ordered" or isinstance(change, Content)]

    def _divide(self) -> None:
        """Number the pieces of the pending changes, and list those of each file."""
        pending = {change.seq for change in self.pending}
        sizes: dict[int, int] = {}
        for change in self.changes:
            found = [Piece(change, "whole")]
            if isinstance(change, Content):
                size = sizes.setdefault(change.fid, self._sizes.setdefault(change.fid, change.size))
                if change.lost:
                    continue
                if change.cut is None:
                    found = _pieces(change, size)
                sizes[change.fid] = max(size, change.offset + len(change.new)) if change.cut is None else change.cut
                for number, piece in enumerate(found, len(self.pieces)):
                    kind, end = (piece.kind, piece.end) if change.cut is None else ("cut", change.cut)
                    self._files.setdefault(change.fid, []).append(
                        _Step(number if change.seq in pending else None, kind, piece.start, end, change)
                    )
            if change.seq in pending:
                self._spans[change.seq] = len(self.pieces), len(found)
                self.pieces += found

    def of(self, *numbers: int) -> State:
        """Return the state with exactly the changes of these numbers."""
        return self._of(change for change in self.pending if change.seq in numbers)

    def _of(self, changes: Iterable[Change]) -> State:
        found = 0
        for change in changes:
            found |= self._mask(change)
        return found

    def _mask(self, change: Change) -> State:
        first, number = self._spans.get(change.seq, (0, 0))
        return ((1 << number) - 1) << first

    def parts(self, state: State, change: Change) -> list[Piece]:
        """Return the pieces of *change* in *state*."""
        first, number = self._spans[change.seq]
        there = state >> first
        return [self.pieces[first + each] for each in range(number) if there >> each & 1]

    def _unpack(self, state: State) -> list[bool]:
        """Return for each piece True if *state* has it."""
        return [digit == "1" for digit in f"{state:0{len(self.pieces)}b}"[::-1]]

    def whole(self, state: State, change: Change) -> bool:
        """Return True if *state* has all of *change*. A change that isn't pending is in every state."""
        mask = self._mask(change)
        return state & mask == mask and not (isinstance(change, Content) and change.lost)

    # Choice

    def one(self, keep: str, seed: int = 0, count: int | None = None) -> State:
        """Return one state. *keep* is none (nothing pending), prefix (the first *count* changes, by default a random
        number), subset (random pieces), or torn (a prefix and some pieces of the next write).
        """
        if keep == "none":
            return 0
        if keep == "subset":
            return self._sample(seed)
        chance = random.Random(f"prefix {seed}")
        number = chance.randrange(len(self.pending) + 1) if count is None else min(count, len(self.pending))
        first = self._of(self.pending[:number])
        if keep == "torn":
            for change in self.pending[number:]:
                if len(self._split(change)[0]) > 1:
                    return first | self._tear(change, chance)
        return first

    def take(self, limit: int, seed: int = 0) -> list[State]:
        """Return at most *limit* different states: nothing, everything, and disorder first, then families of states in
        turns.

        One family is random by *seed*. States that differ only in invisible pieces, such as an overwritten page, count
        as one.
        """
        seen: set[State] = set()
        found: list[State] = []
        most, vain, few = min(limit, self.count()[0]), 0, len(self.pieces) <= _FEW
        for state in self._candidates(seed, few):
            vain += 1
            if (visible := self.visible(state)) not in seen:
                vain = 0
                seen.add(visible)
                found.append(state)
            if len(found) == most or (vain > _VAIN and not few):
                break
        return found

    def _candidates(self, seed: int, few: bool) -> Iterator[State]:
        yield 0
        yield self.everything
        yield from self._kinds()
        families = [self._pairs(), self._torn(), self._prefixes(), self._all_but_one()]
        if few:
            yield from _in_turn(families)
            yield from self._all()
        else:
            yield from _in_turn([*families, (self._sample(seed, number) for number in itertools.count())])

    def _kinds(self) -> Iterator[State]:
        """Yield names and attributes without content but with sizes, without sizes, and content without names."""
        content = self._of(change for change in self.pending if isinstance(change, Content))
        yield int("0" + "".join("0" if piece.kind == "data" else "1" for piece in reversed(self.pieces)), 2)
        yield self.everything & ~content
        yield content

    def _pairs(self) -> Iterator[State]:
        """Yield states such that for every two changes, one state has only the first and one only the second.

        Two states per binary digit of the number of changes suffice.
        """
        units = [self._mask(change) for change in self._free]
        if self._ordered:
            units.append(self._of(self._ordered))
        for digit in range((len(units) - 1).bit_length() if units else 0):
            chosen = 0
            for number, unit in enumerate(units):
                if number >> digit & 1:
                    chosen |= unit
            yield chosen
            yield self.everything & ~chosen

    def _torn(self) -> Iterator[State]:
        """Yield parts of one write, after all earlier changes and beside all others.

        The last write is first, because each earlier write was the last in an earlier crash.
        """
        writes = [(number, change) for number, change in enumerate(self.pending) if len(self._split(change)[0]) > 1]
        for which in [len(writes) - 1, *_spread(len(writes) - 1)] if writes else []:
            number, change = writes[which]
            before, others = self._of(self.pending[:number]), self.everything & ~self._mask(change)
            for part in self._tears(change):
                yield before | part
                yield others | part

    def _tears(self, change: Change) -> Iterator[State]:
        data, sizes = self._split(change)
        yield _bits(sizes)
        yield _bits(sizes + data[::2])
        yield _bits(sizes + data[1::2])
        for cut in _spread(len(data)):
            # Everything before the page with its size, all but the page, and only the page.
            yield _bits(data[:cut] + [size for size in sizes if self.pieces[size].end <= self.pieces[data[cut]].start])
            yield _bits(sizes + data[:cut] + data[cut + 1 :])
            yield _bits([*sizes, data[cut]])

    def _split(self, change: Change) -> tuple[list[int], list[int]]:
        """Return the numbers of the data pieces of a write, and those of its sizes."""
        found: tuple[list[int], list[int]] = ([], [])
        first, number = self._spans[change.seq]
        for each in range(first, first + number):
            if self.pieces[each].kind != "whole":
                found[self.pieces[each].kind == "size"].append(each)
        return found

    def _tear(self, change: Change, chance: random.Random) -> State:
        """Return some pieces of a write, neither none nor all of its data."""
        data, sizes = self._split(change)
        chosen = chance.sample(data, chance.randrange(1, len(data)))
        return _bits(chosen + sizes[: chance.randrange(len(sizes) + 1)])

    def _prefixes(self) -> Iterator[State]:
        yield from (self._of(self.pending[:number]) for number in _spread(len(self.pending)))

    def _all_but_one(self) -> Iterator[State]:
        yield from (self.everything & ~self._mask(self._free[number]) for number in _spread(len(self._free)))

    def _sample(self, *seed: int) -> State:
        """Return a random state in which each change is present, missing, or present in part."""
        chance = random.Random(" ".join(map(str, seed)))
        state = self._of(self._ordered[: chance.randrange(len(self._ordered) + 1)])
        for change in self._free:
            drawn = chance.random()
            if drawn < 0.4:
                state |= self._mask(change)
            elif drawn > 0.8 and len(self._split(change)[0]) > 1:
                state |= self._tear(change, chance)
        return state

    def _all(self) -> Iterator[State]:
        """Yield every combination."""
        ordered = [self._of(self._ordered[:number]) for number in range(len(self._ordered) + 1)]
        for state in range(1 << len(self.pieces)):
            if state & ordered[-1] in ordered:
                yield state

    # Visibility

    def visible(self, state: State) -> State:
        """Return *state* without invisible pieces: overwritten, beyond the end, or impossible without others."""
        kept, there = state, self._unpack(state)
        for fid, steps in self._files.items():
            kept &= ~_bits(_find_invisible(steps, self._sizes[fid], there))
        if self.names == "strict":
            for names, applied in self._names(state):
                if not applied:
                    kept &= ~self._mask(names)
            later: set[tuple[int, Attribute]] = set()
            for change in reversed(self.changes):
                if isinstance(change, Attributes) and self.whole(state, change):
                    found = {(change.fid, name) for name, _unused, _unused in change.changes}
                    if found <= later:
                        kept &= ~self._mask(change)
                    later |= found
        return kept

    # Count

    def count(self) -> tuple[int, bool]:
        """Return the number of different states, at most :data:`MOST`, and True if the number is exact.

        An inexact number is an upper bound. The number is exact if no file is truncated, and any two writes to a file
        have equal or disjoint ranges.
        """
        total, exact = len(self._ordered) + 1, True
        groups = [_count_content(steps, self._sizes[fid]) for fid, steps in self._files.items()]
        if self.names == "strict":
            groups += [*self._count_names(), *self._count_attributes()]
        for number, known in groups:
            total, exact = min(total * number, MOST), exact and known
        return total, exact and total < MOST

    def _count_attributes(self) -> Iterator[tuple[int, bool]]:
        versions: dict[tuple[int, frozenset[Attribute]], int] = {}
        for change in self.changes:
            if isinstance(change, Attributes):
                key = (change.fid, frozenset(name for name, _unused, _unused in change.changes))
                versions[key] = versions.get(key, 0) + 1 if change.seq in self._spans else 0
        for (fid, names), number in versions.items():
            yield number + 1, not any(fid == other and names != others and names & others for other, others in versions)

    def _count_names(self) -> Iterator[tuple[int, bool]]:
        """Yield the counts of groups of names that are independent of each other."""
        group: dict[Key, list[Names]] = {}
        for change in self.changes:
            if isinstance(change, Names):
                joined = [change]
                for key, _unused, _unused in change.changes:
                    if (found := group.get(key)) is not None and found is not joined:
                        joined = found + joined
                for other in joined:
                    group.update((key, joined) for key, _unused, _unused in other.changes)
        for changes in {id(found): found for found in group.values()}.values():
            changes.sort(key=lambda change: change.seq)
            pending = sum(change.seq in self._spans for change in changes)
            number = self._combinations(changes)
            yield (number, True) if number else (2**pending, False)

    def _combinations(self, changes: list[Names]) -> int:
        """Return the number of possible choices of *changes*; 0 for more than can be tried."""
        states: list[dict[Key, int | None]] = [
            {key: old for change in reversed(changes) for key, old, _unused in change.changes}
        ]
        for change in changes:
            after = []
            for target in states:
                pending = change.seq in self._spans
                fits = not pending or all(target[key] == old for key, old, _unused in change.changes)
                if fits:
                    after.append({**target, **{key: new for key, _unused, new in change.changes}})
                if pending:
                    after.append(target)
            states = after
            if len(states) > _TRIED:
                return 0
        return len(states)

    # Meaning of a state

    def _names(self, state: State) -> Iterator[tuple[Names, bool]]:
        """Yield each change of names in *state*, and True if it has an effect, because the changes below it are in
        *state*.
        """
        target: dict[Key, int | None] = {}
        for change in self.changes:
            if isinstance(change, Names):
                for key, old, _unused in change.changes:
                    target.setdefault(key, old)
                if self.whole(state, change):
                    applied = change.durable or all(target[key] == old for key, old, _unused in change.changes)
                    if applied:
                        target.update((key, new) for key, _unused, new in change.changes)
                    yield change, applied

    def entries(self, state: State) -> dict[Key, tuple[int | None, int | None]]:
        """Return the directory entries that differ: by key, the current fid and the one in *state*."""
        base: dict[Key, int | None] = {}
        now: dict[Key, int | None] = {}
        for change in self.changes:
            if isinstance(change, Names):
                for key, old, new in change.changes:
                    base.setdefault(key, old)
                    now[key] = new
        target = dict(base)
        for change, applied in self._names(state):
            if applied:
                target.update((key, new) for key, _unused, new in change.changes)
        return {key: (now[key], target[key]) for key in base if now[key] != target[key]}

    def attribute_values(self, state: State) -> dict[int, dict[Attribute, object]]:
        """Return by fid the attributes that differ, with their values in *state*."""
        now: dict[tuple[int, Attribute], object] = {}
        target: dict[tuple[int, Attribute], object] = {}
        for change in self.changes:
            if isinstance(change, Attributes):
                survived = self.whole(state, change)
                for name, old, new in change.changes:
                    key = (change.fid, name)
                    now[key] = new
                    target.setdefault(key, old)
                    if survived:
                        target[key] = new
        values: dict[int, dict[Attribute, object]] = {}
        for (fid, name), value in target.items():
            if value != now[fid, name]:
                values.setdefault(fid, {})[name] = value
        return values

    def contents(self, state: State) -> dict[int, Recipe]:
        """Return by fid the steps from the current content to the content in *state*."""
        there = self._unpack(state)
        recipes: dict[int, Recipe] = {}
        files: dict[int, list[Content]] = {}
        for change in self.changes:
            if isinstance(change, Content):
                files.setdefault(change.fid, []).append(change)
        for fid, changes in files.items():
            if all(self.whole(state, change) for change in changes):
                continue
            recipe = recipes[fid] = Recipe(changes[::-1], [], self._sizes[fid])
            for step in self._files.get(fid, []):
                if step.number is not None and not there[step.number]:
                    continue
                change = step.change
                if step.kind == "data":
                    recipe.redo.append((step.start, change.new[step.start - change.offset : step.end - change.offset]))
                elif step.kind == "size":
                    recipe.size = max(recipe.size, step.end)
                else:
                    recipe.redo.append((step.end, None))
                    recipe.size = step.end
        return recipes


@dataclass
class Recipe:
    """The steps to a content: undo the changes *undo*, apply *redo* (bytes at an offset, None: cut), set *size*."""

    undo: list[Content]
    redo: list[tuple[int, bytes | None]]
    size: int


def _pieces(change: Content, size: int) -> list[Piece]:
    """Return the pieces of a write to a file of *size* bytes."""
    start, end = change.offset, change.offset + len(change.new)
    cuts = [start, *range(start - start % PAGE + PAGE, end, PAGE), end]
    if len(cuts) == 2 and (sectors := range(start - start % SECTOR + SECTOR, end, SECTOR)):
        cuts.insert(1, sectors[len(sectors) // 2])
    ranges = list(itertools.pairwise(cuts))
    return [
        *(Piece(change, "data", first, last) for first, last in ranges),
        *(Piece(change, "size", size, last) for _unused, last in ranges if last > size),
    ]


def _find_invisible(steps: list[_Step], size: int, alive: list[bool]) -> list[int]:
    """Return the invisible ones among the pieces of a file."""
    deciding: _Step | None = None
    there = [step for step in steps if step.number is None or alive[step.number]]
    for step in there:
        if step.kind == "cut" or (step.kind == "size" and step.end > size):
            size, deciding = step.end, step
    hidden: list[int | None] = []
    end = size
    covered: set[tuple[int, int]] = set()
    for step in reversed(there):
        if step.kind == "cut":
            end = min(end, step.end)
        elif step.kind == "data":
            if step.start >= end or (step.start, step.end) in covered:
                hidden.append(step.number)
            covered.add((step.start, step.end))
        elif step is not deciding:
            hidden.append(step.number)
    return [number for number in hidden if number is not None]


def _count_content(steps: list[_Step], size: int) -> tuple[int, bool]:
    """Return the number of possible contents of a file, and True if it is exact."""
    sizes = {size}
    versions: dict[tuple[int, int], int] = {}
    for step in steps:
        if step.kind == "data":
            key = (step.start, step.end)
            versions[key] = versions.get(key, 0) + 1 if step.number is not None else 0
        elif step.kind == "size":
            if step.number is None:
                sizes = {max(known, step.end) for known in sizes}
            sizes.add(step.end)
    ranges = sorted(versions)
    if any(step.kind == "cut" for step in steps) or any(
        first[1] > second[0] for first, second in itertools.pairwise(ranges)
    ):
        return min(1 << sum(step.number is not None for step in steps), MOST), False
    total, contents, position = 0, 1, 0
    for end in sorted(sizes):
        while position < len(ranges) and ranges[position][0] < end:
            contents = min(contents * (versions[ranges[position]] + 1), MOST)
            position += 1
        total += contents
    return min(total, MOST), True


def _bits(numbers: list[int]) -> State:
    """Return the state with the pieces of these numbers."""
    if not numbers:
        return 0
    digits = bytearray(b"0" * (max(numbers) + 1))
    for number in numbers:
        digits[~number] = 0x31
    return int(digits, 2)


def _in_turn(families: list[Iterator[State]]) -> Iterator[State]:
    waiting = list(families)
    while waiting:
        for family in tuple(waiting):
            try:
                yield next(family)
            except StopIteration:
                waiting.remove(family)


def _spread(number: int) -> Iterator[int]:
    """Yield the numbers below *number* so that the first ones are far apart: by their reversed binary digits."""
    digits = max(number - 1, 0).bit_length()
    for each in range(1 << digits if number > 0 else 0):
        found = int(f"{each:0{digits}b}"[::-1], 2) if digits else 0
        if found < number:
            yield found


__all__ = ["MOST", "CrashStates", "Piece", "Recipe", "State"]
