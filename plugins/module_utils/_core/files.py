# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Atomic writes: a half-written file never has a final name (design: one discipline for all data)."""

from __future__ import annotations

import contextlib
import os
import stat

from .directory import open_file_at, opened_directory, opened_parent, sync_opened
from .errors import from_os_error, os_errors
from .temporary import create_temporary


def write_atomic(path: str, data: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by a new file with ``data``: a temporary name beside it, fsync, rename, fsync of the directory.

    An existing file's owner, group, mode and extended attributes are kept; a new file gets ``mode``. A symbolic link is
    followed, so that the link stays, unless another user could have put the link there (:mod:`.directory`). On failure
    the old file is unchanged and the new one is removed. A temporary file of a killed program is removed by the next
    write of the same file (:mod:`.temporary`).

    :raises PathNotAllowed: another user could have put the link there; :raises NoSpace: the file system is full;
        :raises FileAccessFailed: any other refusal.
    """
    with os_errors(f"write {path}"), opened_parent(path) as (directory, name):
        replace_file(directory, name, data, mode)


def replace_file(
    directory: int,
    name: str,
    data: bytes,
    mode: int,
    owner: tuple[int, int] | None = None,
    *,
    keeps_attributes: bool = True,
) -> None:
    """Replace the file ``name`` of an open directory like :func:`write_atomic`, even if other users change the name
    meanwhile.

    :arg owner: user and group of a new file; without them they are this process's.
    :arg keeps_attributes: whether the attributes of an existing file are kept. Otherwise ``mode`` and ``owner`` apply.
    :raises OSError: the operating system refuses, or ``name`` is no regular file.
    """
    descriptor, temporary = create_temporary(directory, name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if not (keeps_attributes and _copy_attributes(directory, name, descriptor)):
                if owner is not None:
                    os.fchown(descriptor, *owner)
                os.fchmod(descriptor, mode)
            os.fsync(descriptor)
            # The rename comes before the close, because closing ends the lock that protects the file from removal.
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise
    sync_opened(directory)


def _copy_attributes(directory: int, name: str, descriptor: int) -> bool:
    """Give the file open as ``descriptor`` the attributes of the file ``name``. Return ``False`` without such a
    file.
    """
    try:
        source = open_file_at(directory, name)
    except FileNotFoundError:
        return False
    try:
        existing = os.fstat(source)
        os.fchown(descriptor, existing.st_uid, existing.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(existing.st_mode))
        for attribute in os.listxattr(source):
            with contextlib.suppress(OSError):  # a security module may reserve an attribute for itself
                os.setxattr(descriptor, attribute, os.getxattr(source, attribute))
    finally:
        os.close(source)
    return True


def remove_durably(path: str) -> bool:
    """Remove the file or the link ``path``. Return ``False`` when the name is missing.

    :raises PathNotAllowed: another user could have put a link in the way to the directory; :raises FileAccessFailed:
        any other refusal.
    """
    directory, name = os.path.split(os.path.abspath(path))
    try:
        with opened_directory(directory) as descriptor:
            os.unlink(name, dir_fd=descriptor)
            sync_opened(descriptor)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise from_os_error(error, f"remove {path}") from error
    return True


def read_text(path: str) -> str:
    """Return the text of a file of the system, or ``""`` when the file is missing. Undecodable bytes survive a round
    trip (surrogateescape).

    Reading waits for a FIFO and follows every link. Open a file in a directory of another user by :mod:`.directory`.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise from_os_error(error, f"read {path}") from error


__all__ = ["read_text", "remove_durably", "replace_file", "write_atomic"]
