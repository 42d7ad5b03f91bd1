# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Mount and remount by mount(8), and unmount by umount2(2), each with descriptors."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Sequence

from ..._core.command import Completed, run
from ..._core.directory import descriptor_path
from ..._core.errors import CommandFailed, Conflict, StaleState, printable
from ..._core.files import read_text
from ..._core.paths import is_within
from .mountinfo import Mount, mounts_at, read_mounts
from .point import hold, mount_id, open_held

#: umount(8) follows a symbolic link, and waits for a server that hangs. So umount2(2) runs in a process of its own,
#: which can be left behind.
_UNMOUNT = """
import ctypes, os, sys
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
libc = ctypes.CDLL(None, use_errno=True)
flags = UMOUNT_NOFOLLOW | (MNT_DETACH if "detach" in sys.argv[2:] else 0)
if libc.umount2(os.fsencode(sys.argv[1]), flags):
    sys.exit(os.strerror(ctypes.get_errno()))
"""


def mount(fstype: str, source: str, mount_point: str, options: Sequence[str]) -> None:
    """Mount ``source`` with exactly ``options``. fstab isn't read.

    :raises StaleState: the mount point was replaced, or hidden by another mount, after it was checked.
    :raises CommandFailed: mount(8) refused.
    """
    with hold(mount_point) as (parent, name):
        with open_held(parent, name) as directory:
            if mount_id(directory) != mount_id(parent):
                raise StaleState(
                    f"Something was mounted on {mount_point} after it was checked; nothing was changed there."
                )
            completed = _mount(fstype, source, mount_point, directory, options)
    _raise_failure("mount", mount_point, completed)


def remount(mounted: Mount, options: Sequence[str], *, superblock: bool) -> None:
    """Change the options of the mount to ``options``. Name every option that must change, because mount(8) may keep or
    reset the others.

    :arg superblock: whether the superblock is changed too, and so every other mount of the same file system.
    :raises StaleState: the mount was replaced by another one.
    :raises Conflict: the mount is busy, for example because a file is open for writing and ``ro`` is requested.
    """
    words = ["remount" if superblock else "remount,bind", *options]
    with hold(mounted.mount_point) as (parent, name):
        with open_held(parent, name) as directory:
            _check_same(mounted, mount_id(directory))
            completed = _mount(mounted.fstype, mounted.source, mounted.mount_point, directory, words)
    _raise_failure("mount", mounted.mount_point, completed)


def unmount(mounted: Mount) -> None:
    """Unmount exactly this mount.

    :raises StaleState: the mount was replaced by another one.
    :raises Conflict: the mount is busy.
    """
    with hold(mounted.mount_point) as (parent, name):
        with open_held(parent, name) as directory:
            _check_same(mounted, mount_id(directory))
        # An open descriptor makes a mount busy, so the mount is identified by its path. Only root can mount another
        # file system on that path.
        completed = _umount(mounted.mount_point, parent, name)
    _raise_failure("umount", mounted.mount_point, completed)


def detach(mounted: Mount) -> None:
    """Take a mount out of the tree of directories, although it is busy or its server is dead (umount2(2), MNT_DETACH).

    The mount itself isn't accessed. Processes keep their open files.

    :raises StaleState: the mount was replaced by another one.
    """
    with hold(mounted.mount_point) as (parent, name):
        here = mounts_at(read_mounts(), mounted.mount_point)
        _check_same(mounted, here[-1].mount_id if here else 0)
        completed = _umount(mounted.mount_point, parent, name, "detach")
    _raise_failure("umount", mounted.mount_point, completed)


def _umount(mount_point: str, parent: int, name: str, *words: str) -> Completed:
    argv = [sys.executable, "-I", "-c", _UNMOUNT, descriptor_path(parent, name), *words]
    return run(argv, files={parent: os.path.dirname(mount_point)}, accept=None)


def _check_same(mounted: Mount, found: int) -> None:
    if found != mounted.mount_id:
        raise StaleState(
            f"What is mounted on {mounted.mount_point} changed after it was checked; nothing was changed there."
        )


def users_of(mount_point: str, proc: str = "/proc") -> list[str]:
    """Return the processes that have a working directory, a root or an open file on the mount: ``bash (712)``.

    The mount itself isn't accessed.
    """
    users = []
    for process in sorted((name for name in os.listdir(proc) if name.isdigit()), key=int):
        directory = os.path.join(proc, process)
        if any(is_within(target, mount_point) for target in _links(directory)):
            users.append(f"{printable(read_text(os.path.join(directory, 'comm')).strip())} ({process})")
    return users


def _links(directory: str) -> list[str]:
    """Return the targets of cwd, root and the descriptors of a process; none if the process has ended."""
    links = [os.path.join(directory, "cwd"), os.path.join(directory, "root")]
    with contextlib.suppress(OSError):
        links += [entry.path for entry in os.scandir(os.path.join(directory, "fd"))]
    targets = []
    for link in links:
        with contextlib.suppress(OSError):
            targets.append(os.readlink(link))
    return [
        target for target in targets if target.startswith("/")
    ]  # the other descriptors are sockets, pipes and the like


def _mount(fstype: str, source: str, mount_point: str, directory: int, options: Sequence[str]) -> Completed:
    # With --no-canonicalize and ".", mount(8) passes the descriptor to the kernel. With a path, the kernel would follow
    # links again.
    argv = [
        "mount",
        "--no-canonicalize",
        "-t",
        fstype,
        *(["-o", ",".join(options)] if options else []),
        "--",
        source,
        descriptor_path(directory, "."),
    ]
    return run(argv, files={directory: mount_point}, accept=None)


def _raise_failure(command: str, mount_point: str, completed: Completed) -> None:
    """Raise the error for the exit code of a command. In its message, the reason precedes the advice."""
    if completed.returncode == 0:
        return
    reason = re.sub(rf"^{command}: ", "", (completed.stderr.strip().splitlines() or ["it gave no reason"])[0]).rstrip(
        "."
    )
    reason = reason.replace(f"{mount_point}/.: ", f"{mount_point}: ")
    if re.search(r"\bbusy\b", reason):
        users = users_of(mount_point)
        by = (
            f"it is used by {', '.join(users[:5])}{' and others' if len(users) > 5 else ''}"
            if users
            else "a process or a mount below it uses it"
        )
        raise Conflict(f"The mount on {mount_point} is busy: {by}; nothing was changed.")
    raise CommandFailed(f"The command {command!r} failed with exit code {completed.returncode}: {reason}.")


__all__ = ["detach", "mount", "remount", "unmount", "users_of"]
