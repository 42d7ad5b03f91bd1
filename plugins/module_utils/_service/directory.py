# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Desired directories of this host, which may lie in directories of other users."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from collections.abc import Callable, Mapping
from typing import Any

from .._core.arguments import ArgumentSpec
from .._core.directory import descriptor_path, opened_directory
from .._core.errors import Conflict, InvalidInput, NotFound, from_os_error, os_errors
from .._core.paths import absolute
from .._core.plan import Action, Plan
from .._host.made_directory import ANYBODY, open_or_make, other_users
from .module import Service

DIRECTORY_SPEC = ArgumentSpec(
    {
        "path": {"type": "path", "required": True},
        "owner": {"type": "str"},
        "group": {"type": "str"},
        "mode": {"type": "str", "default": "0755"},
    }
)


class DirectoryService(Service):
    """Plans one directory. An owner or a group that isn't given stays as it is; a new directory has those of the directory around it, or root's."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.path = absolute("path", options["path"])
        if re.fullmatch(r"0[0-7]{3,4}", options["mode"]) is None:
            raise InvalidInput("mode", options["mode"], "a quoted octal number such as '0755' is expected")
        self.mode = int(options["mode"], 8)
        self.wanted = {name: options[name] for name in ("owner", "group") if options[name] is not None}

    def plan(self) -> Plan:
        plan = Plan()
        before = self._look()
        after = {**(before or {}), **self.wanted, "mode": f"{self.mode:04o}"}
        plan.result["directory"] = {"path": self.path, **after}
        if before != after:
            plan.actions.append(Action(f"{'create' if before is None else 'change'} directory", self.path, before, after, self._apply))
        return plan

    def _look(self) -> dict[str, str] | None:
        """Return owner, group and mode, the first two as the options call them if they are right; ``None`` if there is no such directory."""
        try:
            with opened_directory(self.path) as descriptor:
                found = os.fstat(descriptor)
                if not self._is_right(found):
                    self._check_changeable(descriptor, found)
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise InvalidInput("path", self.path, "the path of a directory, or of nothing, is expected") from error
        except OSError as error:
            raise from_os_error(error, f"open the directory {self.path}") from error
        owner, group = self._ids()
        return {
            "owner": self.wanted["owner"] if found.st_uid == owner else _user_name(found.st_uid),
            "group": self.wanted["group"] if found.st_gid == group else _group_name(found.st_gid),
            "mode": f"{stat.S_IMODE(found.st_mode):04o}",
        }

    def _ids(self) -> tuple[int | None, int | None]:
        """Return user id and group id; ``None`` for one that isn't asked for, or has no account yet."""
        owner = _id_of(self.wanted.get("owner"), lambda name: pwd.getpwnam(name).pw_uid)
        return owner, _id_of(self.wanted.get("group"), lambda name: grp.getgrnam(name).gr_gid)

    def _is_right(self, found: os.stat_result) -> bool:
        owner, group = self._ids()
        wanted = (owner if "owner" in self.wanted else found.st_uid, group if "group" in self.wanted else found.st_gid, self.mode)
        return wanted == (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))

    def _check_changeable(self, descriptor: int, found: os.stat_result) -> None:
        """
        :raises Conflict: another user than its owner could have put the directory there, to get rights in it.
        """
        others = other_users(descriptor) - {found.st_uid}
        if others:
            whose = "any user" if ANYBODY in others else f"the user {_user_name(min(others))}"
            raise Conflict(
                f"The directory {self.path} belongs to {_user_name(found.st_uid)}:{_group_name(found.st_gid)} with mode {stat.S_IMODE(found.st_mode):04o}, and "
                f"{whose} could have put it there, so it is not changed to {self._shown()}: look at it, and do that by hand or remove it."
            )

    def _shown(self) -> str:
        return f"{self.wanted.get('owner', '')}:{self.wanted.get('group', '')} with mode {self.mode:04o}"

    def _apply(self) -> None:
        owner, group = self._ids()
        for option, found in (("owner", owner), ("group", group)):
            if option in self.wanted and found is None:
                raise NotFound(f"{option}: this host has no {'user' if option == 'owner' else option} {self.wanted[option]!r}.")
        with os_errors(f"make the directory {self.path}"):
            descriptor = open_or_make(self.path, self.mode)
            try:
                found = os.fstat(descriptor)
                if not self._is_right(found):
                    self._check_changeable(descriptor, found)
                    os.chown(descriptor_path(descriptor), -1 if owner is None else owner, -1 if group is None else group)
                    os.chmod(descriptor_path(descriptor), self.mode)
            finally:
                os.close(descriptor)


def _id_of(name: str | None, look_up: Callable[[str], int]) -> int | None:
    if name is None or name.isdecimal():
        return None if name is None else int(name)
    try:
        return look_up(name)
    except KeyError:
        return None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


__all__ = ["DIRECTORY_SPEC", "DirectoryService"]
