# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Desired subordinate id ranges of a user (spec: virtiofs-datastore, "User and Group ID mapping")."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Mapping

from ..._core.arguments import ArgumentSpec
from ..._core.errors import Conflict, InvalidInput, UnsupportedAction
from ..._core.files import read_text, remove_durably, write_atomic
from ..._core.plan import Action, Plan
from ..._core.records import dataclass
from ..._host.ids import subid
from ..._host.ids.owners import accounts, accounts_within
from ..._host.ids.shadow_lock import shadow_lock
from ..._model.idmap import HIGHEST_ID
from ..service import Service

#: How many ids the spec's range has.
DEFAULT_COUNT = 65536

SUBID_SPEC = ArgumentSpec(
    {
        "user": {"type": "str", "required": True},
        "start": {"type": "int"},
        "count": {"type": "int", "default": DEFAULT_COUNT},
        "type": {"type": "str", "choices": ["uid", "gid", "both"], "default": "both"},
        "replace": {"type": "bool", "default": False},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    }
)

SUBID_INFO_SPEC = ArgumentSpec({"user": {"type": "str"}})


@dataclass(frozen=True)
class SubidWish:
    """The options of the module ``subid``, checked."""

    user: str
    start: int | None = None
    count: int = DEFAULT_COUNT
    type: str = "both"
    replace: bool = False
    state: str = "present"

    def __post_init__(self) -> None:
        check_user(self.user)
        if not 1 <= self.count <= HIGHEST_ID:
            raise InvalidInput("count", self.count, "a number of ids of at least 1 is expected")
        if self.start is not None and not 1 <= self.start <= HIGHEST_ID - self.count + 1:
            raise InvalidInput(
                "start",
                self.start,
                f"with count {self.count} a start from 1 to {HIGHEST_ID - self.count + 1} is expected",
            )

    @property
    def kinds(self) -> list[str]:
        return ["uid", "gid"] if self.type == "both" else [self.type]


def check_user(user: str) -> None:
    """Refuse a name that subuid(5) can't carry.

    :raises InvalidInput: it holds a colon, a blank or a control character, starts with a hyphen or ``#``, or is empty.
    """
    if re.fullmatch(r"[^\s:#\-\x00-\x1f\x7f][^\s:#\x00-\x1f\x7f]*", user) is None:
        raise InvalidInput("user", user, "a login name or a decimal uid without blanks, ':' and '#' is expected")


