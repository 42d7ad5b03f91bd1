# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether this host lets a user map what a virtiofs export maps (newuidmap(1)), found out before a guest would."""

from __future__ import annotations

import pwd
import shutil
from collections.abc import Sequence

from ..._core.errors import DependencyNotFound
from ..._model.idmap import IdMap
from . import subid
from .domain_ids import read_allocations

#: The spec's range, named in the line to add where a user has none.
SPEC_RANGE = (100000, 65536)


def check_account(user: str) -> None:
    """:raises DependencyNotFound: this host has no such account."""
    try:
        pwd.getpwnam(user)
    except (KeyError, ValueError) as error:  # ValueError: no name of an account can be like this
        raise DependencyNotFound(
            f"service_user: this host has no account {user!r}; the role granary.vmstore.hypervisor makes it."
        ) from error


def check_tools() -> None:
    """:raises DependencyNotFound: newuidmap or newgidmap isn't installed."""
    for tool in ("newuidmap", "newgidmap"):
        if shutil.which(tool) is None:
            raise DependencyNotFound(
                f"The program {tool} is not installed on this host and no id can be mapped without it: install the "
                "package uidmap."
            )


def default_map(user: str, kind: str, etc: str = "/etc") -> IdMap:
    """Guest id 0 on the first id of the user's first range that no domain has for itself, for the whole of that
    range.

    :arg kind: ``uid`` or ``gid``.
    :raises DependencyNotFound: the user has no range; the message says which line to add.
    """
    own = {(one.start, one.count) for one in read_allocations().values()}
    ranges = [one for one in subid.ranges_of(user, kind, etc) if (one.start, one.count) not in own]
    if not ranges:
        raise DependencyNotFound(
            f"The user {user!r} has no subordinate {kind}s: {_remedy(user, kind, *SPEC_RANGE, etc)}."
        )
    return IdMap(0, ranges[0].start, ranges[0].count)


def check_maps(user: str, kind: str, maps: Sequence[IdMap], etc: str = "/etc") -> None:
    """:raises DependencyNotFound: a map leads out of the user's subordinate ids; the message says which line to add."""
    ranges = subid.ranges_of(user, kind, etc)
    for one in maps:
        if not covered(ranges, one.target, one.count):
            owned = ", ".join(f"{found.start}:{found.count}" for found in ranges) or "none"
            remedy = _remedy(user, kind, one.target, one.count, etc)
            raise DependencyNotFound(
                f"{kind}_map: {str(one)!r} leads out of the subordinate {kind}s of {user!r} ({owned}): {remedy}."
            )


def _remedy(user: str, kind: str, start: int, count: int, etc: str) -> str:
    source = subid.nss_source(etc)
    if source != "files":
        return f"grant {start}:{count} where this host takes them from (subid: {source} in nsswitch.conf)"
    return f"add the line {user}:{start}:{count} to {etc}/{subid.FILES[kind]}"


def covered(ranges: Sequence[subid.SubidRange], start: int, count: int) -> bool:
    """Whether ``ranges`` together hold ``count`` ids from ``start`` on, as newuidmap(1) asks."""
    position, end = start, start + count
    while position < end:
        holding = [found for found in ranges if found.holds(position, 1)]
        if not holding:
            return False
        position = max(found.last for found in holding) + 1
    return True


def host_id(maps: Sequence[IdMap], guest_id: int) -> int | None:
    """What a guest's id is on the host: itself without a map, ``None`` outside the maps, where the guest gets
    EINVAL.
    """
    if not maps:
        return guest_id
    for one in maps:
        if one.start <= guest_id < one.start + one.count:
            return one.target + guest_id - one.start
    return None


__all__ = ["check_account", "check_maps", "check_tools", "covered", "default_map", "host_id"]
