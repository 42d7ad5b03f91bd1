# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks that this host lets a user map the ids of a virtiofs export (newuidmap(1)), made before a guest starts."""

from __future__ import annotations

import pwd
import shutil
from collections.abc import Sequence

from ..._core.errors import DependencyNotFound
from ..._model.idmap import IdMap
from . import subid
from .domain_ids import read_allocations

#: The spec's range. A message contains it in the line to add for a user without a range.
SPEC_RANGE = (100000, 65536)


def check_account(user: str) -> None:
    """Refuse a user without an account.

    :raises DependencyNotFound: this host has no such account.
    """
    try:
        pwd.getpwnam(user)
    except (KeyError, ValueError) as error:  # ValueError: the name of an account never has this form
        raise DependencyNotFound(
            f"service_user: this host has no account {user!r}; the role granary.vmstore.hypervisor makes it."
        ) from error


def check_tools() -> None:
    """Refuse a host without the programs that map ids.

    :raises DependencyNotFound: newuidmap or newgidmap isn't installed.
    """
    for tool in ("newuidmap", "newgidmap"):
        if shutil.which(tool) is None:
            raise DependencyNotFound(
                f"The program {tool} is not installed on this host and no id can be mapped without it: install the "
                "package uidmap."
            )


def default_map(user: str, kind: str, etc: str = "/etc") -> IdMap:
    """Return the map of a user without a map of its own: guest id 0 on the first id of the user's first range that
    belongs to no domain, for the whole of that range.

    :arg kind: ``uid`` or ``gid``.
    :raises DependencyNotFound: the user has no range; the message has the line to add.
    """
    own = {(one.start, one.count) for one in read_allocations().values()}
    ranges = [one for one in subid.ranges_of(user, kind, etc) if (one.start, one.count) not in own]
    if not ranges:
        raise DependencyNotFound(
            f"The user {user!r} has no subordinate {kind}s: {_remedy(user, kind, *SPEC_RANGE, etc)}."
        )
    return IdMap(0, ranges[0].start, ranges[0].count)


def check_maps(user: str, kind: str, maps: Sequence[IdMap], etc: str = "/etc") -> None:
    """Refuse maps that lead out of the user's subordinate ids.

    :raises DependencyNotFound: naming the line to add.
    """
    ranges = subid.ranges_of(user, kind, etc)
    for one in maps:
        if not is_covered(ranges, one.target, one.count):
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


def is_covered(ranges: Sequence[subid.SubidRange], start: int, count: int) -> bool:
    """Return whether ``ranges`` together hold ``count`` ids from ``start`` on, which newuidmap(1) requires."""
    position, end = start, start + count
    while position < end:
        holding = [found for found in ranges if found.holds(position, 1)]
        if not holding:
            return False
        position = max(found.last for found in holding) + 1
    return True


def host_id(maps: Sequence[IdMap], guest_id: int) -> int | None:
    """Return the id on the host for an id of the guest: the same id without a map, ``None`` outside the maps. The
    guest gets EINVAL there.
    """
    if not maps:
        return guest_id
    for one in maps:
        if one.start <= guest_id < one.start + one.count:
            return one.target + guest_id - one.start
    return None


__all__ = ["check_account", "check_maps", "check_tools", "default_map", "host_id", "is_covered"]
