# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ranges of subordinate ids that belong to one domain each: which are allocated, and which one is next."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from .._core.errors import FileAccessFailed
from .._core.files import read_text
from .root_state import DIRECTORY, write_state
from .subid import SubidRange

ALLOCATIONS = os.path.join(DIRECTORY, "domain_ids.json")

#: Ids of one domain: as many as the spec gives to all domains together.
COUNT = 65536

#: First and last id that a domain can get on a host that takes subordinate ids from files. useradd(8) allocates up to 600100000,
#: systemd-nspawn up to 1879048191, and systemd keeps 2147352576 for files of other hosts (systemd: docs/UIDS-GIDS.md).
FIRST, LAST = 1879048192, 2147352575


@dataclass(frozen=True)
class DomainRange:
    """``count`` user ids and the group ids with the same numbers from ``start`` on, subordinate ids of ``user`` for the domain ``name``."""

    name: str
    user: str
    start: int
    count: int = COUNT

    def overlaps(self, start: int, count: int) -> bool:
        return start < self.start + self.count and self.start < start + count


@dataclass(frozen=True)
class Allocations:
    """The ranges by UUID of their domain. ``last`` is the first id of the range that was allocated last."""

    last: int = 0
    domains: Mapping[str, DomainRange] = field(default_factory=dict)

    def with_range(self, uuid: str, wanted: DomainRange) -> Allocations:
        return Allocations(wanted.start, {**self.domains, uuid: wanted})

    def without(self, uuids: Iterable[str]) -> Allocations:
        gone = set(uuids)
        return Allocations(self.last, {uuid: one for uuid, one in self.domains.items() if uuid not in gone})


def read_allocations() -> Allocations:
    """:raises FileAccessFailed: the file can't be read, or holds something else."""
    text = read_text(ALLOCATIONS)
    if not text:
        return Allocations()
    try:
        data = json.loads(text)
        return Allocations(data["last"], {uuid: DomainRange(**one) for uuid, one in data["domains"].items()})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FileAccessFailed(f"{ALLOCATIONS} holds no ranges of domains: {error}.") from error


def write_allocations(wanted: Allocations) -> None:
    """:raises NoSpace: the file system is full; :raises FileAccessFailed: any other refusal."""
    write_state(ALLOCATIONS, json.dumps(asdict(wanted), indent=1, sort_keys=True).encode("ascii"))


def next_start(last: int, pool: Sequence[tuple[int, int]], taken: Iterable[tuple[int, int]]) -> int | None:
    """Return the first id of the next free range; ``None`` when no range is free.

    The ids of a removed export come last: files with them may be left.

    :arg last: first id of the range that was allocated last.
    :arg pool: the ids to choose from, each entry a first id and a count.
    :arg taken: ids that somebody has, likewise.
    """
    used = list(taken)
    free = [start for start in _starts(pool) if not any(start < first + count and first < start + COUNT for first, count in used)]
    return min(free, key=lambda start: (start <= last, start), default=None)


def _starts(pool: Sequence[tuple[int, int]]) -> Iterator[int]:
    for first, count in pool:
        yield from range(first, first + count - COUNT + 1, COUNT)


def as_range(one: DomainRange) -> SubidRange:
    """Return the range as an entry of subuid(5)."""
    return SubidRange(one.user, one.start, one.count)


__all__ = ["ALLOCATIONS", "COUNT", "FIRST", "LAST", "Allocations", "DomainRange", "as_range", "next_start", "read_allocations", "write_allocations"]
