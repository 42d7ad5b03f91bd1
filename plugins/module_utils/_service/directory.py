# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The desired directories of this host. A directory may be inside a directory of another user."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from collections.abc import Callable, Mapping
from typing import Any

from .._core.arguments import ArgumentSpec
from .._core.directory import opened_directory
from .._core.errors import Conflict, InvalidInput, NotFound, from_os_error, os_errors
from .._core.paths import absolute
from .._core.plan import Action, Plan
from .._host.made_directory import ANYBODY, Ownership, open_or_make, other_users
from .service import Service

DIRECTORY_SPEC = ArgumentSpec(
    {
        "path": {"type": "path", "required": True},
        "owner": {"type": "str"},
        "group": {"type": "str"},
        "mode": {"type": "str", "default": "0755"},
    }
)


class DirectoryService(Service):
    """Plan one directory.

    An owner or a group that isn't given stays unchanged. A new directory gets those of its parent directory, or root's.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.path = absolute("path", options["path"])
        self.mode = read_mode("mode", options["mode"])
        self.wanted = {name: options[name] for name in ("owner", "group") if options[name] is not None}

    def plan(self) -> Plan:
        plan = Plan()
        before = self._look()
        after = {**(before or {}), **self.wanted, "mode": f"{self.mode:04o}"}
        plan.result["directory"] = {"path": self.path, **after}
        if before != after:
            plan.actions.append(
                Action(f"{'create' if before is None else 'change'} directory", self.path, before, after, self._apply)
            )
        return plan

    def _look(self) -> dict[str, str] | None:
        """Return owner, group and mode; ``None`` without the directory. A correct owner or group has the spelling of
        the option.
        """
        try:
            with opened_directory(self.path) as descriptor:
                found = os.fstat(descriptor)
                if not self._is_right(found):
                    check_changeable(self.path, descriptor, self._describe())
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise InvalidInput("path", self.path, "the path of a directory, or of nothing, is expected") from error
        except OSError as error:
            raise from_os_error(error, f"open the directory {self.path}") from error
        owner, group = self._ids()
        return {
            "owner": self.wanted["owner"] if found.st_uid == owner else user_name(found.st_uid),
            "group": self.wanted["group"] if found.st_gid == group else group_name(found.st_gid),
            "mode": f"{stat.S_IMODE(found.st_mode):04o}",
        }

    def _ids(self) -> tuple[int | None, int | None]:
        """Return user id and group id; ``None`` for an option that isn't given or an account that is missing."""
        return user_id(self.wanted.get("owner")), group_id(self.wanted.get("group"))

    def _is_right(self, found: os.stat_result) -> bool:
        owner, group = self._ids()
        wanted = (
            owner if "owner" in self.wanted else found.st_uid,
            group if "group" in self.wanted else found.st_gid,
            self.mode,
        )
        return wanted == (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))

    def _describe(self) -> str:
        return f"{self.wanted.get('owner', '')}:{self.wanted.get('group', '')} with mode {self.mode:04o}"

    def _apply(self) -> None:
        owner, group = self._ids()
        for option, number in (("owner", owner), ("group", group)):
            if option in self.wanted and number is None:
                raise NotFound(
                    f"{option}: this host has no {'user' if option == 'owner' else option} {self.wanted[option]!r}."
                )
        with os_errors(f"make the directory {self.path}"):
            descriptor = open_or_make(self.path, self.mode)
            try:
                found = os.fstat(descriptor)
                if not self._is_right(found):
                    check_changeable(self.path, descriptor, self._describe())
                    Ownership(
                        found.st_uid if owner is None else owner, found.st_gid if group is None else group, self.mode
                    ).give_to(descriptor)
            finally:
                os.close(descriptor)


def read_mode(option: str, text: str) -> int:
    """Return the mode in an option.

    :raises InvalidInput: the value is no octal number, or lacks quotes.
    """
    if re.fullmatch(r"0[0-7]{3,4}", text) is None:
        raise InvalidInput(option, text, "a quoted octal number such as '0755' is expected")
    return int(text, 8)


def check_changeable(path: str, descriptor: int, wanted: Ownership | str) -> None:
    """Refuse to change an open directory that another user could have put in its place.

    :arg wanted: the desired ownership, for the message.
    :raises Conflict: a user other than the owner could have put the directory there, to get rights in it.
    """
    found = Ownership.of(os.fstat(descriptor))
    others = other_users(descriptor) - {found.uid}
    if others:
        whose = "any user" if ANYBODY in others else f"the user {user_name(min(others))}"
        desired = wanted if isinstance(wanted, str) else _describe(wanted)
        raise Conflict(
            f"The directory {path} belongs to {_describe(found)}, and {whose} could have put it there, so it is not "
            f"changed to {desired}: look at it, and do that by hand or remove it."
        )


def _describe(state: Ownership) -> str:
    return f"{user_name(state.uid)}:{group_name(state.gid)} with mode {state.mode:04o}"


def user_id(name: str | None) -> int | None:
    """Return the id of a user by name or number; ``None`` without a user, or where the account is missing."""
    return _id_of(name, lambda known: pwd.getpwnam(known).pw_uid)


def group_id(name: str | None) -> int | None:
    """Return the id of a group by name or number; ``None`` without a group, or where the group is missing."""
    return _id_of(name, lambda known: grp.getgrnam(known).gr_gid)


def _id_of(name: str | None, look_up: Callable[[str], int]) -> int | None:
    if name is None or name.isdecimal():
        return None if name is None else int(name)
    try:
        return look_up(name)
    except KeyError:
        return None


def user_name(uid: int) -> str:
    """Return the name of a user, or the number of a user without a name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """Return the name of a group, or the number of a group without a name."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


__all__ = [
    "DIRECTORY_SPEC",
    "DirectoryService",
    "check_changeable",
    "group_id",
    "group_name",
    "read_mode",
    "user_id",
    "user_name",
]
