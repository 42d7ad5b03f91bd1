# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The desired state of one mount of any file system type, compared with fstab and the live mount."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from ..._core.deadline import run_with_deadline
from ..._core.errors import Conflict, DependencyMissing, InvalidInput, TimedOut
from ..._core.locks import locked
from ..._core.paths import is_within
from ..._core.plan import Action, Plan
from ..._core.records import dataclass
from ..._host.mount import commands, fstab, live, mountinfo
from ..._host.mount import point as mount_point
from ..._host.mount.condition import Condition, read_condition
from ..._host.mount.file_system import FileSystemType
from ..._model.mount_names import check_mount_point
from ..service import Service
from .entry import EntryPlanner

Answer = TypeVar("Answer")

#: What may be done to a mount that differs from the desired one, from the least on.
POLICIES = ("never", "live", "unmount")

#: Upper bound of the names in a warning about a directory that isn't empty.
MOST_NAMES = 5


@dataclass(frozen=True)
class MountSpec:
    """The desired state of a mount.

    :arg source: ``None`` stands for any source of the type on ``path``.
    :arg point_mode: permissions of a created mount point.
    :arg is_in_fstab: whether a mounted file system is in fstab.
    :arg remount: ``never`` leaves a mount with other options, ``live`` remounts it, and ``unmount`` also unmounts it
        where a remount isn't enough.
    :arg may_hide: whether the mount point may have files, which the mount hides.
    :arg is_lazy: whether a mount that doesn't respond is detached; ``None`` if the user has no such choice.
    :arg timeout: seconds for each access to the mount.
    """

    path: str
    source: str | None
    options: tuple[str, ...] = ()
    nofail: bool = True
    point_mode: int = 0o755
    state: str = "mounted"
    is_in_fstab: bool = True
    remount: str = "unmount"
    may_hide: bool = True
    is_lazy: bool | None = None
    timeout: float = 30

    @property
    def is_mounted(self) -> bool:
        return self.state == "mounted"

    @property
    def is_wanted(self) -> bool:
        """Return whether the mount is to exist, live or in fstab."""
        return self.state in ("mounted", "present")

    @property
    def has_entry(self) -> bool:
        return self.is_wanted and self.is_in_fstab


