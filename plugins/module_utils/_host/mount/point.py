# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Mount points, accessed by descriptors, because the owner of a parent directory can replace names in it by symbolic
links.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Sequence

from ..._core.directory import (
    descriptor_path,
    is_writable_for_others,
    open_directory,
    open_directory_at,
    opened_directory,
    opened_parent,
)
from ..._core.errors import StaleState, from_os_error, os_errors
from ..._core.files import read_text
from .mountinfo import Mount, mounts_at


def locate(path: str, mounts: Sequence[Mount], *, option: str) -> tuple[str, list[str]]:
    """Return the mount point ``path`` without symbolic links, and the paths of the missing directories in it, the
    uppermost first.

    A mount point in ``mounts`` has no symbolic links and isn't accessed, because a dead server would block.

    :raises PathNotAllowed, FileAccessFailed: as for :func:`resolve`.
    """
    if mounts_at(mounts, path):
        return path, []
    parent, name = os.path.split(path)
    directory, missing = resolve(parent, option=option)
    point = os.path.join(directory, name)
    return (point, missing) if mounts_at(mounts, point) else resolve(path, option=option)


def resolve(path: str, *, option: str) -> tuple[str, list[str]]:
    """Return the absolute ``path`` without symbolic links, and the paths of the missing directories in it, the
    uppermost first.

    A link of another user is followed to a directory whose parent directory belongs to the same user. The owner of a
    file system that is mounted there doesn't matter.

    :arg option: name of the option with the path, for the error.
    :raises PathNotAllowed: a symbolic link of another user leads elsewhere.
    :raises FileAccessFailed: a directory can't be opened.
    """
    missing: list[str] = []
    while True:
        try:
            with opened_parent(path, option=option) as (parent, name):
                if name in (".", ".."):
                    with opened_directory(path, option=option) as directory:
                        return _with_missing(_real_path(directory), missing)
                if not _is_directory(parent, name):
                    missing.insert(0, name)
                    name = ""
                return _with_missing(os.path.join(_real_path(parent), name).rstrip("/") or "/", missing)
        except (FileNotFoundError, NotADirectoryError):
            path, name = os.path.split(path)
            missing.insert(0, name)
        except OSError as error:
            raise from_os_error(error, f"open the directory {path}") from error


def _with_missing(present: str, missing: Sequence[str]) -> tuple[str, list[str]]:
    paths = [os.path.join(present, *missing[: depth + 1]) for depth in range(len(missing))]
    return (paths or [present])[-1], paths


def _is_directory(parent: int, name: str) -> bool:
    try:
        os.close(open_directory_at(parent, name, os.O_PATH))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


@contextlib.contextmanager
def hold(path: str) -> Iterator[tuple[int, str]]:
    """Yield a descriptor (O_PATH) of the parent directory of the mount point, and the mount point's name.

    Neither keeps a mount on the mount point busy.

    :arg path: a path that :func:`resolve` returned.
    :raises StaleState: the path now leads through a symbolic link.
    """
    parent, name = os.path.split(path)
    with os_errors(f"open the directory {parent}"):
        directory = open_directory(parent)
    try:
        if _real_path(directory) != parent:
            raise StaleState(
                f"The path {path} came to lead through a symbolic link after it was checked; nothing was changed there."
            )
        yield directory, name
    finally:
        os.close(directory)


@contextlib.contextmanager
def open_held(parent: int, name: str) -> Iterator[int]:
    """Yield a descriptor (O_PATH) of a mount point that is held (:func:`hold`), or of the root of its mount.

    :raises StaleState: the mount point was removed, or is a symbolic link or a file now.
    """
    path = os.path.join(_real_path(parent), name)
    try:
        directory = open_directory_at(parent, name, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError) as error:  # a symbolic link raises the latter
        raise StaleState(
            f"The mount point {path} was removed or replaced after it was checked; nothing was changed there."
        ) from error
    except OSError as error:
        raise from_os_error(error, f"open the directory {path}") from error
    try:
        yield directory
    finally:
        os.close(directory)


def mount_id(descriptor: int) -> int:
    """Return the id of the mount in which ``descriptor`` was opened (proc_pid_fdinfo(5)).

    The call makes no request to the server of that mount.
    """
    (found,) = re.findall(r"^mnt_id:\s*([0-9]+)$", read_text(f"/proc/self/fdinfo/{descriptor}"), re.MULTILINE)
    return int(found)


def create(path: str, mode: int) -> None:
    """Create a directory with exactly ``mode``."""
    with hold(path) as (directory, name), os_errors(f"create the directory {path}"):
        os.mkdir(name, 0o700, dir_fd=directory)
        descriptor = open_directory_at(directory, name)
        try:
            if os.fstat(descriptor).st_uid != os.geteuid():
                raise StaleState(f"The directory {path} was replaced by one of another user while it was created.")
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)


def remove(path: str) -> None:
    """Remove an empty directory."""
    with hold(path) as (directory, name), os_errors(f"remove the directory {path}"):
        os.rmdir(name, dir_fd=directory)


def content(path: str) -> list[str]:
    """Return the names in the directory, sorted."""
    with hold(path) as (parent, name):
        with open_held(parent, name) as descriptor, os_errors(f"read the directory {path}"):
            return sorted(os.listdir(descriptor_path(descriptor)))


def changeable_by_others(path: str, *, is_mounted: bool = False) -> str | None:
    """Return the uppermost directory in ``path`` that another user can replace by a symbolic link; ``None`` without
    any.

    :arg is_mounted: whether a file system is mounted on ``path``. The mount isn't accessed then.
    """
    trusted = (0, os.geteuid())
    above = "/"
    for name in path.split("/")[1:]:
        directory = os.path.join(above, name)
        is_known = not (is_mounted and directory == path)
        try:
            status = os.lstat(above)
            owner = os.lstat(directory).st_uid if is_known and os.path.lexists(directory) else os.geteuid()
        except OSError:
            return None
        is_shared = is_writable_for_others(status)
        is_kept = status.st_mode & stat.S_ISVTX and owner in trusted
        if status.st_uid not in trusted or (is_shared and not is_kept):
            return directory
        above = directory
    return None


def _real_path(descriptor: int) -> str:
    return os.readlink(descriptor_path(descriptor))


__all__ = ["changeable_by_others", "content", "create", "hold", "locate", "mount_id", "open_held", "remove", "resolve"]
