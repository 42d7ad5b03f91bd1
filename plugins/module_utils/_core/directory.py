# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Directories and files are opened so that no other user decides where a path leads.

Root works in directories of other users, who can replace any name there by a symbolic link at any moment. So a path is
walked component by component with descriptors, and then used through the descriptor. The rule for links is that of
systemd's chase(CHASE_SAFE): a link that another user may have made leads only to files of the same user. A link within
one directory is allowed, because its maker can also rename files there.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import stat
from collections.abc import Callable, Iterator

from .errors import PathNotAllowed

#: Upper bound of the symbolic links in one path (MAXSYMLINKS, path_resolution(7)).
MOST_LINKS = 40

#: Id of Debian's group staff, which owns /usr/local on hosts that were installed before Debian 12.
STAFF = 50


@contextlib.contextmanager
def opened_directory(path: str, *, option: str = "path") -> Iterator[int]:
    """Yield a descriptor (O_PATH) of the directory ``path``, an absolute path.

    :arg option: name of the option that the path comes from, for the error.
    :raises PathNotAllowed: a symbolic link of another user leads to a directory that isn't that user's.
    :raises OSError: the directory can't be opened.
    """
    descriptor = open_directory(path, option=option)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def opened_parent(path: str, *, option: str = "path") -> Iterator[tuple[int, str]]:
    """Yield a descriptor (O_PATH) of the parent directory of the file ``path``, and the file's name. The file may be
    missing.

    A symbolic link in the place of the file is followed under the same rule. Another user can put a new link there
    afterwards: open the file with O_NOFOLLOW.

    :raises PathNotAllowed, OSError: as for :func:`opened_directory`.
    """
    descriptor, name = _walk(path, option, enter_last=False)
    try:
        yield descriptor, name
    finally:
        os.close(descriptor)


def open_directory(path: str, *, option: str = "path") -> int:
    """Return a descriptor as :func:`opened_directory` does. The caller closes it."""
    descriptor, _name = _walk(path, option, enter_last=True)
    return descriptor


