# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Desired mounts of shared file systems (spec: shared-file-system): the mount, the root directory of the mounted store,
its marker, and what the service user can do there.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Mapping
from typing import Any, cast

from ..._core.arguments import ArgumentSpec
from ..._core.errors import (
    CommandFailed,
    Conflict,
    DependencyMissing,
    DependencyNotFound,
    InvalidInput,
)
from ..._core.identity import user_called
from ..._core.paths import absolute
from ..._core.plan import Action, Plan
from ..._host.mount import live, store
from ..._host.mount.file_system import FileSystemType
from ..._host.mount.store import MARKER, StoreRoot
from ..._host.mount.trial import try_mount
from ..._host.mount.types import file_system_type
from ..._host.mount.usability import ACTIONS, require_usable
from ..directory import group_id, group_name, read_mode, user_id, user_name
from .mount import POLICIES, MountService, MountSpec

#: Upper bound of a timeout in seconds: an hour.
LONGEST_TIMEOUT = 3600

#: Upper bound of the ids of users and groups. The next one, (uid_t) -1, stands for no change (chown(2)).
LARGEST_ID = (1 << 32) - 2

#: The values of the option ``marker`` beside a UUID.
CREATE, REQUIRE = "create", "require"

SHARED_MOUNT_SPEC = ArgumentSpec(
    {
        "path": {"type": "str", "required": True},
        "source": {"type": "str"},
        "fstype": {"type": "str", "default": "nfs"},
        "options": {"type": "list", "elements": "str", "default": []},
        "state": {"type": "str", "choices": ["mounted", "present", "unmounted", "absent"], "default": "mounted"},
        "boot": {"type": "bool", "default": True},
        "nofail": {"type": "bool", "default": True},
        "owner": {"type": "str"},
        "group": {"type": "str"},
        "mode": {"type": "str"},
        "marker": {"type": "str"},
        "verify": {
            "type": "dict",
            "options": {
                "user": {"type": "str", "required": True},
                "actions": {
                    "type": "list",
                    "elements": "str",
                    "choices": list(ACTIONS),
                    "default": ["create", "chmod", "lock"],
                },
            },
        },
        "remount": {"type": "str", "choices": list(POLICIES), "default": "live"},
        "nonempty": {"type": "bool", "default": False},
        "lazy": {"type": "bool", "default": False},
        "timeout": {"type": "int", "default": 30},
    },
    required_if=[["state", "mounted", ["source"]], ["state", "present", ["source"]]],
)


def build_shared_mount(options: Mapping[str, Any], etc: str = "/etc", proc: str = "/proc") -> SharedMountService:
    """Return the service for the options of the module ``shared_mount``.

    :raises InvalidInput: naming the option.
    """
    file_system = file_system_type("fstype", options["fstype"])
    source = options["source"]
    words = file_system.complete(file_system.options.check("options", options["options"]))
    if options["state"] == "present" and not options["boot"]:
        raise InvalidInput("boot", False, "state=present is an entry in fstab, which boot=true requests")
    desired = MountSpec(
        path=absolute("path", options["path"]),
        source=None if source is None else file_system.check_source("source", source),
        options=words,
        nofail=options["nofail"],
        state=options["state"],
        is_in_fstab=options["boot"],
        remount=options["remount"],
        may_hide=options["nonempty"],
        is_lazy=options["lazy"],
        timeout=check_timeout(options["timeout"]),
    )
    return SharedMountService(desired, DesiredStore(options), file_system, etc, proc)


def check_timeout(seconds: int) -> int:
    """Return a timeout in seconds.

    :raises InvalidInput: the number is less than 1 or more than :data:`LONGEST_TIMEOUT`.
    """
    if not 1 <= seconds <= LONGEST_TIMEOUT:
        raise InvalidInput("timeout", seconds, f"1 to {LONGEST_TIMEOUT} seconds are expected")
    return seconds


