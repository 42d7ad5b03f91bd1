# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The creation and the ownership of directories inside directories of other users.

Two rules protect files of root and of third users. A new directory is created with the rights of the owner of its
parent directory. An existing directory is changed only if no user but its owner could have put the directory there.
"""

from __future__ import annotations

import os
import stat

from .._core.directory import (
    descriptor_path,
    is_writable_for_others,
    open_directory,
    open_directory_at,
    opened_directory,
    opened_parent,
)
from .._core.errors import PathNotAllowed
from .._core.identity import acting_as, owner_of
from .._core.records import dataclass

#: Mode of missing parent directories.
AROUND_MODE = 0o755

#: An element of the result of :func:`other_users` that stands for any user.
ANYBODY = -1


@dataclass(frozen=True)
class Ownership:
    """The ids of owner and group, and the permissions, of a directory, actual or desired."""

    uid: int
    gid: int
    mode: int

    @classmethod
    def of(cls, found: os.stat_result) -> Ownership:
        """Return the ownership in a result of stat(2)."""
        return cls(found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))

    def give_to(self, descriptor: int) -> None:
        """Change an open directory (O_PATH), even if another user replaces its name meanwhile.

        :raises OSError: the operating system refuses.
        """
        os.chown(descriptor_path(descriptor), self.uid, self.gid)
        os.chmod(descriptor_path(descriptor), self.mode)


def open_or_make(path: str, mode: int) -> int:
    """Return a descriptor (O_PATH) of the directory ``path``. A missing directory is created with ``mode``. Missing
    parent directories are created, too.

    :arg path: an absolute path.
    :raises PathNotAllowed: a symbolic link of another user leads to a directory that doesn't belong to that user;
        :raises OSError: the operating system refuses.
    """
    try:
        return open_directory(path)
    except FileNotFoundError:
        os.close(open_or_make(os.path.dirname(path), AROUND_MODE))
    with opened_parent(path) as (around, name):
        # The directory gets its mode at its creation. A later change could hit a directory that another user has put
        # there meanwhile.
        umask = os.umask(0)
        try:
            with acting_as(owner_of(os.fstat(around))):
                os.mkdir(name, mode, dir_fd=around)
        finally:
            os.umask(umask)
        return open_directory_at(around, name, os.O_PATH)


def other_users(descriptor: int) -> set[int]:
    """Return the users, except root and this process's user, who could have put an open directory in its place.

    They own a parent directory. The result contains :data:`ANYBODY` if a directory of root lets other users rename its
    entries.
    """
    trusted = (0, os.geteuid())
    found: set[int] = set()
    here = os.dup(descriptor)
    try:
        while True:
            inner = os.fstat(here)
            around = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = around
            outer = os.fstat(around)
            if os.path.samestat(inner, outer):
                return found - set(trusted)
            found.add(outer.st_uid)
            if outer.st_mode & stat.S_ISVTX:
                found.add(inner.st_uid)
            elif outer.st_uid in trusted and is_writable_for_others(outer):
                found.add(ANYBODY)
    finally:
        os.close(here)


def require_only_root(option: str, path: str, why: str) -> None:
    """Refuse a directory that users other than root and this process's user can change or replace. For a missing
    directory, the check is about its parent directory.

    :arg why: the reason for the rule, as the rest of a sentence.
    :raises PathNotAllowed: naming the option; :raises OSError: the operating system refuses.
    """
    existing = path
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    with opened_directory(existing, option=option) as descriptor:
        found = os.fstat(descriptor)
        shared = is_writable_for_others(found) and (existing == path or not found.st_mode & stat.S_ISVTX)
        if found.st_uid not in (0, os.geteuid()) or shared or other_users(descriptor):
            accepted = (
                f"a directory is expected that, like all directories around it, only root can change, because {why}"
            )
            raise PathNotAllowed(option, path, accepted)


__all__ = ["ANYBODY", "Ownership", "open_or_make", "other_users", "require_only_root"]
