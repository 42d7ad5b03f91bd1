# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The owner, group and mode of an exported directory, where the user gives them.

The guest's root has to own a directory to write to it.
"""

from __future__ import annotations

import functools
import re
import stat
from collections.abc import Callable, Mapping
from typing import Any

from ..._core.errors import InvalidInput, NotFound, os_errors
from ..._core.plan import Action
from ..._host.ids.idmap_check import host_id
from ..._host.made_directory import Ownership
from ..._host.shared_directory import HeldDirectory
from ..directory import check_changeable, group_id, group_name, read_mode, user_id, user_name
from .identity import IdMaps

OWNER_OPTIONS: Mapping[str, Mapping[str, object]] = {name: {"type": "str"} for name in ("owner", "group", "mode")}

#: Upper bound of an id: chown(2) leaves the owner with (uid_t)-1.
HIGHEST_ID = 2**32 - 2


class DirectoryOwner:
    """The owner, group and mode that the options give.

    :raises InvalidInput: a value that isn't accepted.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options: dict[str, str] = {name: options[name] for name in OWNER_OPTIONS if options[name] is not None}
        self._mode = read_mode("mode", options["mode"]) if options["mode"] is not None else None
        for name in ("owner", "group"):
            found = re.fullmatch(r"(?:guest:)?([0-9]{1,10})", self._options.get(name, ""))
            if self._options.get(name) == "" or (found and int(found[1]) > HIGHEST_ID):
                raise InvalidInput(name, options[name], "a name, an id, or guest: and an id of the guest is expected")

    def action(self, directory: HeldDirectory, uid_map: IdMaps, gid_map: IdMaps) -> Action | None:
        """Return the action that changes the directory, and let checks treat it as changed; ``None`` without a change.

        :raises InvalidInput: the guest has no such id; :raises NotFound: this host has no such user or group.
        :raises Conflict: a user other than its owner could have put the directory there.
        """
        found = directory.status()
        wanted = Ownership(
            self._id("owner", uid_map, user_id, found.st_uid),
            self._id("group", gid_map, group_id, found.st_gid),
            stat.S_IMODE(found.st_mode) if self._mode is None else self._mode,
        )
        before = Ownership.of(found)
        if wanted == before:
            return None
        check_changeable(directory.path, directory.descriptor, wanted)
        directory.planned = wanted
        return Action(
            "change directory",
            directory.path,
            _as_result(before),
            _as_result(wanted),
            functools.partial(self._change, directory, wanted),
            functools.partial(self._change, directory, before),
        )

    def _id(self, option: str, maps: IdMaps, look_up: Callable[[str | None], int | None], current: int) -> int:
        text = self._options.get(option)
        if text is None:
            return current
        guest = text.startswith("guest:") and text[len("guest:") :]
        if guest and guest.isdecimal():
            found = host_id(maps, int(guest))
            if found is None:
                raise InvalidInput(
                    option, text, f"an id is expected that the guest can use: {' '.join(map(str, maps))}"
                )
            return found
        found = look_up(text)
        if found is None:
            raise NotFound(f"{option}: this host has no {'user' if option == 'owner' else option} {text!r}.")
        return found

    @staticmethod
    def _change(directory: HeldDirectory, wanted: Ownership) -> None:
        directory.check_same()
        check_changeable(directory.path, directory.descriptor, wanted)
        with os_errors(f"change the owner or the mode of {directory.path}"):
            wanted.give_to(directory.descriptor)


def _as_result(state: Ownership) -> dict[str, str]:
    return {"owner": user_name(state.uid), "group": group_name(state.gid), "mode": f"{state.mode:04o}"}


__all__ = ["OWNER_OPTIONS", "DirectoryOwner"]