class SubidService(Service):
    """Plans the entries of /etc/subuid and /etc/subgid for one user.

    ``etc`` is the directory of both and of nsswitch.conf.
    """

    def __init__(self, wish: SubidWish, etc: str = "/etc") -> None:
        self.wish = wish
        self.etc = etc

    def exclusive(self) -> contextlib.AbstractContextManager[object]:
        return shadow_lock(*(self._path(kind) for kind in self.wish.kinds))

    def plan(self) -> Plan:
        plan = Plan()
        for kind in self.wish.kinds:
            ranges = self._plan_kind(plan, kind)
            plan.result[subid.FILES[kind]] = [as_result(found) for found in ranges]
            for other in accounts_within(kind, ranges):
                plan.warn_once(
                    f"{other} is in the {kind} range of {self.wish.user!r}: guests whose ids are mapped there act as "
                    "it. Give another start."
                )
        return plan

    def _path(self, kind: str) -> str:
        return os.path.join(self.etc, subid.FILES[kind])

    def _plan_kind(self, plan: Plan, kind: str) -> list[subid.SubidRange]:
        """Add what has to be done for ``kind``; the answer is what the user owns afterwards."""
        owners = subid.owner_names(self.wish.user)
        text = read_text(self._path(kind))
        written = subid.parse(text)
        existing = subid.ranges_of(self.wish.user, kind, self.etc)
        wanted = self._wanted(existing)
        if wanted == existing:
            self._warn_of_other_range(plan, kind, existing)
            return existing
        source = subid.nss_source(self.etc)
        if source != "files":
            raise UnsupportedAction(
                f"Subordinate ids of this host come from the NSS source {source!r} (nsswitch.conf); they can't be "
                f"written to {self._path(kind)}."
            )
        for other in written:
            if other.owner not in owners and any(other.overlaps(new) for new in wanted):
                raise Conflict(
                    f"The {kind} range {self.wish.start}:{self.wish.count} of {self.wish.user!r} overlaps "
                    f"{other.start}:{other.count} of {other.owner!r} in {self._path(kind)}. Without a start, the first "
                    "free range is taken."
                )
        if wanted and not subid.has_account(self.wish.user):
            plan.warn_once(
                f"There is no account {self.wish.user!r} on this host; its subordinate ids are of no use until there "
                "is."
            )
        self._add_action(plan, kind, existing, wanted, text, subid.edited(text, owners, wanted))
        return wanted

    def _wanted(self, existing: list[subid.SubidRange]) -> list[subid.SubidRange]:
        if self.wish.state == "absent":
            return []
        as_asked = [found.count for found in existing] == [self.wish.count] and self.wish.start in (
            None,
            existing[0].start,
        )
        if existing and (not self.wish.replace or as_asked):
            return existing  # the spec: an existing entry is respected and not modified
        return [
            subid.SubidRange(
                self.wish.user, self._free_start() if self.wish.start is None else self.wish.start, self.wish.count
            )
        ]

    def _warn_of_other_range(self, plan: Plan, kind: str, existing: list[subid.SubidRange]) -> None:
        """What the user has is kept, but isn't what was asked for."""
        start, count = self.wish.start, self.wish.count
        if existing and start is not None and not any(one.holds(start, count) for one in existing):
            kept = ", ".join(f"{one.start}:{one.count}" for one in existing)
            plan.warn_once(
                f"{self.wish.user!r} has the {kind} range {kept}, which is kept, and not {start}:{count}: replace: "
                "true gives it that one only, and a line "
                f"{self.wish.user}:{start}:{count} in {self._path(kind)} gives it both."
            )

    def _free_start(self) -> int:
        """Of a range that is free in all files, so that both get the same where one will do.

        :raises Conflict: there is none.
        """
        owners = subid.owner_names(self.wish.user)
        taken, lowest, highest = [], 1, HIGHEST_ID
        for kind in self.wish.kinds:
            taken += [one for one in subid.parse(read_text(self._path(kind))) if one.owner not in owners]
            taken += [subid.SubidRange(name, number, 1) for _what, name, number in accounts(kind)]
            low, high = subid.limits(kind, self.etc)
            lowest, highest = max(lowest, low), min(highest, high)
        start = subid.free_start(self.wish.count, taken, (lowest, highest))
        if start is None:
            raise Conflict(
                f"No {self.wish.count} ids in a row are free from {lowest} to {highest} (login.defs), so give a start "
                f"for {self.wish.user!r}."
            )
        return start

    def _add_action(
        self, plan: Plan, kind: str, before: list[subid.SubidRange], after: list[subid.SubidRange], old: str, new: str
    ) -> None:
        path = self._path(kind)
        verb = "remove" if not after else "replace" if before else "add"
        existed = os.path.exists(path)
        plan.actions.append(
            Action(
                f"{verb} subordinate {kind} range",
                path,
                as_lines(before),
                as_lines(after),
                record=functools.partial(self._write, path, new),
                undo=functools.partial(self._write, path, old) if existed else functools.partial(remove_durably, path),
            )
        )

    @staticmethod
    def _write(path: str, text: str) -> None:
        write_atomic(path, text.encode("utf-8", "surrogateescape"))


def as_lines(ranges: list[subid.SubidRange]) -> str | None:
    return "".join(f"{found}\n" for found in ranges) or None


def as_result(found: subid.SubidRange) -> dict[str, object]:
    return {"user": found.owner, "start": found.start, "count": found.count}


def subid_info(user: str | None, etc: str = "/etc") -> Mapping[str, object]:
    """All ranges of this host's files, or those that ``user`` has wherever they come from."""
    if user is not None:
        check_user(user)
    found: dict[str, object] = {"source": subid.nss_source(etc)}
    for kind, name in subid.FILES.items():
        ranges = subid.parse(read_text(os.path.join(etc, name))) if user is None else subid.ranges_of(user, kind, etc)
        found[name] = [as_result(one) for one in ranges]
    return found


__all__ = ["SUBID_INFO_SPEC", "SUBID_SPEC", "SubidService", "SubidWish", "subid_info"]