@contextlib.contextmanager
def opened_file_at(directory: int, name: str, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Yield a descriptor of the regular file ``name`` of an open directory, to read it by default. Links aren't
    followed. A block that writes makes its writes durable.

    :raises OSError: as for :func:`open_file_at`.
    """
    descriptor = open_file_at(directory, name, flags)
    try:
        yield descriptor
    finally:
        with contextlib.suppress(OSError):  # nothing was written that could be lost
            os.close(descriptor)


def require_regular(found: int) -> None:
    """Refuse anything but a regular file.

    :raises OSError: with EINVAL.
    """
    if not stat.S_ISREG(os.fstat(found).st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")


def open_file_at(
    directory: int, name: str, flags: int = os.O_RDONLY, *, check: Callable[[int], object] = require_regular
) -> int:
    """Open the file ``name`` of an open directory and return its descriptor, even if other users replace the file
    meanwhile.

    The engine opens files in directories of other users by this function. Symbolic links aren't followed. Only regular
    files are opened, unless ``check`` accepts another file.

    :arg check: gets a descriptor (O_PATH) of the file, and raises if the file must not be opened.
    :raises OSError: the file can't be opened; with EINVAL the file isn't regular. Errors of ``check`` are raised, too.
    """
    # O_PATH doesn't open the file yet: devices don't react, and a FIFO doesn't block.
    found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        check(found)
        return os.open(descriptor_path(found), flags | os.O_CLOEXEC)
    finally:
        os.close(found)


def open_directory_at(directory: int, name: str, flags: int = os.O_RDONLY) -> int:
    """Open the directory ``name`` of an open directory and return its descriptor. A link isn't followed.

    :arg flags: O_PATH for a directory that isn't listed.
    :raises OSError: the directory can't be opened; :raises NotADirectoryError: the name isn't that of a directory.
    """
    return os.open(name, flags | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)


def list_directory(directory: int) -> list[str]:
    """Return the names in an open directory. A descriptor with O_PATH is enough.

    :raises OSError: the directory can't be read.
    """
    listing = open_directory_at(directory, ".")
    try:
        return os.listdir(listing)
    finally:
        os.close(listing)


def descriptor_path(descriptor: int, name: str = "") -> str:
    """Return the path of the open file ``descriptor``, or of ``name`` in that directory. The path is valid in this
    process and in child processes that inherit the descriptor.
    """
    return f"/proc/self/fd/{descriptor}" + (f"/{name}" if name else "")


def is_writable_for_others(status: os.stat_result) -> bool:
    """Return whether a directory is writable for everybody, or for a group that is less trusted than root."""
    return bool(
        status.st_mode & stat.S_IWOTH
        or (status.st_mode & stat.S_IWGRP and status.st_gid != 0 and not _is_staff(status.st_gid))
    )


def _is_staff(gid: int) -> bool:
    """Return whether a group is Debian's group staff. Its members may change /usr/local, and so programs that root
    runs (base-passwd).
    """
    try:
        return gid == STAFF and grp.getgrgid(gid).gr_name == "staff"
    except KeyError:
        return False


def sync_opened(directory: int) -> None:
    """Make renames, creations and removals in an open directory durable (fsync(2))."""
    descriptor = open_directory_at(directory, ".")
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exists_at(directory: int, name: str) -> bool:
    """Return whether an open directory has an entry ``name``. A dangling symbolic link is an entry, too."""
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def require_writable(directory: int) -> None:
    """Require that this process can create a file in an open directory, without creating one.

    :raises OSError: as creating a file there would.
    """
    if os.fstatvfs(directory).f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    if not os.access(descriptor_path(directory), os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def is_link_at(directory: int, name: str) -> bool:
    """Return whether ``name`` is a symbolic link in an open directory."""
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _walk(path: str, option: str, *, enter_last: bool) -> tuple[int, str]:
    """Return a descriptor of the parent directory of ``path``, and the last component. With ``enter_last``, return a
    descriptor of ``path`` itself, and ``.``.
    """
    way = _Way(path, option)
    try:
        name = way.go(enter_last=enter_last)
        way.require_trusted()
    except BaseException:
        os.close(way.directory)
        raise
    return way.directory, name


class _Way:
    """The way to a file, from the root directory on. ``directory`` is a descriptor of the directory that the way has
    reached.
    """

    def __init__(self, path: str, option: str) -> None:
        self.directory = _root()
        self._path = path
        self._option = option
        self._todo = _components(path)
        self._links = 0
        #: Users who decide where the path leads, each with the directory of their link.
        self._deciders: list[tuple[int | None, os.stat_result]] = []

    def go(self, *, enter_last: bool) -> str:
        """Follow the path, or the path to the parent directory of its last component, and return the name there.

        :raises OSError: the path leads nowhere.
        """
        while self._todo:
            name = self._todo.pop()
            # The owner of ".." hasn't been checked yet.
            is_last = not self._todo and not enter_last and name != ".."
            if self._stays_before(name, is_last):
                return name
        return "."

    def _stays_before(self, name: str, is_last: bool) -> bool:
        """Enter the directory ``name``, or follow the link ``name``. The last component is only followed. Return
        whether the last component is no link.
        """
        try:
            found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.directory)
        except FileNotFoundError:
            if is_last:
                return True
            raise
        try:
            status = os.fstat(found)
            if stat.S_ISLNK(status.st_mode):
                self._follow(found, status)
            elif is_last:
                return True
            elif stat.S_ISDIR(status.st_mode):
                self.directory, found = found, self.directory
            else:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self._path)
        finally:
            os.close(found)
        return False

    def _follow(self, link: int, status: os.stat_result) -> None:
        self._links += 1
        if self._links > MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self._path)
        around = os.fstat(self.directory)
        self._deciders += [(user, around) for user in _deciders(status, around)]
        target = os.readlink("", dir_fd=link)
        self._todo += _components(target)
        if target.startswith("/"):
            previous, self.directory = self.directory, _root()
            os.close(previous)

    def require_trusted(self) -> None:
        """Refuse a way that another user decides.

        :raises PathNotAllowed: a link of another user leads to a directory that doesn't belong to that user.
        """
        status = os.fstat(self.directory)
        for user, around in self._deciders:
            # In a sticky directory, only the owner of a file can rename it.
            stays = os.path.samestat(around, status) and not around.st_mode & stat.S_ISVTX
            if not stays and user != status.st_uid:
                reason = (
                    "it leads through a symbolic link that another user can change to a directory that isn't that "
                    "user's"
                )
                raise PathNotAllowed(self._option, self._path, reason)


def _components(path: str) -> list[str]:
    """Return the components of a path, the last one first."""
    return [part for part in path.split("/")[::-1] if part]


def _root() -> int:
    return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _deciders(link: os.stat_result, directory: os.stat_result) -> list[int | None]:
    """Return the user who may have put a symbolic link in its place; ``None`` for several users. The result is empty
    if only root or this process's user can.
    """
    trusted = (0, os.geteuid())
    # In a sticky directory (/tmp), a link belongs to its owner. In other directories, every user with write access can
    # have moved the link there.
    if link.st_uid not in trusted:
        return [link.st_uid]
    if directory.st_uid not in trusted:
        return [directory.st_uid]
    if is_writable_for_others(directory) and not directory.st_mode & stat.S_ISVTX:
        return [None]
    return []


__all__ = [
    "descriptor_path",
    "exists_at",
    "is_link_at",
    "is_writable_for_others",
    "list_directory",
    "open_directory",
    "open_directory_at",
    "open_file_at",
    "opened_directory",
    "opened_file_at",
    "opened_parent",
    "require_writable",
    "sync_opened",
]
