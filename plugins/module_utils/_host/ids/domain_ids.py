# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ranges of subordinate ids, each for one domain: the allocated ranges, and the choice of a new one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence

from ..._core.errors import FileAccessFailed
from ..._core.files import read_text
from ..._core.plain import to_plain
from ..._core.records import dataclass
from ..root_state import DIRECTORY, write_state
from .subid import SubidRange

ALLOCATIONS = os.path.join(DIRECTORY, "domain_ids.json")

#: Number of ids of one domain: as many as the spec gives to all domains together.
COUNT = 65536

#: Bounds of the ids that a domain can get on a host that takes subordinate ids from files. useradd(8) allocates up to
#: 600100000, systemd-nspawn up to 1879048191, and systemd keeps 2147352576 for files of other hosts (systemd:
#: docs/UIDS-GIDS.md).
FIRST, LAST = 1879048192, 2147352575


@dataclass(frozen=True)
class DomainRange:
    """``count`` user ids and the group ids with the same numbers from ``start`` on, subordinate ids of ``user`` for the
    domain ``name``.
    """

    name: str
    user: str
    start: int
    count: int = COUNT

    def overlaps(self, start: int, count: int) -> bool:
        return start < self.start + self.count and self.start < start + count


def read_allocations() -> dict[str, DomainRange]:
    """Return the allocated ranges by UUID of their domain.

    :raises FileAccessFailed: the file can't be read, or its content is invalid.
    """
    text = read_text(ALLOCATIONS)
    try:
        return {uuid: DomainRange(**one) for uuid, one in json.loads(text or "{}").items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise FileAccessFailed(f"{ALLOCATIONS} holds no ranges of domains: {error}.") from error


def write_allocations(allocations: Mapping[str, DomainRange]) -> None:
    """Replace the allocated ranges.

    :raises NoSpace: the file system is full; :raises FileAccessFailed: any other refusal.
    """
    write_state(
        ALLOCATIONS,
        json.dumps({uuid: to_plain(one) for uuid, one in allocations.items()}, indent=1, sort_keys=True).encode(
            "ascii"
        ),
    )


def choose_start(uuid: str, pool: Sequence[tuple[int, int]], taken: Iterable[tuple[int, int]]) -> int | None:
    """Return the first id of a free range; ``None`` when no range is free.

    The UUID determines the start of the search. So a domain gets the same ids on every host, and gets them again after
    its exports were removed, unless another domain has them.

    :arg pool: the ids to choose from, each entry a first id and a count.
    :arg taken: the ids in use, in the same form.
    """
    starts = [start for first, count in pool for start in range(first, first + count - COUNT + 1, COUNT)]
    used = list(taken)
    place = int.from_bytes(hashlib.sha256(uuid.encode()).digest()[:8], "big") % max(len(starts), 1)
    return next(
        (
            one
            for one in starts[place:] + starts[:place]
            if not any(one < first + count and first < one + COUNT for first, count in used)
        ),
        None,
    )


def as_range(one: DomainRange) -> SubidRange:
    """Return the range as an entry of subuid(5)."""
    return SubidRange(one.user, one.start, one.count)


__all__ = [
    "ALLOCATIONS",
    "COUNT",
    "FIRST",
    "LAST",
    "DomainRange",
    "as_range",
    "choose_start",
    "read_allocations",
    "write_allocations",
]
