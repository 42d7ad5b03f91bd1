# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Mount, remount and unmount through mount(8) and umount(8)."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence

from .._core.command import Completed, run
from .._core.errors import CommandFailed, Conflict
from .._core.files import read_text
from .._core.paths import is_within


def mount(fstype: str, source: str, mount_point: str, options: Sequence[str]) -> None:
    """Mount ``source`` with exactly ``options``; fstab isn't read.

    :raises CommandFailed: mount(8) refused.
    """
    _mount(fstype, source, mount_point, options)


def remount(fstype: str, source: str, mount_point: str, options: Sequence[str], *, superblock: bool) -> None:
    """Give the mount ``options``; those not named are reset or stay, as mount(8) likes, so name each that changes.

    :arg superblock: change the superblock too, and so every other mount of the same file system.
    :raises Conflict: it is busy, for example a file is open for writing and ``ro`` is asked for.
    """
    _mount(fstype, source, mount_point, ["remount" if superblock else "remount,bind", *options])


def unmount(mount_point: str) -> None:
    """Unmount what is mounted last on ``mount_point``.

    :raises Conflict: it is busy.
    """
    _answer("umount", mount_point, run(["umount", "--", mount_point], accept=None))


def is_connected(mount_point: str) -> bool:
    """Whether the server of a FUSE or virtiofs mount is there; one that is gone for good makes every call fail with ENOTCONN.

    :raises CommandFailed: it didn't answer within 10 seconds.
    """
    try:
        completed = run(["stat", "--file-system", "--", mount_point], timeout=10, accept=None)
    except CommandFailed as error:
        raise CommandFailed(f"The mount on {mount_point} did not answer within 10 seconds: its server hangs, or is very busy.") from error
    return "Transport endpoint is not connected" not in completed.stderr


def users_of(mount_point: str, proc: str = "/proc") -> list[str]:
    """The processes that have a working directory, a root or an open file on the mount: ``bash (712)``. Doesn't touch the mount itself."""
    users = []
    for process in sorted((name for name in os.listdir(proc) if name.isdigit()), key=int):
        directory = os.path.join(proc, process)
        if any(is_within(target, mount_point) for target in _links(directory)):
            users.append(f"{read_text(os.path.join(directory, 'comm')).strip()} ({process})")
    return users


def _links(directory: str) -> list[str]:
    """Where cwd, root and the descriptors of a process point; none when it ended meanwhile."""
    links = [os.path.join(directory, "cwd"), os.path.join(directory, "root")]
    with contextlib.suppress(OSError):
        links += [entry.path for entry in os.scandir(os.path.join(directory, "fd"))]
    targets = []
    for link in links:
        with contextlib.suppress(OSError):
            targets.append(os.readlink(link))
    return [target for target in targets if target.startswith("/")]  # the others are sockets, pipes and the like


def _mount(fstype: str, source: str, mount_point: str, options: Sequence[str]) -> None:
    argv = ["mount", "-t", fstype, *(["-o", ",".join(options)] if options else []), "--", source, mount_point]
    _answer("mount", mount_point, run(argv, accept=None))


def _answer(command: str, mount_point: str, completed: Completed) -> None:
    """Raise the error that the command's answer means. Its reason comes first, advice after it."""
    if completed.returncode == 0:
        return
    reason = re.sub(rf"^{command}: ", "", (completed.stderr.strip().splitlines() or ["it gave no reason"])[0]).rstrip(".")
    if re.search(r"\bbusy\b", reason):
        users = users_of(mount_point)
        by = f"it is used by {', '.join(users[:5])}{' and others' if len(users) > 5 else ''}" if users else "a process or a mount below it uses it"
        raise Conflict(f"The mount on {mount_point} is busy: {by}; nothing was changed.")
    raise CommandFailed(f"The command {command!r} failed with exit code {completed.returncode}: {reason}.")


__all__ = ["is_connected", "mount", "remount", "unmount", "users_of"]
