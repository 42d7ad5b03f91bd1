# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Subordinate id ranges, in the files of subuid(5) and subgid(5) or from NSS."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Sequence

from ..._core.command import run
from ..._core.files import read_text
from ..._core.records import dataclass
from ..._model.idmap import HIGHEST_ID

FILES = {"uid": "subuid", "gid": "subgid"}


@dataclass(frozen=True)
class SubidRange:
    """A range of ``count`` ids from ``start`` on that ``owner`` (a login name or a decimal uid) may use in user
    namespaces.
    """

    owner: str
    start: int
    count: int

    @property
    def last(self) -> int:
        return self.start + self.count - 1

    def __str__(self) -> str:
        return f"{self.owner}:{self.start}:{self.count}"

    def overlaps(self, other: SubidRange) -> bool:
        return self.start <= other.last and other.start <= self.last

    def holds(self, start: int, count: int) -> bool:
        return self.start <= start and start + count - 1 <= self.last


def parse_line(line: str) -> SubidRange | None:
    """Return the range in a line of subuid(5); ``None`` for a comment, a blank line, or a line that the shadow suite
    ignores, too.

    The shadow suite accepts numbers like strtoull(3) with base 0, without a rest, and ignores further fields (shadow,
    lib/subordinateio.c).
    """
    owner, *numbers = line.rstrip("\n").split(":")[:3]
    if len(numbers) != 2 or re.fullmatch(r"[^#\s]\S*", owner) is None:
        return None
    start, count = map(_number, numbers)
    return SubidRange(owner, start, count) if start is not None and count else None


def _number(text: str) -> int | None:
    match = re.fullmatch(r"\s*\+?(?:0[xX]([0-9A-Fa-f]{1,8})|0([0-7]{0,11})|([1-9][0-9]{0,9}))", text)
    if match is None:
        return None
    return int(match[3] or match[1] or match[2] or "0", 10 if match[3] else 16 if match[1] else 8)


def find_free_start(count: int, taken: Sequence[SubidRange], limits: tuple[int, int]) -> int | None:
    """Return the first of ``count`` ids in a row that are in none of ``taken``, by the search of useradd(8). Return
    ``None`` without so many free ids.

    :arg limits: the lowest and the highest id.
    """
    start, highest = limits
    for other in sorted(taken, key=lambda one: one.start):
        if other.start >= start + count:
            break
        start = max(start, other.last + 1)
    return start if start + count - 1 <= highest else None


def limits(kind: str, etc: str = "/etc") -> tuple[int, int]:
    """Return the lowest and the highest subordinate id that useradd(8) gives to users, by login.defs(5).

    :arg kind: ``uid`` or ``gid``.
    """
    text = read_text(os.path.join(etc, "login.defs"))
    found = {
        name: int(value)
        for name, value in re.findall(rf"(?m)^\s*SUB_{kind.upper()}_(MIN|MAX)\s+([0-9]{{1,10}})\s*$", text)
    }
    return found.get("MIN", 100000), min(found.get("MAX", 600100000), HIGHEST_ID)


def parse(text: str) -> list[SubidRange]:
    """Return all ranges in the text of a subuid(5) file, in its order."""
    return [found for found in map(parse_line, text.split("\n")) if found is not None]


def owner_names(user: str) -> set[str]:
    """Return the names under which ``user``, a login name or a decimal uid, may own a range. For an existing
    account, these are both (subuid(5)).
    """
    account = _account(user)
    return {user} if account is None else {user, account.pw_name, str(account.pw_uid)}


def has_account(user: str) -> bool:
    """Return whether this host has an account ``user``, a login name or a decimal uid."""
    return _account(user) is not None


def _account(user: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        return None


def replace_entries(text: str, owners: set[str], ranges: Sequence[SubidRange]) -> str:
    """Return ``text`` with the ranges of ``owners`` replaced by ``ranges``, at the place of the first range or at the
    end.

    Every other line, comment and line ending is unchanged.
    """
    kept: list[str] = []
    place: int | None = None
    # Only a line feed ends a line there. str.splitlines accepts ten other characters.
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):
        found = parse_line(line)
        if found is not None and found.owner in owners:
            place = len(kept) if place is None else place
        else:
            kept.append(line)
    if place is None:
        place = len(kept)
    if ranges and place > 0 and not kept[place - 1].endswith("\n"):
        kept[place - 1] += "\n"
    kept[place:place] = [f"{one}\n" for one in ranges]
    return "".join(kept)


def nss_source(etc: str = "/etc") -> str:
    """Return the source of this host's subordinate ids by nsswitch.conf(5): ``files``, or the name of an NSS module
    such as ``sss``.
    """
    for line in read_text(os.path.join(etc, "nsswitch.conf")).splitlines():
        database, colon, sources = line.partition("#")[0].partition(":")
        if colon and database.strip() == "subid" and sources.split():
            return sources.split()[0]
    return "files"


def parse_getsubids(output: str) -> list[SubidRange]:
    """Return the ranges in the output of getsubids(1): lines such as ``0: oneadmin 100000 65536``."""
    matches = (re.fullmatch(r"[0-9]+: (\S+) ([0-9]+) ([0-9]+)", line.strip()) for line in output.splitlines())
    return [SubidRange(match[1], int(match[2]), int(match[3])) for match in matches if match]


def ranges_from_nss(user: str, kind: str) -> list[SubidRange]:
    """Return the ranges that NSS grants ``user``, by getsubids(1). Its exit code is 1 for a user without ranges.

    :arg kind: ``uid`` or ``gid``.
    :raises CommandMissing: getsubids is not installed.
    """
    completed = run(["getsubids", *(["-g"] if kind == "gid" else []), user], accept=None)
    return parse_getsubids(completed.stdout) if completed.returncode == 0 else []


def ranges_of(user: str, kind: str, etc: str = "/etc") -> list[SubidRange]:
    """Return the ranges that ``user`` may map, from files or NSS.

    :arg kind: ``uid`` or ``gid``.
    """
    if nss_source(etc) != "files":
        return ranges_from_nss(user, kind)
    owners = owner_names(user)
    return [found for found in parse(read_text(os.path.join(etc, FILES[kind]))) if found.owner in owners]


__all__ = [
    "FILES",
    "SubidRange",
    "find_free_start",
    "has_account",
    "limits",
    "nss_source",
    "owner_names",
    "parse",
    "parse_getsubids",
    "parse_line",
    "ranges_from_nss",
    "ranges_of",
    "replace_entries",
]
