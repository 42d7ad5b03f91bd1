# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Remove a disk of a virtual machine, or its whole directory. Images that a disk is a link to, or is based on, stay.
Every action can be repeated.
"""

from __future__ import annotations

import contextlib
import os
import stat

from .._core.directory import list_directory, open_directory_at, open_file_at, sync_opened
from .._core.errors import NotFound, os_errors
from .._core.part_directory import remove_at
from .layout import snapshot_directory
from .new_image import remove_files
from .still import require_unused
from .vm_directory import DiskPath, opened_system_datastore, parse_disk_path
from .vm_lock import DEADLINE, LOCK_FILE, locked_disk


def remove(path: str, *, deadline: float = DEADLINE) -> bool:
    """Remove a disk with its snapshots, or a VM directory with all files. Return ``False`` if it is missing.

    :arg path: path of the disk or of the directory, see :func:`parse_disk_path`.
    :arg deadline: seconds to wait for another action on the disk.
    :raises InvalidInput: ``path`` isn't such a path.
    :raises Conflict: a program uses a file.
    :raises LockTimeout: another action on a disk didn't end before the deadline.
    :raises PathNotAllowed, FileAccessFailed: a file can't be removed.
    """
    parsed = parse_disk_path(path, directory=True)
    return remove_disk(parsed, deadline=deadline) if parsed.name else remove_vm_directory(parsed, deadline=deadline)


def remove_disk(path: DiskPath, *, deadline: float = DEADLINE) -> bool:
    """Remove a disk with its snapshots. Return ``False`` if it is missing. Errors are those of :func:`remove`."""
    try:
        with locked_disk(path, doing="delete", deadline=deadline, is_removal=True) as directory:
            return remove_disk_at(directory, path)
    except NotFound:
        return False


def remove_disk_at(directory: int, path: DiskPath) -> bool:
    """Remove a disk in an open VM directory. The caller holds the lock of the disk.

    :raises Conflict, FileAccessFailed: see :func:`remove`.
    """
    names = [path.name, snapshot_directory(path.name)]
    for name in names:
        require_unused_at(directory, name, f"{path.directory}/{name}")
    return remove_files(directory, names)


def remove_vm_directory(path: DiskPath, *, deadline: float) -> bool:
    """Remove a VM directory with all files. Links aren't followed. Return ``False`` if the directory is missing.

    A crash leaves the directory, or a part of it under another name. A repeated call removes this part.

    :arg deadline: seconds to wait for the locks of the disks.
    :raises Conflict: a program uses a disk, or a file system is mounted in the directory.
    :raises LockTimeout: another action on a disk didn't end before the deadline.
    :raises PathNotAllowed, FileAccessFailed: the directory can't be read or removed.
    """
    with contextlib.ExitStack() as stack:
        try:
            system = stack.enter_context(opened_system_datastore(path))
            sweep_removed_at(system, path)
            directory = stack.enter_context(locked_disk(path, doing="delete", deadline=deadline, is_removal=True))
        except NotFound:
            return False
        require_directory_unused(directory, path)
        remove_directory_at(system, path)
    return True


def require_directory_unused(directory: int, path: DiskPath) -> None:
    """Refuse to remove an open VM directory while a program uses a file in it.

    :raises Conflict, FileAccessFailed: see :func:`require_unused_at`.
    """
    with os_errors(f"read {path.directory}"):
        names = list_directory(directory)
    for name in names:
        if name != LOCK_FILE:
            require_unused_at(directory, name, f"{path.directory}/{name}")


def remove_directory_at(system: int, path: DiskPath) -> None:
    """Remove a VM directory from the open directory of its system datastore. The caller holds the lock of all disks.

    :raises FileAccessFailed: a file can't be removed.
    """
    with os_errors(f"remove {path.directory}"):
        sweep_removed_at(system, path)
        os.rename(str(path.vm), _removed_name(path), src_dir_fd=system, dst_dir_fd=system)
        sync_opened(system)
        sweep_removed_at(system, path)
        sync_opened(system)


def sweep_removed_at(system: int, path: DiskPath) -> None:
    """Remove the rest of a VM directory that a killed :func:`remove_directory_at` has left.

    :raises FileAccessFailed: a file can't be removed.
    """
    with os_errors(f"remove {path.directory}"), contextlib.suppress(FileNotFoundError):
        remove_at(system, _removed_name(path))  # another action may remove it, too


def _removed_name(path: DiskPath) -> str:
    return f".{path.vm}.removed"


def require_unused_at(directory: int, name: str, path: str) -> None:
    """Refuse to remove a file, or a directory with files, while a program such as QEMU uses it. A file behind a link
    doesn't count.

    :raises Conflict: a file is in use.
    :raises FileAccessFailed: the files can't be read.
    """
    with os_errors(f"look at {path}"), contextlib.suppress(FileNotFoundError):
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            opened = open_directory_at(directory, name, os.O_PATH)
            try:
                for file in list_directory(opened):
                    _require_unused_file(opened, file, f"{path}/{file}")
            finally:
                os.close(opened)
        else:
            _require_unused_file(directory, name, path)


def _require_unused_file(directory: int, name: str, path: str) -> None:
    if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        return
    descriptor = open_file_at(directory, name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        require_unused(descriptor, path, "be removed")
    finally:
        os.close(descriptor)


__all__ = [
    "remove",
    "remove_directory_at",
    "remove_disk",
    "remove_disk_at",
    "remove_vm_directory",
    "require_directory_unused",
    "require_unused_at",
    "sweep_removed_at",
]
