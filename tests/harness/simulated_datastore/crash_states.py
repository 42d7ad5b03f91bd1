# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The states a disk may be in after a crash: which pieces of the pending changes are on it. Pure, as the journal is.

POSIX promises nothing but what was synced (fsync(2)), so content is on the disk in any order, and in part. A write
gets there page by page; one within a page may be cut at a sector, which disks write as a whole. A write beyond the
end also changes the size, which grows at the end of any of its pieces, whether their data is there or not: what
isn't is zeros. Truncates, names and attributes are there or not; how far the order of the latter two is kept is what
*names* says (:meth:`Journal.pending`). A rename is one step.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from .journal import PAGE, Attribute, Attributes, Change, Content, Journal, Key, Names

SECTOR = 512
#: Which pieces are there: bit *n* for the piece *n* of all that is pending.
State = int
#: Counts above count as this one.
MOST = 10**100
#: With at most so many pieces every combination is listed.
_FEW = 12
#: How many states in a row may be known already before the search for another one ends.
_VAIN = 1000
#: How many combinations of names that depend on each other are looked at to count them.
_TRIED = 4096


@dataclass(frozen=True)
class Piece:
    """What is on the disk or isn't: bytes of a write from *start* to *end*, the *size* of the file that a write has
    led to (*end*), or a *whole* change.
    """

    change: Change
    kind: Literal["data", "size", "whole"]
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class _Step:
    """A piece in the life of one file. Its *number* is None for what is on the disk in any case."""

    number: int | None
    kind: str
    start: int
    end: int
    change: Content


