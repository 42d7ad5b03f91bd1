# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Subordinate ids of one domain alone. The ids have no rights in the shares and the virtiofsd of another guest."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence

from ..._core.errors import Conflict, UnsupportedAction
from ..._core.files import read_text, write_atomic
from ..._core.plan import Action
from ..._core.records import replace
from ..._host.ids import subid
from ..._host.ids.domain_ids import (
    COUNT,
    FIRST,
    LAST,
    DomainRange,
    as_range,
    choose_start,
    read_allocations,
    write_allocations,
)
from ..._host.ids.idmap_check import is_covered
from ..._host.ids.shadow_lock import shadow_lock
from ..._model.idmap import IdMap


class DomainIds:
    """The range of the domain ``uuid``: its present range, else a free one.

    :arg user: the user that runs virtiofsd, who needs the range among its subordinate ids.
    :arg used: maps of all devices of other domains.
    :raises UnsupportedAction: this host takes subordinate ids from elsewhere than files, and grants no further
        range.
    :raises Conflict: all ranges are allocated.
    """

    def __init__(self, uuid: str, name: str, user: str, used: Iterable[IdMap], etc: str = "/etc") -> None:
        self.uuid = uuid
        self.etc = etc
        self._before = read_allocations().get(uuid)
        # Another user that runs virtiofsd takes the range over, because files have its ids.
        self.range = (
            DomainRange(name, user, self._free(user, used))
            if self._before is None
            else replace(self._before, user=user)
        )

    def _free(self, user: str, used: Iterable[IdMap]) -> int:
        pool, taken = [(FIRST, LAST - FIRST + 1)], [(one.start, one.count) for one in read_allocations().values()]
        taken += [(one.target, one.count) for one in used]
        owned = {kind: subid.ranges_of(user, kind, self.etc) for kind in subid.FILES}
        # The first range is that of all exports without a range of their own.
        taken += [(one.start, one.count) for ranges in owned.values() for one in ranges[:1]]
        source = subid.nss_source(self.etc)
        if source == "files":
            owners = subid.owner_names(user)
            lines = [
                one for name in subid.FILES.values() for one in subid.parse(read_text(os.path.join(self.etc, name)))
            ]
            taken += [(one.start, one.count) for one in lines if one.owner not in owners]
        else:
            pool = [
                (one.start, one.count) for one in owned["uid"][1:] if is_covered(owned["gid"], one.start, one.count)
            ]
        start = choose_start(self.uuid, pool, taken)
        if start is None and source != "files":
            raise UnsupportedAction(
                f"subid: no range of {COUNT} ids is free for the domain: grant {user!r} further subordinate uids "
                f"and gids, with the same numbers, where this host takes them from (subid: {source} in nsswitch.conf)."
            )
        if start is None:
            raise Conflict(
                f"subid: no range of {COUNT} ids from {FIRST} to {LAST} is free for the domain; remove exports of "
                "domains that are gone."
            )
        return start

    @property
    def map(self) -> IdMap:
        return IdMap(0, self.range.start, self.range.count)

    def prepend_to(self, action: Action | None) -> list[Action]:
        """Return ``action`` preceded by the allocation of a missing range; without ``action``, the allocation alone."""
        before, files = read_allocations(), self._missing_entries()
        if self._before == self.range and not files:
            return [] if action is None else [action]
        former = None if self._before in (None, self.range) else self._before

        def allocate() -> None:
            # The allocation comes first: nobody gets a range without an entry in the files, but an entry without an
            # allocation would be given away again.
            write_allocations({**before, self.uuid: self.range})
            if former is not None:
                _edit_entries(list(subid.FILES), self.etc, functools.partial(_without, as_range(former)), former.user)
            _edit_entries(files, self.etc, lambda ranges: [*ranges, as_range(self.range)], self.range.user)

        def take_back() -> None:
            _edit_entries(files, self.etc, functools.partial(_without, as_range(self.range)), self.range.user)
            if former is not None:
                _edit_entries(list(subid.FILES), self.etc, lambda ranges: [*ranges, as_range(former)], former.user)
            write_allocations(before)

        def prepare() -> Callable[[], None]:
            allocate()
            return take_back

        if action is not None:
            return [replace(action, prepare=(prepare, *action.prepare))]
        return [
            Action(
                "grant subordinate ids",
                f"user {self.range.user!r}",
                None,
                str(as_range(self.range)),
                allocate,
                take_back,
            )
        ]

    def _missing_entries(self) -> list[str]:
        """Return the kinds of ids (``uid``, ``gid``) of which the user lacks the range."""
        return [
            kind
            for kind in subid.FILES
            if not is_covered(subid.ranges_of(self.range.user, kind, self.etc), self.range.start, self.range.count)
        ]


def check_foreign_ranges(uuid: str, maps: Sequence[IdMap]) -> None:
    """Refuse maps into the range of another domain.

    :raises Conflict: naming the map and the domain.
    """
    for other, found in read_allocations().items():
        for one in maps:
            if other != uuid and found.overlaps(one.target, one.count):
                raise Conflict(
                    f"The map {str(one)!r} leads into the ids {found.start}:{found.count} of the domain "
                    f"{found.name!r} alone."
                )


def free_ranges(name: str, known: set[str], uuid: str | None, used: Sequence[IdMap], etc: str = "/etc") -> None:
    """Free the range of a domain that no export of it uses.

    :arg name: name of the domain; also ranges of earlier domains with this name are freed.
    :arg known: UUIDs of the domains of this host.
    :arg uuid: the domain's; ``None`` where it is gone.
    :arg used: maps of the devices that the domain still has.
    """
    allocated = read_allocations()
    gone = {
        key: one
        for key, one in allocated.items()
        if (key == uuid and not any(one.overlaps(found.target, found.count) for found in used))
        or (one.name == name and key not in known)
    }
    if not gone:
        return
    for one in gone.values():
        _edit_entries(list(subid.FILES), etc, functools.partial(_without, as_range(one)), one.user)
    write_allocations({key: one for key, one in allocated.items() if key not in gone})


def _edit_entries(
    kinds: Sequence[str], etc: str, edit: Callable[[list[subid.SubidRange]], list[subid.SubidRange]], user: str
) -> None:
    """Change the entries of a user in subuid(5) and subgid(5); do nothing if this host takes subordinate ids from
    elsewhere.
    """
    if not kinds or subid.nss_source(etc) != "files":
        return
    paths = [os.path.join(etc, subid.FILES[kind]) for kind in kinds]
    owners = subid.owner_names(user)
    with shadow_lock(*paths):
        for path in paths:
            text = read_text(path)
            ranges = [one for one in subid.parse(text) if one.owner in owners]
            after = edit(ranges)
            if after != ranges:
                write_atomic(path, subid.replace_entries(text, owners, after).encode("utf-8", "surrogateescape"))


def _without(gone: subid.SubidRange, ranges: list[subid.SubidRange]) -> list[subid.SubidRange]:
    return [one for one in ranges if (one.start, one.count) != (gone.start, gone.count)]


__all__ = ["DomainIds", "check_foreign_ranges", "free_ranges"]
