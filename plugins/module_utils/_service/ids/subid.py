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

#: Number of ids in the spec's range.
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
class SubidSpec:
    """The desired state of a user's ranges: the options of the module ``subid``, checked."""

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

    def __init__(self, desired: SubidSpec, etc: str = "/etc") -> None:
        self.desired = desired
        self.etc = etc

    def exclusive(self) -> contextlib.AbstractContextManager[object]:
        return shadow_lock(*(self._path(kind) for kind in self.desired.kinds))

    def plan(self) -> Plan:
        plan = Plan()
        for kind in self.desired.kinds:
            ranges = self._plan_kind(plan, kind)
            plan.result[subid.FILES[kind]] = [as_result(found) for found in ranges]
            for other in accounts_within(kind, ranges):
                plan.warn_once(
                    f"{other} is in the {kind} range of {self.desired.user!r}: guests whose ids are mapped there act "
                    "as it. Give another start."
                )
        return plan

    def _path(self, kind: str) -> str:
        return os.path.join(self.etc, subid.FILES[kind])

    def _plan_kind(self, plan: Plan, kind: str) -> list[subid.SubidRange]:
        """Plan the change of the ranges of one kind, and return the user's ranges afterwards."""
        owners = subid.owner_names(self.desired.user)
        text = read_text(self._path(kind))
        written = subid.parse(text)
        existing = subid.ranges_of(self.desired.user, kind, self.etc)
        after = self._ranges_after(existing)
        if after == existing:
            self._warn_of_other_range(plan, kind, existing)
            return existing
        source = subid.nss_source(self.etc)
        if source != "files":
            raise UnsupportedAction(
                f"Subordinate ids of this host come from the NSS source {source!r} (nsswitch.conf); they can't be "
                f"written to {self._path(kind)}."
            )
        for other in written:
            if other.owner not in owners and any(other.overlaps(new) for new in after):
                raise Conflict(
                    f"The {kind} range {self.desired.start}:{self.desired.count} of {self.desired.user!r} overlaps "
                    f"{other.start}:{other.count} of {other.owner!r} in {self._path(kind)}. Without a start, the first "
                    "free range is taken."
                )
        if after and not subid.has_account(self.desired.user):
            plan.warn_once(
                f"There is no account {self.desired.user!r} on this host; its subordinate ids are of no use until "
                "there is."
            )
        self._add_action(plan, kind, existing, after, text, subid.replace_entries(text, owners, after))
        return after

    def _ranges_after(self, existing: list[subid.SubidRange]) -> list[subid.SubidRange]:
        if self.desired.state == "absent":
            return []
        as_asked = [found.count for found in existing] == [self.desired.count] and self.desired.start in (
            None,
            existing[0].start,
        )
        if existing and (not self.desired.replace or as_asked):
            return existing  # the spec: an existing entry is respected and not modified
        return [
            subid.SubidRange(
                self.desired.user,
                self._free_start() if self.desired.start is None else self.desired.start,
                self.desired.count,
            )
        ]

    def _warn_of_other_range(self, plan: Plan, kind: str, existing: list[subid.SubidRange]) -> None:
        """Warn that the user keeps ranges without the desired one."""
        start, count = self.desired.start, self.desired.count
        if existing and start is not None and not any(one.holds(start, count) for one in existing):
            kept = ", ".join(f"{one.start}:{one.count}" for one in existing)
            plan.warn_once(
                f"{self.desired.user!r} has the {kind} range {kept}, which is kept, and not {start}:{count}: replace: "
                f"true gives it that one only, and a line {self.desired.user}:{start}:{count} in {self._path(kind)} "
                "gives it both."
            )

    def _free_start(self) -> int:
        """Return the first id of a range that is free in all files, so that users and groups get the same numbers.

        :raises Conflict: no range is free.
        """
        owners = subid.owner_names(self.desired.user)
        taken, lowest, highest = [], 1, HIGHEST_ID
        for kind in self.desired.kinds:
            taken += [one for one in subid.parse(read_text(self._path(kind))) if one.owner not in owners]
            taken += [subid.SubidRange(name, number, 1) for _what, name, number in accounts(kind)]
            low, high = subid.limits(kind, self.etc)
            lowest, highest = max(lowest, low), min(highest, high)
        start = subid.find_free_start(self.desired.count, taken, (lowest, highest))
        if start is None:
            raise Conflict(
                f"No {self.desired.count} ids in a row are free from {lowest} to {highest} (login.defs), so give a "
                f"start for {self.desired.user!r}."
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
                undo=functools.partial(self._write, path, old if existed else None),
            )
        )

    @staticmethod
    def _write(path: str, text: str | None) -> None:
        if text is None:
            remove_durably(path)
        else:
            write_atomic(path, text.encode("utf-8", "surrogateescape"))


def as_lines(ranges: list[subid.SubidRange]) -> str | None:
    return "".join(f"{found}\n" for found in ranges) or None


def as_result(found: subid.SubidRange) -> dict[str, object]:
    return {"user": found.owner, "start": found.start, "count": found.count}


def read_subids(user: str | None, etc: str = "/etc") -> Mapping[str, object]:
    """Return all ranges of this host's files, or those of ``user`` from files or NSS."""
    if user is not None:
        check_user(user)
    found: dict[str, object] = {"source": subid.nss_source(etc)}
    for kind, name in subid.FILES.items():
        ranges = subid.parse(read_text(os.path.join(etc, name))) if user is None else subid.ranges_of(user, kind, etc)
        found[name] = [as_result(one) for one in ranges]
    return found


__all__ = ["SUBID_INFO_SPEC", "SUBID_SPEC", "SubidService", "SubidSpec", "read_subids"]
