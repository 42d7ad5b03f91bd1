# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Other users of this host with ids that a guest's ids are mapped to. Such users may be created after the export."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Sequence

from ..._core.files import read_text
from ..._model.idmap import IdMap
from . import subid


def other_owners(user: str, kind: str, maps: Sequence[IdMap], etc: str = "/etc") -> list[str]:
    """Return the other users' subordinate ranges that overlap the host's side of ``maps``, and the accounts or groups
    with an id there.

    Other users' ranges are read from files only. An NSS source returns the ranges of one user at a time, and is trusted
    to give no id twice.

    :arg user: the owner of the maps' ids.
    :arg kind: ``uid`` or ``gid``.
    """
    mapped = [subid.SubidRange(user, one.target, one.count) for one in maps]
    path, owners = os.path.join(etc, subid.FILES[kind]), subid.owner_names(user)
    ranges = subid.parse(read_text(path)) if mapped and subid.nss_source(etc) == "files" else []
    found = [
        f"{one} in {path}" for one in ranges if one.owner not in owners and any(one.overlaps(own) for own in mapped)
    ]
    return found + accounts_within(kind, mapped)


def accounts_within(kind: str, ranges: Sequence[subid.SubidRange]) -> list[str]:
    """Return the accounts or groups that NSS lists with an id in one of the ranges."""
    return [
        f"the {what} {name!r} ({kind} {number})"
        for what, name, number in accounts(kind)
        if any(own.holds(number, 1) for own in ranges)
    ]


def accounts(kind: str) -> list[tuple[str, str, int]]:
    """Return the entries of NSS: ``account`` or ``group``, its name and its id."""
    if kind == "uid":
        return [("account", one.pw_name, one.pw_uid) for one in pwd.getpwall()]
    return [("group", one.gr_name, one.gr_gid) for one in grp.getgrall()]


__all__ = ["accounts", "accounts_within", "other_owners"]
