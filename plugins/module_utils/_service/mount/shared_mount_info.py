# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The shared mounts of this host: live or in fstab, their condition, their markers, and their users."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..._core.arguments import ArgumentSpec
from ..._core.deadline import run_all_with_deadline
from ..._core.errors import LibvirtFailed, TimedOut, VmstoreError
from ..._core.files import read_text
from ..._core.identity import Identity, acting_as, user_called
from ..._core.paths import absolute, is_within
from ..._core.records import dataclass
from ..._host.mount import commands, fstab, mountinfo, store
from ..._host.mount.condition import Condition, read_conditions
from ..._host.mount.file_system import FileSystemType
from ..._host.mount.types import type_of_mount
from ..._libvirt.devices.disk_files import files_of_local_domains
from ..._model.file_system_types import is_shared_type
from ..directory import group_name, user_name
from .mount import as_result
from .shared_mount import check_timeout

SHARED_MOUNT_INFO_SPEC = ArgumentSpec(
    {
        "path": {"type": "str"},
        "user": {"type": "str", "default": "oneadmin"},
        "timeout": {"type": "int", "default": 10},
    }
)


@dataclass(frozen=True)
class _Found:
    """A mount, live or in fstab or both."""

    path: str
    file_system: FileSystemType
    mount: mountinfo.Mount | None
    entry: fstab.FstabEntry | None
    state: str


def shared_mount_info(options: Mapping[str, Any], etc: str = "/etc", proc: str = "/proc") -> dict[str, object]:
    """Return the shared mounts of this host, or those on one path.

    All mounts are accessed at once. Mounts of dead servers take the timeout once, whatever their number.
    """
    path = None if options["path"] is None else absolute("path", options["path"])
    timeout = check_timeout(options["timeout"])
    found = _find(path, etc, proc)
    visible = [one.path for one in found if one.state == "ok"]
    conditions = read_conditions(visible, timeout)
    alive = [one for one in visible if conditions[one].is_ok]
    user = user_called(options["user"])
    looks: dict[str, Callable[[], dict[str, object]]] = {one: functools.partial(_look, one, user) for one in alive}
    contents = run_all_with_deadline(timeout, "Reading the store on {}", looks)
    warnings: list[str] = []
    domains = _domains(warnings)
    mounts = [_as_result(one, conditions.get(one.path), contents.get(one.path), domains, proc) for one in found]
    return {"mounts": mounts, "warnings": warnings}


def _find(path: str | None, etc: str, proc: str) -> list[_Found]:
    """Return the live mounts in the order of the kernel's table, then the entries of fstab without a mount."""
    entries = fstab.parse(read_text(os.path.join(etc, "fstab")))
    mounts = mountinfo.read_mounts(proc)
    found = []
    for mount in mounts:
        if _is_meant(path, mount.mount_point, mount.fstype):
            file_system = type_of_mount(mount.fstype)
            here = (entry for entry in entries if entry.mount_point == mount.mount_point)
            entry = next((entry for entry in here if file_system.matches_type(entry.fstype)), None)
            found.append(_Found(mount.mount_point, file_system, mount, entry, _placement(mounts, mount)))
    taken = [one.entry for one in found]
    for entry in entries:
        if entry not in taken and _is_meant(path, entry.mount_point, entry.fstype):
            found.append(_Found(entry.mount_point, type_of_mount(entry.fstype), None, entry, "missing"))
    return found


def _is_meant(path: str | None, mount_point: str, fstype: str) -> bool:
    return mount_point == path or (path is None and is_shared_type(fstype))


def _placement(mounts: Sequence[mountinfo.Mount], mount: mountinfo.Mount) -> str:
    if mountinfo.visible(mounts, mount.mount_point)[-1] != mount:
        return "hidden"
    return "stacked" if len(mountinfo.mounts_at(mounts, mount.mount_point)) > 1 else "ok"


def _look(path: str, user: Identity | None) -> dict[str, object]:
    """Return what a mount has inside. It is called in a child process."""
    root = store.read_root(path)
    found: dict[str, object] = {
        "owner": user_name(root.uid),
        "group": group_name(root.gid),
        "mode": f"{root.mode:04o}",
        "marker": root.marker,
    }
    if user is not None and os.geteuid() == 0:
        with acting_as(user):
            found["access"] = {
                name: os.access(path, mode, effective_ids=True)
                for name, mode in (("read", os.R_OK), ("write", os.W_OK), ("search", os.X_OK))
            }
    return found


def _domains(warnings: list[str]) -> Mapping[str, Sequence[str]]:
    """Return the names of the domains by the paths of their files, as these are in the domains."""
    try:
        return files_of_local_domains(os.path.normpath)
    except LibvirtFailed as error:
        warnings.append(f"The domains of this host are not in the result: {error}")
        return {}


def _as_result(
    one: _Found,
    condition: Condition | None,
    content: Mapping[str, object] | VmstoreError | None,
    domains: Mapping[str, Sequence[str]],
    proc: str,
) -> dict[str, object]:
    settings = None if one.mount is None else one.file_system.settings_of(one.mount)
    source = one.mount.source if one.mount else one.entry.source if one.entry else ""
    result = as_result(one.file_system, one.path, source, settings, one.entry)
    state, reason = one.state, None
    if condition is not None and not condition.is_ok:
        state, reason = "stale", condition.error
    elif isinstance(content, TimedOut):
        state = "stale"
    inside: dict[str, object] = {"owner": None, "group": None, "mode": None, "marker": None, "access": None}
    if isinstance(content, VmstoreError):
        reason = str(content)
    else:
        inside.update(content or {})
    return {
        **result,
        "source": source,
        "fstype": one.mount.fstype if one.mount else one.file_system.name,
        "state": state,
        "reason": reason,
        "total_bytes": condition.total if condition else None,
        "free_bytes": condition.free if condition else None,
        **inside,
        "version": _value_of(settings, "vers"),
        "protocol": _value_of(settings, "proto"),
        "processes": commands.users_of(one.path, proc) if one.mount and one.state == "ok" else [],
        "domains": sorted({name for file, names in domains.items() if is_within(file, one.path) for name in names}),
    }


def _value_of(settings: Mapping[str, str] | None, setting: str) -> str | None:
    return (settings or {}).get(setting, "").partition("=")[2] or None


__all__ = ["SHARED_MOUNT_INFO_SPEC", "shared_mount_info"]
