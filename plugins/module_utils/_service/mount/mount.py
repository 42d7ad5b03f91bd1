# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The desired state of one mount of any file system type, compared with fstab and the live mount."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..._core.errors import Conflict, DependencyNotFound, InvalidInput
from ..._core.files import read_text
from ..._core.locks import locked
from ..._core.paths import absolute, is_within
from ..._core.plan import Action, Plan
from ..._core.records import dataclass
from ..._host.mount import commands, fstab, live, mountinfo
from ..._host.mount import point as mount_point
from ..._host.mount.file_system import FileSystemType
from ..._host.mount.options import REMOUNTABLE, find_differences, summarize
from ..._model.mount_names import check_mount_point
from ..directory import read_mode
from ..service import Service

#: Upper bound of the names in a warning about a directory that isn't empty.
MOST_NAMES = 5


@dataclass(frozen=True)
class MountSpec:
    """The desired state of a mount.

    :arg source: ``None`` stands for any source of the type on ``path``.
    """

    path: str
    source: str | None
    options: tuple[str, ...] = ()
    nofail: bool = True
    mode: int = 0o755
    state: str = "mounted"

    @property
    def is_mounted(self) -> bool:
        return self.state == "mounted"

    @property
    def has_entry(self) -> bool:
        return self.state in ("mounted", "present")


