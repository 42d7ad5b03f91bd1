# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The entry of one mount in fstab."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..._core.deadline import run_with_deadline
from ..._core.errors import Conflict, StaleState
from ..._core.files import read_text
from ..._core.plan import Action, Plan
from ..._host.mount import fstab
from ..._host.mount import point as mount_point
from ..._host.mount.file_system import FileSystemType

if TYPE_CHECKING:
    from .mount import MountSpec


class EntryPlanner:
    """Plan the entry of a desired mount.

    ``changed_words`` are the options that differ between the old entry and the new one.

    :arg path: of the file fstab.
    """

    changed_words: Sequence[str] = ()

    def __init__(self, desired: MountSpec, file_system: FileSystemType, path: str) -> None:
        self.desired = desired
        self.file_system = file_system
        self.fstab = path

    def plan(self, plan: Plan, path: str, *, is_mounted: bool) -> fstab.FstabEntry | None:
        """Plan the change of fstab, and return the new entry.

        :arg path: the mount point, without symbolic links.
        """
        text = read_text(self.fstab)
        present = self._find_entries(text, path)
        if not self.desired.has_entry:
            if self.desired.state == "unmounted" or not present:
                return present[0] if present else None
            self._change(plan, "remove", text, present, None)
            return None
        desired = self._desired_entry(path)
        if len(present) == 1 and present[0].means(desired):
            return present[0]
        call = functools.partial(mount_point.changeable_by_others, path, is_mounted=is_mounted)
        changeable = run_with_deadline(self.desired.timeout, f"Looking at the directories of {path}", call)
        if changeable is not None:
            plan.warnings.append(
                f"Another user than root can replace {changeable} by a symbolic link, and a boot would mount the "
                f"{self.file_system.source_noun} where that leads: take a mount point in a directory that only root "
                "can change."
            )
        if present:
            old = present[0].options
            self.changed_words = sorted(set(old).symmetric_difference(desired.options))
        self._change(plan, "replace" if present else "add", text, present, desired)
        return desired

    def _desired_entry(self, path: str) -> fstab.FstabEntry:
        added = [*self.file_system.fstab_words, *(["nofail"] if self.desired.nofail else [])]
        options = (*self.desired.options, *(word for word in added if word not in self.desired.options))
        return fstab.FstabEntry(str(self.desired.source), path, self.file_system.name, options)

    def _find_entries(self, text: str, path: str) -> list[fstab.FstabEntry]:
        """Return the entries on the path of the desired state.

        :raises Conflict: the path has an entry of another type.
        """
        here = [entry for entry in fstab.parse(text) if entry.mount_point in (path, self.desired.path)]
        for entry in here:
            if self.desired.is_wanted and not self.file_system.matches_type(entry.fstype):
                raise Conflict(
                    f"Line {entry.line} of {self.fstab} puts another file system on the path: {entry}; remove the "
                    "line, or take another path."
                )
        return [
            entry
            for entry in here
            if self.file_system.matches_type(entry.fstype) and (self.desired.is_wanted or self._has_source(entry))
        ]

    def _has_source(self, entry: fstab.FstabEntry) -> bool:
        return self.desired.source is None or self.file_system.is_same_source(entry.source, self.desired.source)

    def _change(
        self,
        plan: Plan,
        verb: str,
        text: str,
        present: Sequence[fstab.FstabEntry],
        desired: fstab.FstabEntry | None,
    ) -> None:
        before = text if os.path.exists(self.fstab) else None
        after = fstab.replace_entries(text, present, desired)
        plan.actions.append(
            Action(
                f"{verb} fstab entry",
                self.fstab,
                "".join(f"{entry}\n" for entry in present) or None,
                None if desired is None else f"{desired}\n",
                record=functools.partial(self._write, plan, before, after),
                undo=functools.partial(self._write, plan, after, before),
            )
        )

    def _write(self, plan: Plan, expected: str | None, text: str | None) -> None:
        """Replace the text of fstab.

        :raises StaleState: fstab hasn't the ``expected`` text, because somebody edited the file meanwhile.
        """
        if read_text(self.fstab) != (expected or ""):
            raise StaleState(f"Another program changed {self.fstab} meanwhile, so it was left as it is; run it again.")
        warning = fstab.write(self.fstab, text)
        if warning is not None:
            plan.warnings.append(warning)


__all__ = ["EntryPlanner"]
