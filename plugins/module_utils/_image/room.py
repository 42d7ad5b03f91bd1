# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Limit how much a stranger may store in a datastore: what is left to others is not for one image, because virtual
machines stop when they find no space.
"""

from __future__ import annotations

import errno
import os

from .._core.directory import descriptor_path
from .._core.errors import from_os_error, os_errors
from .._core.records import dataclass
from .image_file import LARGEST

#: What is left: one hundredth of the file system, but so many bytes at least, and never more than half of what is
#: free.
_PART = 100
_LEAST = 16 << 20

#: File systems that store the data of each file by itself, and those that may store less than the data.
_SEPARATE = ("exfat", "ext2", "ext3", "ext4", "tmpfs", "vfat")
_COMPRESSING = ("bcachefs", "btrfs", "f2fs", "ntfs3", "zfs")


@dataclass(frozen=True)
class Space:
    """The bytes that are ``free`` in a file system to this user, and the ``reserve`` of these for others."""

    free: int
    reserve: int


def space(where: int | str) -> Space:
    """Look at the file system of a path or a descriptor.

    :raises OSError: it doesn't answer.
    """
    found = os.statvfs(where)
    free = found.f_bavail * found.f_frsize
    return Space(free, reserve_of(found, free))


def reserve_of(found: os.statvfs_result, free: int) -> int:
    """Return the bytes of ``free`` ones that are left to others."""
    return min(max(found.f_blocks * found.f_frsize // _PART, _LEAST), free // 2)


def room(where: int | str) -> int:
    """Return how many bytes of data may be stored; else as :func:`space`. Holes take no space."""
    if not os.statvfs(where).f_blocks:  # some file systems don't know their size
        return LARGEST
    found = space(where)
    return found.free - found.reserve


def require_room(where: int, needed: int, doing: str) -> None:
    """Refuse what is about to take more than there is.

    :arg where: descriptor of a file or directory of the file system.
    :arg needed: bytes of data that are certainly stored.
    :arg doing: as :func:`from_os_error` takes it.
    :raises NoSpace: as storing the data would in the end; :raises FileAccessFailed: the file system doesn't answer.
    """
    with os_errors(f"look at the file system to {doing}"):
        found = os.fstatvfs(where)
    free = found.f_frsize * (
        found.f_bavail if os.geteuid() else found.f_bfree
    )  # root also gets what is reserved for root
    if found.f_blocks and needed > free:
        raise from_os_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), doing)


def require_length(directory: int, size: int, doing: str) -> None:
    """Refuse a file that is longer than the file system of an open directory allows. That is tried with a file that
    never has a name.

    :arg size: bytes.
    :arg doing: as :func:`from_os_error` takes it.
    :raises FileAccessFailed: as making the file would.
    """
    try:
        descriptor = os.open(descriptor_path(directory), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return  # a file system without such files
    try:
        with os_errors(doing):
            os.truncate(descriptor, size)
    finally:
        os.close(descriptor)


def stores_all(source: int, target: int) -> bool:
    """Return whether a copy of an open file certainly takes as much space as its data: nothing is shared with the
    file, and nothing compressed.

    :arg target: descriptor of the directory of the copy.
    :raises OSError: one of the file systems doesn't answer.
    """
    if may_compress(target):
        return False
    return _file_system_type(target) in _SEPARATE or os.fstat(source).st_dev != os.fstat(target).st_dev


def may_compress(where: int) -> bool:
    """Return whether the file system of a descriptor may store less than the data of a file.

    :raises OSError: it doesn't answer.
    """
    return _file_system_type(where) in (None, *_COMPRESSING)


def _file_system_type(descriptor: int) -> str | None:
    """Return what mountinfo (proc_pid_mountinfo(5)) calls the type of a file system, ``None`` where that isn't
    known.
    """
    import re

    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
        number = re.search(r"^mnt_id:\s*(\d+)$", file.read(), re.MULTILINE)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            if number and line.startswith(f"{number[1]} "):
                return line.partition(" - ")[2].split(" ")[0]
    return None


def capacity(where: int | str) -> int:
    """Return the size of a file system in bytes, which no image in it exceeds, however many holes it has; else as
    :func:`space`.
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