def parse_mount_options(options: Mapping[str, Any], file_system: FileSystemType, source: str | None) -> MountSpec:
    """Return the desired state in the options of a module.

    :raises InvalidInput: naming the option.
    """
    return MountSpec(
        path=absolute("path", options["path"]),
        source=source,
        options=file_system.options.check("options", options["options"]),
        nofail=options["nofail"],
        mode=read_mode("mode", options["mode"]),
        state=options["state"],
    )


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
        path, missing = mount_point.locate(self.desired.path, mounts, option="path")
        if self.desired.has_entry:  # A mount on any other path can still be removed.
            self._check_point(mounts, path, missing)
        mounted = self._find_mounted(mounts, path)
        if self.desired.is_mounted:
            self._plan_directories(plan, path, missing)
        entry = self._plan_entry(plan, path)
        settings = self._plan_live(plan, mounts, path, mounted)
        source = self.desired.source
        if mounted is not None and settings is not None and not self.desired.is_mounted:
            source = mounted.source
        plan.result["mount"] = as_result(self.file_system, path, source, settings, entry)
        return plan

    # The mount point

    def _check_point(self, mounts: Sequence[mountinfo.Mount], path: str, missing: Sequence[str]) -> None:
        parent, name = os.path.split(path)
        for point in (path, *(os.path.join(alias, name) for alias in mountinfo.aliases(mounts, parent))):
            check_mount_point("path", point)
        if missing and os.path.lexists(missing[0]):
            raise InvalidInput("path", self.desired.path, f"{missing[0]} exists and isn't a directory")

    def _plan_directories(self, plan: Plan, path: str, missing: Sequence[str]) -> None:
        for directory in missing:
            mode = self.desired.mode if directory == path else 0o755
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
        names = mount_point.content(path) if os.path.isdir(path) else []
        if names:
            shown = ", ".join(map(repr, names[:MOST_NAMES])) + (" and others" if len(names) > MOST_NAMES else "")
            plan.warnings.append(
                f"The directory {path} is not empty; while the {self.file_system.source_noun} is mounted there, its "
                f"content can't be seen: {shown}."
            )

    # fstab

    def _plan_entry(self, plan: Plan, path: str) -> fstab.FstabEntry | None:
        """Plan the change of fstab, and return the new entry."""
        text = read_text(self.fstab)
        present = self._find_entries(text, path)
        if not self.desired.has_entry:
            if self.desired.state == "unmounted" or not present:
                return present[0] if present else None
            self._change_entry(plan, "remove", text, present, None)
            return None
        options = (*self.desired.options, *(["nofail"] if self.desired.nofail else []))
        desired = fstab.FstabEntry(str(self.desired.source), path, self.file_system.name, options)
        if len(present) == 1 and present[0].means(desired):
            return present[0]
        changeable = mount_point.changeable_by_others(path)
        if changeable is not None:
            plan.warnings.append(
                f"Another user than root can replace {changeable} by a symbolic link, and a boot would mount the "
                f"{self.file_system.source_noun} where that leads: take a mount point in a directory that only root "
                "can change."
            )
        self._change_entry(plan, "replace" if present else "add", text, present, desired)
        return desired

    def _find_entries(self, text: str, path: str) -> list[fstab.FstabEntry]:
        """Return the entries on the path of the desired state.

        :raises Conflict: the path has an entry of another type.
        """
        here = [entry for entry in fstab.parse(text) if entry.mount_point in (path, self.desired.path)]
        for entry in here:
            if self.desired.has_entry and entry.fstype != self.file_system.name:
                raise Conflict(
                    f"Line {entry.line} of {self.fstab} puts another file system on the path: {entry}; remove the "
                    "line, or take another path."
                )
        return [
            entry
            for entry in here
            if entry.fstype == self.file_system.name
            and (self.desired.has_entry or self.desired.source in (None, entry.source))
        ]

    def _change_entry(
        self,
        plan: Plan,
        verb: str,
        text: str,
        present: Sequence[fstab.FstabEntry],
        desired: fstab.FstabEntry | None,
    ) -> None:
        existed = os.path.exists(self.fstab)
        plan.actions.append(
            Action(
                f"{verb} fstab entry",
                self.fstab,
                "".join(f"{entry}\n" for entry in present) or None,
                None if desired is None else f"{desired}\n",
                record=functools.partial(self._write_fstab, plan, fstab.replace_entries(text, present, desired)),
                undo=functools.partial(self._write_fstab, plan, text if existed else None),
            )
        )

    def _write_fstab(self, plan: Plan, text: str | None) -> None:
        warning = fstab.write(self.fstab, text)
        if warning is not None:
            plan.warnings.append(warning)

    # The live mount

    def _find_mounted(self, mounts: Sequence[mountinfo.Mount], path: str) -> mountinfo.Mount | None:
        """Return the mount at ``path``, if it is of the type and source of the desired state.

        :raises Conflict: another mount is at ``path``.
        """
        here = mountinfo.mounts_at(mounts, path)
        is_meant = any(
            mount.fstype == self.file_system.name
            and (self.desired.is_mounted or self.desired.source in (None, mount.source))
            for mount in here
        )
        if self.desired.state != "present" and (is_meant or (here and self.desired.is_mounted)):
            return live.require_single(mounts, path, self.file_system.name)
        return here[-1] if is_meant else None

    def _plan_live(
        self, plan: Plan, mounts: Sequence[mountinfo.Mount], path: str, mounted: mountinfo.Mount | None
    ) -> dict[str, str] | None:
        """Plan the change of the mount, and return its new settings; ``None`` without a mount."""
        before = None if mounted is None else self.file_system.settings_of(mounted)
        if self.desired.state == "present":
            return before
        if not self.desired.is_mounted:
            self._add_unmount(plan, mounted)
            return None
        source = str(self.desired.source)
        after = self.file_system.options.desired_settings(self.desired.options)
        changes = set() if before is None else find_differences(before, after)
        if mounted is None or before is None or not self._can_stay(mounted, changes):
            self._check_mountable(plan, mounts, source, path, after)
            if mounted is None:
                self._check_hidden(plan, mounts, path)
            self._add_unmount(plan, mounted)
            self._add_mount(plan, source, path, after)
        elif changes:
            self._add_remount(plan, mounted, before, after)
        return after

    def _can_stay(self, mounted: mountinfo.Mount, changes: set[str]) -> bool:
        """Return whether a remount is enough. The old mount of a device that was removed and added again is dead."""
        return (
            mounted.source == self.desired.source
            and changes <= REMOUNTABLE
            and commands.is_connected(mounted.mount_point)
        )

    def _check_mountable(
        self, plan: Plan, mounts: Sequence[mountinfo.Mount], source: str, path: str, settings: Mapping[str, str]
    ) -> None:
        self.file_system.require_supported()
        try:
            self.file_system.require_source(source)
        except DependencyNotFound as error:
            self.report_missing(plan, error, is_planned=True)
        self.file_system.require_compatible(mounts, source, path, settings)

    def _add_mount(self, plan: Plan, source: str, path: str, settings: Mapping[str, str]) -> None:
        plan.actions.append(
            Action(
                "mount",
                path,
                None,
                self._describe(source, settings),
                record=functools.partial(live.mount, self.file_system, source, path, settings),
                undo=functools.partial(live.unmount_last, path),
            )
        )

    def _add_unmount(self, plan: Plan, mounted: mountinfo.Mount | None) -> None:
        if mounted is None:
            return
        settings = self.file_system.settings_of(mounted)
        path = mounted.mount_point
        plan.actions.append(
            Action(
                "unmount",
                path,
                self._describe(mounted.source, settings),
                None,
                record=functools.partial(commands.unmount, mounted),
                undo=functools.partial(live.mount, self.file_system, mounted.source, path, settings),
            )
        )

    def _add_remount(
        self, plan: Plan, mounted: mountinfo.Mount, before: Mapping[str, str], after: Mapping[str, str]
    ) -> None:
        plan.actions.append(
            Action(
                "remount",
                mounted.mount_point,
                self._describe(mounted.source, before),
                self._describe(mounted.source, after),
                record=functools.partial(live.remount, self.file_system, mounted, before, after),
                undo=functools.partial(live.remount, self.file_system, mounted, after, before),
            )
        )

    def _describe(self, source: str, settings: Mapping[str, str]) -> str:
        return f"{source} type {self.file_system.name} ({','.join(summarize(settings))})\n"


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
        "live": None if settings is None else summarize(settings),
        "fstab": None if entry is None else list(entry.options),
    }


__all__ = ["MountService", "MountSpec", "as_result", "parse_mount_options"]
