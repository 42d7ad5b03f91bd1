# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Limits of the space that an image may use. A reserve stays free, because virtual machines stop if their datastore is
full.
"""

from __future__ import annotations

import errno
import os

from .._core.directory import descriptor_path
from .._core.errors import from_os_error, os_errors
from .._core.records import dataclass
from .image_file import LARGEST

#: The reserve: one hundredth of the file system, but at least a number of bytes, and at most half of the free space.
_PART = 100
_LEAST = 16 << 20

#: File systems that store the data of each file separately, and file systems that may compress data.
_SEPARATE = ("exfat", "ext2", "ext3", "ext4", "tmpfs", "vfat")
_COMPRESSING = ("bcachefs", "btrfs", "f2fs", "ntfs3", "zfs")


@dataclass(frozen=True)
class Space:
    """The space of a file system: the bytes that are ``free`` to this user, and the part of them that is the
    ``reserve``.
    """

    free: int
    reserve: int


def space(where: int | str) -> Space:
    """Return the space of the file system of a path or a descriptor.

    :raises OSError: the file system can't be read.
    """
    found = os.statvfs(where)
    free = found.f_bavail * found.f_frsize
    return Space(free, reserve_of(found, free))


def reserve_of(found: os.statvfs_result, free: int) -> int:
    """Return the reserve among ``free`` bytes."""
    return min(max(found.f_blocks * found.f_frsize // _PART, _LEAST), free // 2)


def room(where: int | str) -> int:
    """Return the number of bytes of data that may be stored. Holes take no space. See :func:`space` for errors."""
    if not os.statvfs(where).f_blocks:  # some file systems have no size
        return LARGEST
    found = space(where)
    return found.free - found.reserve


def require_room(where: int, needed: int, doing: str) -> None:
    """Refuse work that needs more space than is free.

    :arg where: descriptor of a file or directory of the file system.
    :arg needed: bytes of data that are certainly stored.
    :arg doing: see :func:`from_os_error`.
    :raises NoSpace: the same error as storing the data would raise later.
    :raises FileAccessFailed: the file system can't be read.
    """
    with os_errors(f"look at the file system to {doing}"):
        found = os.fstatvfs(where)
    free = found.f_frsize * (
        found.f_bavail if os.geteuid() else found.f_bfree
    )  # root can also use the space that is reserved for root
    if found.f_blocks and needed > free:
        raise from_os_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), doing)


def require_length(directory: int, size: int, doing: str) -> None:
    """Refuse a file that is longer than the file system of an open directory allows. The length is tried with a file
    without a name.

    :arg size: bytes.
    :arg doing: see :func:`from_os_error`.
    :raises FileAccessFailed: the same error as creating the file would raise.
    """
    try:
        descriptor = os.open(descriptor_path(directory), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return  # the file system has no files without names
    try:
        with os_errors(doing):
            os.truncate(descriptor, size)
    finally:
        os.close(descriptor)


def stores_all(source: int, target: int) -> bool:
    """Return whether a copy of an open file certainly takes as much space as its data, because nothing is shared or
    compressed.

    :arg target: descriptor of the directory of the copy.
    :raises OSError: one of the file systems can't be read.
    """
    if may_compress(target):
        return False
    return _file_system_type(target) in _SEPARATE or os.fstat(source).st_dev != os.fstat(target).st_dev


def may_compress(where: int) -> bool:
    """Return whether the file system of a descriptor may store less than the data of a file.

    :raises OSError: the file system can't be read.
    """
    return _file_system_type(where) in (None, *_COMPRESSING)


def _file_system_type(descriptor: int) -> str | None:
    """Return the type of a file system as in mountinfo (proc_pid_mountinfo(5)), or ``None`` if it isn't known."""
    import re

    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
        number = re.search(r"^mnt_id:\s*(\d+)$", file.read(), re.MULTILINE)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            if number and line.startswith(f"{number[1]} "):
                return line.partition(" - ")[2].split(" ")[0]
    return None


def capacity(where: int | str) -> int:
    """Return the size of a file system in bytes, the upper bound of an image with any number of holes. See
    :func:`space` for errors.
    """
    found = os.statvfs(where)
    return found.f_blocks * found.f_frsize or LARGEST


__all__ = [
    "Space",
    "capacity",
    "may_compress",
    "require_length",
    "require_room",
    "reserve_of",
    "room",
    "space",
    "stores_all",
]
