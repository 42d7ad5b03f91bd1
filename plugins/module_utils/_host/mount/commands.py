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
from ..._core.errors import CommandFailed, Conflict, FileAccessFailed, StaleState, printable
from ..._core.files import read_text
from ..._core.paths import is_within
from .mountinfo import Mount, mounts_at, read_mounts
from .point import hold, mount_id, open_held

#: umount(8) follows a symbolic link, and waits for a server that hangs. So umount2(2) runs in a process of its own,
#: which can be left behind.
#:
#: With the id of the mount as the second argument, the process detaches the mount. That call waits for the server, too,
#: once the mount has left the table of mounts. So a third process makes the call. If the server comes back, the rest of
#: the data is written then.
_UNMOUNT = """
import ctypes, os, sys, time
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
libc = ctypes.CDLL(None, use_errno=True)
def unmount(flags):
    return ctypes.get_errno() if libc.umount2(os.fsencode(sys.argv[1]), flags) else 0
def is_mounted(number):
    with open("/proc/self/mountinfo", "rb") as file:
        return any(line.split(b" ", 1)[0] == number for line in file)
def detach(number):
    child = os.fork()
    if child == 0:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        os._exit(unmount(UMOUNT_NOFOLLOW | MNT_DETACH))
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.WEXITSTATUS(status)
        if not is_mounted(number):
            return 0
        time.sleep(0.01)
error = detach(os.fsencode(sys.argv[2])) if sys.argv[2:] else unmount(UMOUNT_NOFOLLOW)
if error:
    sys.exit(os.strerror(error))
"""

#: Upper bound of the time of a command in seconds. The callers have shorter deadlines (:mod:`..._core.deadline`).
_TIMEOUT = 2 * 3600


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
    _raise_failure("mount", source, mount_point, completed)


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
    _raise_failure("mount", mounted.source, mounted.mount_point, completed)


def unmount(mounted: Mount) -> None:
    """Unmount exactly this mount.

    :raises StaleState: the mount was replaced by another one.
    :raises Conflict: the mount is busy.
    """
    _umount(mounted)


def detach(mounted: Mount) -> None:
    """Take a mount out of the tree of directories, although it is busy or its server is dead (umount2(2), MNT_DETACH).

    Processes keep their open files.

    :raises StaleState: the mount was replaced by another one.
    """
    _umount(mounted, str(mounted.mount_id))


def _umount(mounted: Mount, *words: str) -> None:
    # The mount itself isn't opened. An open descriptor would make the mount busy, and a store that its server has lost
    # can't be opened. Only root can mount another file system on the path.
    with hold(mounted.mount_point) as (parent, name):
        here = mounts_at(read_mounts(), mounted.mount_point)
        _check_same(mounted, here[-1].mount_id if here else 0)
        argv = [sys.executable, "-I", "-c", _UNMOUNT, descriptor_path(parent, name), *words]
        files = {parent: os.path.dirname(mounted.mount_point)}
        completed = run(argv, files=files, timeout=_TIMEOUT, accept=None)
    _raise_failure("umount", mounted.source, mounted.mount_point, completed)


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
            with contextlib.suppress(FileAccessFailed):  # the process has just ended
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
    return run(argv, files={directory: mount_point}, timeout=_TIMEOUT, accept=None)


def _raise_failure(command: str, source: str, mount_point: str, completed: Completed) -> None:
    """Raise the error for the exit code of a command. In its message, the reason precedes the advice."""
    if completed.returncode == 0:
        return
    reason = re.sub(rf"^{command}: ", "", (completed.stderr.strip().splitlines() or ["it gave no reason"])[0]).rstrip(
        "."
    )
    reason = reason.replace(f"{mount_point}/.: ", f"{mount_point}: ")
    if re.search(r"\bbusy\b", reason.replace(mount_point, "").replace(source, "")):
        users = users_of(mount_point)
        by = (
            f"it is used by {', '.join(users[:5])}{' and others' if len(users) > 5 else ''}"
            if users
            else "a process or a mount below it uses it"
        )
        raise Conflict(f"The mount on {mount_point} is busy: {by}; nothing was changed.")
    raise CommandFailed(f"The command {command!r} failed with exit code {completed.returncode}: {reason}.")


__all__ = ["detach", "mount", "remount", "unmount", "users_of"]
