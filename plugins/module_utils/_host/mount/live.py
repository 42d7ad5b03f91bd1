# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Live mounts with exactly the desired settings. A mount with other settings is undone."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from ..._core.deadline import run_with_deadline
from ..._core.errors import CommandFailed, Conflict, StaleState, TimedOut
from . import commands
from .file_system import FileSystemType
from .mountinfo import Mount, mounts_at, read_mounts, visible
from .options import REMOUNTABLE


def require_single(mounts: Sequence[Mount], path: str, file_system: FileSystemType) -> Mount:
    """Return the one mount at ``path``.

    :raises Conflict: several mounts, a hidden mount, an automount point, a bind mount, or a mount of another type.
    """
    here = mounts_at(mounts, path)
    if here[0].fstype == "autofs":
        raise Conflict(
            f"The path {path} is an automount point ({here[0]}), which mounts by itself: remove that from the "
            "configuration of the automounter or from fstab (x-systemd.automount), or take another path."
        )
    seen = visible(mounts, path)[-1]
    if seen.mount_point != path:
        raise Conflict(f"The mount {here[-1]} is hidden by the later mount {seen}; unmount that first.")
    if len(here) > 1:
        raise Conflict(
            f"{len(here)} mounts are stacked on {path}, the last one is seen: {', '.join(map(str, here))}; "
            "unmount all but one."
        )
    if not file_system.matches_type(here[0].fstype):
        raise Conflict(f"Another file system is mounted on the path: {here[0]}; unmount it, or take another path.")
    if here[0].root != "/":
        raise Conflict(
            f"The path {path} is a bind mount of {here[0].root} in {here[0]}; unmount it, or take another path."
        )
    return here[0]


def mount(file_system: FileSystemType, source: str, path: str, settings: Mapping[str, str]) -> None:
    """Mount ``source`` on ``path``.

    :raises StaleState: the mount point changed after it was checked.
    :raises CommandFailed: mount(8) refused, or the kernel mounted with other settings.
    """
    before = {mount.mount_id for mount in read_mounts()}
    try:
        commands.mount(file_system.name, source, path, file_system.options.kernel_words(settings))
    except CommandFailed as error:
        raise file_system.explain(error, source, path) from error
    try:
        mounted = last_mount(path)
        # An earlier mount of the source shares its superblock.
        if settings["access"] == "rw" and "ro" in mounted.super_options:
            commands.remount(mounted, file_system.options.kernel_words(settings, ["access"]), superblock=True)
        _require_settings(file_system, path, settings)
    except BaseException:
        # If a parent directory was renamed meanwhile, the mount is at another path.
        for made in _made_since(before, file_system, source):
            commands.unmount(made)
        raise


def mount_with_deadline(
    seconds: float, file_system: FileSystemType, source: str, path: str, settings: Mapping[str, str]
) -> None:
    """Do :func:`mount` in a child process, because the server may be dead.

    :raises CommandFailed: the mount did not end in so many seconds. Nothing is mounted then.
    """
    before = {mount.mount_id for mount in read_mounts()}
    call = functools.partial(mount, file_system, source, path, settings)
    try:
        run_with_deadline(seconds, f"Mounting {source} on {path}", call)
    except CommandFailed as error:
        # The child process may have been stopped between the mount and its check.
        for made in _made_since(before, file_system, source):
            run_with_deadline(seconds, f"Detaching {made.mount_point}", functools.partial(commands.detach, made))
        raise (file_system.explain(error, source, path) if isinstance(error, TimedOut) else error) from error


def _made_since(before: set[int], file_system: FileSystemType, source: str) -> list[Mount]:
    """Return the mounts of ``source`` that aren't in ``before``, the last one first."""
    return [
        made
        for made in reversed(read_mounts())
        if made.mount_id not in before
        and file_system.matches_type(made.fstype)
        and file_system.is_same_source(made.source, source)
    ]


def unmount_with_deadline(seconds: float, path: str) -> None:
    """Unmount the last mount on ``path``, which the caller has just made, in a child process. If the server died
    meanwhile, detach the mount.
    """
    made = last_mount(path)
    doing = f"Unmounting {path}"
    try:
        run_with_deadline(seconds, doing, functools.partial(commands.unmount, made))
    except TimedOut:
        # The call waits for the server, too, once the mount has left the table.
        if made.mount_id in {mount.mount_id for mount in read_mounts()}:
            run_with_deadline(seconds, doing, functools.partial(commands.detach, made))


def remount(file_system: FileSystemType, live: Mount, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Change the settings of a mount from ``before`` to ``after``.

    :arg live: the mount before the change.
    :raises StaleState: the mount was replaced by another one.
    :raises Conflict: the mount is busy.
    :raises CommandFailed: mount(8) refused, or the kernel has other settings. The mount has its old settings then.
    """
    changes = file_system.options.find_differences(before, after)
    # A read-only superblock is read-only for every mount of the source.
    superblock = ("access" in changes and "ro" in live.super_options) or not changes <= REMOUNTABLE
    commands.remount(live, file_system.options.kernel_words(after, changes), superblock=superblock)
    try:
        _require_settings(file_system, live.mount_point, after)
    except CommandFailed:
        commands.remount(live, file_system.options.kernel_words(before, changes), superblock=superblock)
        raise


def last_mount(path: str) -> Mount:
    """Return the last mount on ``path``.

    :raises StaleState: nothing is mounted there any more.
    """
    here = mounts_at(read_mounts(), path)
    if not here:
        raise StaleState(
            f"The mount point {path} was moved to another path during the mount; nothing is mounted on it now."
        )
    return here[-1]


def _require_settings(file_system: FileSystemType, path: str, settings: Mapping[str, str]) -> None:
    mounted = last_mount(path)
    found = file_system.settings_of(mounted)
    changes = sorted(file_system.options.find_differences(found, settings))
    if changes:
        got, desired = (", ".join(repr(one[setting]) for setting in changes) for one in (found, settings))
        raise CommandFailed(
            f"The kernel mounted {mounted} with {got} instead of {desired}; it does not support that for "
            f"{file_system.name}."
        )


__all__ = ["last_mount", "mount", "mount_with_deadline", "remount", "require_single", "unmount_with_deadline"]