class MountService(Service):
    """Plan one mount, live and in fstab.

    :arg etc: the directory of ``fstab``.
    :arg proc: the directory of ``self/mountinfo``.
    """

    def __init__(self, desired: MountSpec, file_system: FileSystemType, etc: str = "/etc", proc: str = "/proc") -> None:
        self.desired = desired
        self.file_system = file_system
        self.fstab = os.path.join(etc, "fstab")
        self.proc = proc

    def exclusive(self) -> contextlib.AbstractContextManager[object]:
        return locked(os.path.join(os.path.dirname(self.fstab), ".fstab.lock"))

    def plan(self) -> Plan:
        plan = Plan()
        mounts = mountinfo.read_mounts(self.proc)
        path, missing = self._locate(mounts)
        if self.desired.is_wanted:  # A mount on any other path can still be removed.
            self._check_point(mounts, path, missing)
        mounted = self._find_mounted(mounts, path)
        if self.desired.is_mounted:
            self._plan_directories(plan, path, missing)
        entries = EntryPlanner(self.desired, self.file_system, self.fstab)
        entry = entries.plan(plan, path, is_mounted=bool(mountinfo.mounts_at(mounts, path)))
        settings, stays = self._plan_live(plan, mounts, path, mounted)
        if mounted is not None and stays:
            self._warn_of_options(plan, mounted, entries.changed_words)
        source = self.desired.source
        if mounted is not None and settings is not None and not self.desired.is_mounted:
            source = mounted.source
        plan.result["mount"] = as_result(self.file_system, path, source, settings, entry)
        if self.desired.is_mounted and settings is not None:
            self.plan_content(plan, path, settings, stays)
        return plan

    def plan_content(self, plan: Plan, path: str, settings: Mapping[str, str], is_there: bool) -> None:
        """Plan the state of the mounted file system itself.

        :arg is_there: whether the file system is mounted already, and stays.
        """

    def _locate(self, mounts: Sequence[mountinfo.Mount]) -> tuple[str, list[str]]:
        # A directory in the path may be on another mount that hangs.
        call = functools.partial(mount_point.locate, self.desired.path, mounts, option="path")
        return run_with_deadline(self.desired.timeout, f"Looking for the directory {self.desired.path}", call)

    # The mount point

    def _check_point(self, mounts: Sequence[mountinfo.Mount], path: str, missing: Sequence[str]) -> None:
        parent, name = os.path.split(path)
        for point in (path, *(os.path.join(alias, name) for alias in mountinfo.aliases(mounts, parent))):
            check_mount_point("path", point)
        if missing and os.path.lexists(missing[0]):
            raise InvalidInput("path", self.desired.path, f"{missing[0]} exists and isn't a directory")

    def _plan_directories(self, plan: Plan, path: str, missing: Sequence[str]) -> None:
        for directory in missing:
            mode = self.desired.point_mode if directory == path else 0o755
            plan.actions.append(
                Action(
                    "create directory",
                    directory,
                    None,
                    f"mode {mode:04o}",
                    record=functools.partial(mount_point.create, directory, mode),
                    undo=functools.partial(mount_point.remove, directory),
                )
            )

    def _check_hidden(self, plan: Plan, mounts: Sequence[mountinfo.Mount], path: str) -> None:
        """Warn of files that the mount hides.

        :raises Conflict: the mount would hide another mount.
        """
        for mount in mounts:
            if is_within(mount.mount_point, path):
                raise Conflict(
                    f"The mount {mount} would be hidden by a mount on {path}; unmount that first, or take another path."
                )
        names = self._within(f"Reading the directory {path}", functools.partial(_names_in, path))
        if names:
            shown = ", ".join(map(repr, names[:MOST_NAMES])) + (" and others" if len(names) > MOST_NAMES else "")
            if not self.desired.may_hide:
                raise Conflict(
                    f"The directory {path} is not empty, and a mount would hide its content: {shown}. Move that away, "
                    "or set nonempty=true."
                )
            plan.warnings.append(
                f"The directory {path} is not empty; while the {self.file_system.source_noun} is mounted there, its "
                f"content can't be seen: {shown}."
            )

    # The live mount

    def _find_mounted(self, mounts: Sequence[mountinfo.Mount], path: str) -> mountinfo.Mount | None:
        """Return the mount at ``path``, if it is of the type and source of the desired state.

        :raises Conflict: another mount is at ``path``.
        """
        here = mountinfo.mounts_at(mounts, path)
        is_meant = any(
            self.file_system.matches_type(mount.fstype) and (self.desired.is_mounted or self._has_source(mount))
            for mount in here
        )
        if self.desired.state != "present" and (is_meant or (here and self.desired.is_mounted)):
            return live.require_single(mounts, path, self.file_system)
        return here[-1] if is_meant else None

    def _has_source(self, mount: mountinfo.Mount) -> bool:
        return self.desired.source is None or self.file_system.is_same_source(mount.source, self.desired.source)

    def _plan_live(
        self, plan: Plan, mounts: Sequence[mountinfo.Mount], path: str, mounted: mountinfo.Mount | None
    ) -> tuple[dict[str, str] | None, bool]:
        """Plan the change of the mount. Return its new settings, and whether the present mount stays. Without a mount,
        the settings are ``None``.
        """
        before = None if mounted is None else self.file_system.settings_of(mounted)
        if self.desired.state == "present":
            return before, mounted is not None
        condition = None if mounted is None else self._require_response(mounted)
        if not self.desired.is_mounted:
            self._add_unmount(plan, mounted, condition)
            return None, False
        source = str(self.desired.source)
        after = self.file_system.options.desired_settings(self.desired.options)
        if mounted is not None and before is not None and condition is not None:
            changes = self.file_system.options.find_differences(before, after)
            obstacle = self._find_obstacle(mounted, changes, condition)
            if obstacle is None:
                if changes:
                    self._check_policy("live", mounted, f"it has other options ({', '.join(sorted(changes))})")
                    self._add_remount(plan, mounted, before, after)
                return {**before, **{setting: after[setting] for setting in changes}}, True
            self._check_policy("unmount", mounted, obstacle)
        self._check_mountable(plan, mounts, source, path, after)
        if mounted is None:
            self._check_hidden(plan, mounts, path)
        self._add_unmount(plan, mounted, condition)
        self._add_mount(plan, source, path, after)
        return after, False

    def _warn_of_options(self, plan: Plan, mounted: mountinfo.Mount, words: Sequence[str]) -> None:
        options = self.file_system.options
        live, desired = self.file_system.settings_of(mounted), options.desired_settings(self.desired.options)
        unknown = options.find_incomparable(words, live, desired)
        if unknown:
            plan.warnings.append(
                f"The changed options {', '.join(unknown)} can't be compared with the live mount {mounted}, and take "
                "effect at its next mount."
            )

    def _require_response(self, mounted: mountinfo.Mount) -> Condition:
        """Return the condition of a mount.

        :raises TimedOut: the mount doesn't respond and must not be detached.
        """
        found = read_condition(mounted.mount_point, self.desired.timeout)
        if not found.responds and not self.desired.is_lazy:
            advice = "." if self.desired.is_lazy is None else ", or detach the mount with lazy=true."
            raise TimedOut(
                f"The mount {mounted} did not respond within {self.desired.timeout:g} seconds: its server is away, or "
                f"very busy; nothing was changed. Bring the server back{advice}"
            )
        return found

    def _find_obstacle(self, mounted: mountinfo.Mount, changes: set[str], condition: Condition) -> str | None:
        """Return the reason why a remount isn't enough, as a part of a sentence. The old mount of a device that was
        removed and added again is dead.
        """
        if not self._has_source(mounted):
            return f"it has another source than {self.desired.source}"
        if not condition.is_ok:
            return f"it is dead ({condition.error})"
        fixed = changes - self.file_system.options.remountable
        return f"a remount can't change its {', '.join(sorted(fixed))}" if fixed else None

    def _check_policy(self, needed: str, mounted: mountinfo.Mount, reason: str) -> None:
        if POLICIES.index(self.desired.remount) < POLICIES.index(needed):
            raise Conflict(
                f"The mount {mounted} has to be changed, because {reason}: allow that with remount={needed}."
            )

    def _check_mountable(
        self, plan: Plan, mounts: Sequence[mountinfo.Mount], source: str, path: str, settings: Mapping[str, str]
    ) -> None:
        try:
            self.file_system.require_supported()
            self.file_system.require_source(source)
        except DependencyMissing as error:
            self.report_missing(plan, error, is_planned=True)
        self.file_system.require_compatible(mounts, source, path, settings)

    def _within(self, doing: str, function: Callable[[], Answer]) -> Answer:
        return run_with_deadline(self.desired.timeout, doing, function)

    def _mount(self, source: str, path: str, settings: Mapping[str, str]) -> None:
        live.mount_with_deadline(self.desired.timeout, self.file_system, source, path, settings)

    def _add_mount(self, plan: Plan, source: str, path: str, settings: Mapping[str, str]) -> None:
        plan.actions.append(
            Action(
                "mount",
                path,
                None,
                self._describe(source, settings),
                record=functools.partial(self._mount, source, path, settings),
                undo=functools.partial(live.unmount_with_deadline, self.desired.timeout, path),
            )
        )

    def _add_unmount(self, plan: Plan, mounted: mountinfo.Mount | None, condition: Condition | None) -> None:
        if mounted is None or condition is None:
            return
        settings = self.file_system.settings_of(mounted)
        path = mounted.mount_point
        unmount = functools.partial(commands.unmount if condition.responds else commands.detach, mounted)
        plan.actions.append(
            Action(
                "unmount" if condition.responds else "detach",
                path,
                self._describe(mounted.source, settings),
                None,
                record=functools.partial(self._within, f"Unmounting {path}", unmount),
                undo=functools.partial(self._mount, mounted.source, path, settings),
            )
        )

    def _add_remount(
        self, plan: Plan, mounted: mountinfo.Mount, before: Mapping[str, str], after: Mapping[str, str]
    ) -> None:
        doing = f"Remounting {mounted.mount_point}"
        call = functools.partial(live.remount, self.file_system, mounted)
        plan.actions.append(
            Action(
                "remount",
                mounted.mount_point,
                self._describe(mounted.source, before),
                self._describe(mounted.source, {**before, **after}),
                record=functools.partial(self._within, doing, functools.partial(call, before, after)),
                undo=functools.partial(self._within, doing, functools.partial(call, after, before)),
            )
        )

    def _describe(self, source: str, settings: Mapping[str, str]) -> str:
        return f"{source} type {self.file_system.name} ({','.join(self.file_system.options.summarize(settings))})\n"


def _names_in(path: str) -> list[str]:
    return mount_point.content(path) if os.path.isdir(path) else []


def as_result(
    file_system: FileSystemType,
    path: str,
    source: str | None,
    settings: Mapping[str, str] | None,
    entry: fstab.FstabEntry | None,
) -> dict[str, object]:
    """Return a mount as a module's result."""
    return {
        "path": path,
        file_system.source_noun: source,
        "live": None if settings is None else file_system.options.summarize(settings),
        "fstab": None if entry is None else list(entry.options),
    }


__all__ = ["POLICIES", "MountService", "MountSpec", "as_result"]