class DesiredStore:
    """The desired state inside the mount: its root directory, its marker, and the actions of a user.

    :raises InvalidInput: naming the option.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.owner: str | None = options["owner"]
        self.group: str | None = options["group"]
        self.mode: int | None = None if options["mode"] is None else read_mode("mode", options["mode"])
        self.marker: str | None = options["marker"]
        self.verify: Mapping[str, Any] | None = options["verify"]
        marker = self.marker
        if marker is not None and marker not in (CREATE, REQUIRE) and not store.is_uuid(marker):
            raise InvalidInput("marker", marker, f"{CREATE!r}, {REQUIRE!r} or a UUID in lower case is expected")

    @property
    def is_described(self) -> bool:
        """Return whether the options say anything about the content."""
        return any(one is not None for one in (self.owner, self.group, self.mode, self.marker))

    def of(self, root: StoreRoot) -> tuple[int, int, int]:
        """Return the desired owner, group and mode of the root directory.

        :raises DependencyNotFound: this host has no such user or group.
        """
        return (
            _required_id("owner", self.owner, user_id, root.uid),
            _required_id("group", self.group, group_id, root.gid),
            root.mode if self.mode is None else self.mode,
        )

    def check_marker(self, found: str | None, where: str) -> None:
        """Refuse a store with a wrong marker, or without one.

        :raises Conflict: naming both markers.
        """
        if self.marker in (None, CREATE) or (self.marker == REQUIRE and found is not None) or self.marker == found:
            return
        if found is None:
            raise Conflict(
                f"{where} has no marker {MARKER}: it isn't the expected store, or no host has marked it yet with "
                f"marker={CREATE}."
            )
        raise Conflict(f"{where} is another store than the expected one: it has the marker {found}, not {self.marker}.")


def _required_id(option: str, name: str | None, look_up: Callable[[str | None], int | None], current: int) -> int:
    found = look_up(name)
    if found is not None and found > LARGEST_ID:
        raise InvalidInput(option, name, f"a name, or a number of at most {LARGEST_ID}, is expected")
    if name is None or found is not None:
        return current if found is None else found
    raise DependencyNotFound(f"{option}: this host has no {'user' if option == 'owner' else option} {name!r}.")


class SharedMountService(MountService):
    """Plan one mount of a shared file system, and the state of the store in it."""

    def __init__(
        self, desired: MountSpec, content: DesiredStore, file_system: FileSystemType, etc: str, proc: str
    ) -> None:
        super().__init__(desired, file_system, etc, proc)
        self.content = content

    def plan(self) -> Plan:
        plan = super().plan()
        unknown = dict.fromkeys(("owner", "group", "mode", "marker"))
        plan.result["mount"] = {**unknown, **cast("Mapping[str, object]", plan.result["mount"])}
        if self.desired.is_wanted:
            plan.warnings += self.file_system.warnings(self.desired.options)
        return plan

    def plan_content(self, plan: Plan, path: str, settings: Mapping[str, str], is_there: bool) -> None:
        if is_there:
            plan.actions += self._plan_store(plan, path, self._read(path))
        elif not self.is_dry_run:
            plan.further = functools.partial(self._plan_mounted, plan, path)
        elif self.file_system.can_be_tried:
            try:
                plan.actions += self._plan_store(plan, path, self._try(path, settings))
            except (CommandFailed, DependencyMissing) as error:
                # An earlier task of the play may export the store.
                self.report_missing(plan, DependencyMissing(str(error)), is_planned=True)
        elif self.content.is_described:
            plan.warnings.append(f"The content of {self.desired.source} isn't known before it is mounted.")

    def _plan_mounted(self, plan: Plan, path: str) -> list[Action]:
        """Return the actions in a store that was just mounted, with the options that the server agreed to."""
        settings = self.file_system.settings_of(live.last_mount(path))
        self._add_to_result(plan, {"live": self.file_system.options.summarize(settings)})
        return self._plan_store(plan, path, self._read(path))

    def _plan_store(self, plan: Plan, path: str, root: StoreRoot) -> list[Action]:
        """Return the actions in the mounted store, and add its state to the result.

        :raises Conflict: the store isn't the expected one.
        """
        uid, gid, mode = self.content.of(root)
        self.content.check_marker(root.marker, f"{self.desired.source} on {path}")
        after = StoreRoot(uid, gid, mode, root.marker)
        marker, marking = self._plan_marker(path, root)
        self._add_to_result(plan, {**_describe_root(after), "marker": marker})
        self._plan_verification(plan, path)
        return [*self._plan_root(path, root, after), *marking]

    @staticmethod
    def _add_to_result(plan: Plan, values: Mapping[str, object]) -> None:
        plan.result["mount"] = {**cast("Mapping[str, object]", plan.result["mount"]), **values}

    def _read(self, path: str) -> StoreRoot:
        return self._within(f"Reading the store on {path}", functools.partial(store.read_root, path))

    def _try(self, path: str, settings: Mapping[str, str]) -> StoreRoot:
        """Return the root of the store without mounting it for this host."""
        self.file_system.require_supported()
        source = str(self.desired.source)
        return try_mount(self.desired.timeout, self.file_system, source, path, settings, store.read_root)

    def _plan_root(self, path: str, before: StoreRoot, after: StoreRoot) -> list[Action]:
        if before == after:
            return []
        doing = f"Changing the root directory of {path}"
        return [
            Action(
                "change root directory",
                path,
                _describe_root(before),
                _describe_root(after),
                record=functools.partial(self._within, doing, functools.partial(_change_root, path, after)),
                undo=functools.partial(self._within, doing, functools.partial(_change_root, path, before)),
            )
        ]

    def _plan_marker(self, path: str, root: StoreRoot) -> tuple[str | None, list[Action]]:
        """Return the UUID of the marker, and the action that creates a marker. In check mode, a new one has no UUID."""
        if root.marker is not None or self.content.marker != CREATE:
            return root.marker, []
        marker = str(uuid.uuid4())
        doing = f"Creating the marker of {path}"
        action = Action(
            "create marker",
            f"{path}/{MARKER}",
            None,
            "a new UUID" if self.is_dry_run else marker,
            record=functools.partial(self._within, doing, functools.partial(store.create_marker, path, marker)),
            undo=functools.partial(self._within, doing, functools.partial(store.remove_marker, path, marker)),
        )
        return None if self.is_dry_run else marker, [action]

    def _plan_verification(self, plan: Plan, path: str) -> None:
        if self.content.verify is None:
            return
        name = self.content.verify["user"]
        user = user_called(name)
        if user is None:
            missing = DependencyNotFound(f"verify: this host has no user {name!r}.")
            self.report_missing(plan, missing, is_planned=True)
            return
        call = functools.partial(require_usable, path, name, user, self.content.verify["actions"])
        plan.checks.append(functools.partial(self._within, f"Trying what {name} can do in {path}", call))


def _describe_root(root: StoreRoot) -> dict[str, str]:
    return {"owner": user_name(root.uid), "group": group_name(root.gid), "mode": f"{root.mode:04o}"}


def _change_root(path: str, wanted: StoreRoot) -> None:
    store.change_root(path, wanted.uid, wanted.gid, wanted.mode)


__all__ = ["SHARED_MOUNT_SPEC", "SharedMountService", "build_shared_mount", "check_timeout"]
