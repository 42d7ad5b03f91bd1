# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The mounts of one type of file systems, live or in fstab."""

from __future__ import annotations

import os

from ..._core.files import read_text
from ..._host.mount import fstab, mountinfo
from ..._host.mount.condition import read_conditions
from ..._host.mount.file_system import FileSystemType
from .mount import as_result

#: Seconds for all mounts together.
TIMEOUT = 10


def list_mounts(file_system: FileSystemType, etc: str = "/etc", proc: str = "/proc") -> list[dict[str, object]]:
    """Return the live mounts of the type, then the entries of fstab that aren't mounted."""
    text = read_text(os.path.join(etc, "fstab"))
    entries = [entry for entry in fstab.parse(text) if file_system.matches_type(entry.fstype)]
    mounts = [mount for mount in mountinfo.read_mounts(proc) if file_system.matches_type(mount.fstype)]
    conditions = read_conditions([mount.mount_point for mount in mounts], TIMEOUT)
    found: list[dict[str, object]] = []
    for mount in mounts:
        entry = _take_entry(entries, mount)
        settings = file_system.settings_of(mount)
        shown = as_result(file_system, mount.mount_point, mount.source, settings, entry)
        found.append({**shown, "connected": conditions[mount.mount_point].is_ok})
    for entry in entries:
        shown = as_result(file_system, entry.mount_point, entry.source, None, entry)
        found.append({**shown, "connected": False})
    return found


def _take_entry(entries: list[fstab.FstabEntry], mount: mountinfo.Mount) -> fstab.FstabEntry | None:
    """Return the entry for ``mount``, and remove it from ``entries``."""
    for entry in entries:
        if (entry.mount_point, entry.source) == (mount.mount_point, mount.source):
            entries.remove(entry)
            return entry
    return None


__all__ = ["list_mounts"]
