# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Directories with temporary names, as :mod:`.temporary` has files. The file ``lock`` in such a directory is locked
while a program uses the directory.

A part directory has mode 0700 until it is removed, so that other users can't change its files. Names of other parts
come from directories that were set aside. They have no file ``lock``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator

from .directory import exists_at, open_directory_at, open_file_at
from .records import dataclass
from .temporary import is_held, lock, new_part_name

#: Name of the file that is locked.
LOCK = "lock"

#: Upper bound of the depth of a directory that is removed. Each level takes a descriptor.
DEEPEST = 64


@dataclass(frozen=True)
class PartDirectory:
    """An open part directory.

    :arg name: its name in the directory of the descriptor ``parent``.
    :arg descriptor: a descriptor of the directory itself.
    :arg lock: a descriptor of the locked file, to read and write by.
    """

    parent: int
    name: str
    descriptor: int
    lock: int

    def close(self) -> None:
        """Release the lock. Then another program can use or remove the directory."""
        for descriptor in (self.descriptor, self.lock):
            with contextlib.suppress(OSError):  # what was written by the lock's descriptor only saves work
                os.close(descriptor)

    def remove(self) -> None:
        """Remove the directory with its content. The lock stays until :meth:`close`.

        :raises OSError: a file can't be removed.
        """
        _clear(self.descriptor, kept=LOCK)
        # After a power failure, content without the lock would stay for ever.
        os.fsync(self.descriptor)
        os.unlink(LOCK, dir_fd=self.descriptor)
        os.rmdir(self.name, dir_fd=self.parent)


def create_part_directory(parent: int, name: str | None = None) -> PartDirectory:
    """Create an empty part directory in the directory ``parent``, and lock it.

    :arg name: a name from :func:`.new_part_name`; a new one by default.
    :raises FileExistsError: the name exists; :raises OSError: the directory can't be created or locked.
    """
    while True:
        found = name or new_part_name()
        os.mkdir(found, 0o700, dir_fd=parent)
        try:
            return _open(parent, found, os.O_CREAT | os.O_EXCL, fcntl.F_OFD_SETLKW)
        except FileNotFoundError:
            continue  # another program swept the directory before it was locked


def open_part_directory(parent: int, name: str) -> PartDirectory | None:
    """Open and lock a part directory that another program of this user has left. Return ``None`` without one.

    :raises BlockingIOError: a running program holds the directory.
    :raises OSError: it can't be opened, or it is not this user's alone.
    """
    try:
        return _open(parent, name, 0, fcntl.F_OFD_SETLK)
    except FileNotFoundError:
        return None


def _open(parent: int, name: str, flags: int, how: int) -> PartDirectory:
    with contextlib.ExitStack() as stack:
        directory = open_directory_at(parent, name)
        stack.callback(os.close, directory)
        if not flags:
            _require_private(directory, os.geteuid())
        descriptor = os.open(LOCK, flags | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
        stack.callback(os.close, descriptor)
        lock(descriptor, how)
        if os.fstat(descriptor).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if flags:
            os.fsync(directory)  # the lock comes before any content also after a power failure
        stack.pop_all()
        return PartDirectory(parent, name, directory, descriptor)


def _require_private(directory: int, user: int) -> None:
    status = os.fstat(directory)
    if status.st_uid != user or status.st_mode & 0o077:
        raise OSError(errno.EPERM, "other users can change it")


def remove_unheld_directory(parent: int, name: str) -> None:
    """Remove a part directory that no running program holds. A program that was killed just after it created the
    directory, or just before it removed the directory, has left it empty.

    :raises FileNotFoundError: it has other files than ``lock``, and so is no part directory.
    :raises OSError: it can't be removed, or a running program holds it.
    """
    directory = open_directory_at(parent, name)
    try:
        with _opened_lock(directory) as descriptor:
            _require_private(directory, os.fstat(descriptor).st_uid)
            lock(descriptor, fcntl.F_OFD_SETLK)
            PartDirectory(parent, name, directory, descriptor).remove()
    except FileNotFoundError:
        if os.listdir(directory):
            raise
        os.rmdir(name, dir_fd=parent)
    finally:
        os.close(directory)


def is_directory_held(parent: int, name: str) -> bool:
    """Return whether a running program holds a part directory. One that can't be opened counts as held."""
    try:
        directory = open_directory_at(parent, name)
    except OSError:
        return True
    try:
        return exists_at(directory, LOCK) and is_held(directory, LOCK)
    finally:
        os.close(directory)


@contextlib.contextmanager
def _opened_lock(directory: int) -> Iterator[int]:
    descriptor = open_file_at(directory, LOCK, os.O_RDWR | os.O_NONBLOCK)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def remove_at(parent: int, name: str) -> None:
    """Remove a file, a link, or a directory with its content. Links aren't followed, and a mounted file system stays.

    :raises FileNotFoundError: the name is missing; :raises OSError: it can't be removed.
    """
    _remove(parent, name, 0)


def _remove(parent: int, name: str, depth: int) -> None:
    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=parent)
        return
    if found.st_dev != os.fstat(parent).st_dev:
        raise OSError(errno.EBUSY, f"a file system is mounted at {name!r}")
    directory = open_directory_at(parent, name)
    try:
        _clear(directory, depth=depth + 1)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=parent)


def _clear(directory: int, *, kept: str = "", depth: int = 1) -> None:
    if depth > DEEPEST:
        raise OSError(errno.ELOOP, f"directories are nested more than {DEEPEST} deep")
    for name in os.listdir(directory):
        if name != kept:
            _remove(directory, name, depth)


__all__ = [
    "LOCK",
    "PartDirectory",
    "create_part_directory",
    "is_directory_held",
    "open_part_directory",
    "remove_at",
    "remove_unheld_directory",
]