class CrashStates:
    """The states after a crash now."""

    def __init__(self, journal: Journal, names: str) -> None:
        self.names = names
        self.changes = list(journal.changes)
        self.pending = journal.pending(names)
        self.pieces: list[Piece] = []
        #: By number of a change, its first piece and how many there are.
        self._spans: dict[int, tuple[int, int]] = {}
        self._files: dict[int, list[_Step]] = {}
        #: The size that a file certainly had before all that.
        self._sizes: dict[int, int] = {}
        self._divide()
        self.everything: State = (1 << len(self.pieces)) - 1
        #: What can only be there up to some point, in order.
        self._ordered = (
            [change for change in self.pending if not isinstance(change, Content)] if names == "ordered" else []
        )
        self._free = [change for change in self.pending if names != "ordered" or isinstance(change, Content)]

    def _divide(self) -> None:
        """Number the pieces of what is pending, and list those of each file."""
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
        """The changes with these numbers, whole, and nothing else."""
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
        """The pieces of *change* that are there."""
        first, number = self._spans[change.seq]
        there = state >> first
        return [self.pieces[first + each] for each in range(number) if there >> each & 1]

    def _there(self, state: State) -> list[bool]:
        """Of each piece, whether it is there."""
        return [digit == "1" for digit in f"{state:0{len(self.pieces)}b}"[::-1]]

    def whole(self, state: State, change: Change) -> bool:
        """Whether all of *change* is there, as what isn't pending is in any case."""
        mask = self._mask(change)
        return state & mask == mask and not (isinstance(change, Content) and change.lost)

    # Choice

    def one(self, keep: str, seed: int = 0, count: int | None = None) -> State:
        """Nothing that is pending is there (none), the first *count* changes (prefix; default by *seed*), some of
        all pieces (subset), or the first *count* changes and of the next write some pieces (torn).
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
        """At most *limit* different states: nothing, everything, and what was not in order; then families of states
        take turns, one of them by chance of
        *seed*. What differs only in what nobody can see, such as a page that is overwritten later, is the same
        state.
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
        """Names and attributes without content, with sizes, and content without names."""
        content = self._of(change for change in self.pending if isinstance(change, Content))
        yield int("0" + "".join("0" if piece.kind == "data" else "1" for piece in reversed(self.pieces)), 2)
        yield self.everything & ~content
        yield content

    def _pairs(self) -> Iterator[State]:
        """For every two changes, a state that has the first only and one that has the second only, all in two for
        each digit of how many there are.
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
        """A part of one write, after all that was before it and beside everything else; the last write first, as the
        others were it in earlier crashes.
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
            # Up to there, with the size of there; without one piece; and with only that.
            yield _bits(data[:cut] + [size for size in sizes if self.pieces[size].end <= self.pieces[data[cut]].start])
            yield _bits(sizes + data[:cut] + data[cut + 1 :])
            yield _bits([*sizes, data[cut]])

    def _split(self, change: Change) -> tuple[list[int], list[int]]:
        """The numbers of the pieces of a write that are data, and of those that are a size."""
        found: tuple[list[int], list[int]] = ([], [])
        first, number = self._spans[change.seq]
        for each in range(first, first + number):
            if self.pieces[each].kind != "whole":
                found[self.pieces[each].kind == "size"].append(each)
        return found

    def _tear(self, change: Change, chance: random.Random) -> State:
        """Some pieces of a write, neither none nor all of its data."""
        data, sizes = self._split(change)
        chosen = chance.sample(data, chance.randrange(1, len(data)))
        return _bits(chosen + sizes[: chance.randrange(len(sizes) + 1)])

    def _prefixes(self) -> Iterator[State]:
        yield from (self._of(self.pending[:number]) for number in _spread(len(self.pending)))

    def _all_but_one(self) -> Iterator[State]:
        yield from (self.everything & ~self._mask(self._free[number]) for number in _spread(len(self._free)))

    def _sample(self, *seed: int) -> State:
        """By chance, each change is there, isn't, or is there in part."""
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
        """Every combination."""
        ordered = [self._of(self._ordered[:number]) for number in range(len(self._ordered) + 1)]
        for state in range(1 << len(self.pieces)):
            if state & ordered[-1] in ordered:
                yield state

    # What can be seen

    def visible(self, state: State) -> State:
        """*state* without the pieces that make no difference: overwritten, beyond the end, or impossible without
        others.
        """
        kept, there = state, self._there(state)
        for fid, steps in self._files.items():
            kept &= ~_bits(_hidden(steps, self._sizes[fid], there))
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

    # How many there are

    def count(self) -> tuple[int, bool]:
        """How many different states there are, at most :data:`MOST`, and whether that is exact; else it is how many
        there could be at most. It is exact where writes to a file concern the same bytes or none that the other
        does, and nothing is truncated.
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
        """Of names that have nothing to do with each other, each group by itself."""
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
        """How many choices of *changes* are possible; 0 when that are too many to look at."""
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

    # What a state means

    def _names(self, state: State) -> Iterator[tuple[Names, bool]]:
        """Each change of names that is there, and whether it has an effect: only if what it builds on is there."""
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
        """The directory entries that differ: by key, the fid that is there now and the one there will be."""
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
        """By fid, the attributes that will have another value than now, and that value."""
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
        """By fid, how the content that is there now becomes the one there will be."""
        there = self._there(state)
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
    """Undo the changes *undo*, do *redo* again (bytes at an offset; None: cut there), and at last set the *size*:
    data beyond it is lost.
    """

    undo: list[Content]
    redo: list[tuple[int, bytes | None]]
    size: int


def _pieces(change: Content, size: int) -> list[Piece]:
    """Of a write to a file that was *size* bytes long."""
    start, end = change.offset, change.offset + len(change.new)
    cuts = [start, *range(start - start % PAGE + PAGE, end, PAGE), end]
    if len(cuts) == 2 and (sectors := range(start - start % SECTOR + SECTOR, end, SECTOR)):
        cuts.insert(1, sectors[len(sectors) // 2])
    ranges = list(itertools.pairwise(cuts))
    return [
        *(Piece(change, "data", first, last) for first, last in ranges),
        *(Piece(change, "size", size, last) for _unused, last in ranges if last > size),
    ]


def _hidden(steps: list[_Step], size: int, alive: list[bool]) -> list[int]:
    """The pieces of a file that are there and make no difference."""
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
    """How many contents a file can have, and whether that is exact."""
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
    """The state that has the pieces with these numbers."""
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
    """The numbers below *number*, so that the first of them are far from each other: by their binary digits in
    reverse.
    """
    digits = max(number - 1, 0).bit_length()
    for each in range(1 << digits if number > 0 else 0):
        found = int(f"{each:0{digits}b}"[::-1], 2) if digits else 0
        if found < number:
            yield found


__all__ = ["MOST", "CrashStates", "Piece", "Recipe", "State"]
