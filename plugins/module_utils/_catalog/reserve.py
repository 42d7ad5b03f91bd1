# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The reservation of space for the catalog, so that the catalog can be written on a full file system."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .._core.directory import opened_directory
from .._core.identity import acting_as
from .._core.temporary import sweep_temporaries

if TYPE_CHECKING:
    from .catalog import CatalogPlace

#: Suffix of the lock file for work on the data of images.
LOCK_SUFFIX = ".images.lock"

#: Lower bound of the bytes that the journal keeps.
SMALLEST_RESERVE = 1 << 18

#: FS_IOC_GETFLAGS, FS_IOC_SETFLAGS and FS_NOCOW_FL (linux/fs.h).
_GET_FLAGS, _SET_FLAGS, _NO_COPY_ON_WRITE = 0x80086601, 0x40086602, 0x00800000


def reserve(place: CatalogPlace) -> None:
    """Create the files that a transaction needs, with enough blocks to change every page of the catalog. A transaction
    then succeeds on a full file system.

    The journal is larger than the pages in it (https://www.sqlite.org/fileformat.html#the_rollback_journal). A failure
    here is no error, because the space is needed only once the file system is full.
    """
    with contextlib.suppress(OSError):
        with acting_as(place.owner):
            catalog = os.lstat(place.path)
            with opened_directory(os.path.dirname(place.path), option="catalog") as directory:
                sweep_temporaries(directory, os.path.basename(place.path))
        if not os.path.lexists(
            place.path + LOCK_SUFFIX
        ):  # closing an existing file would end this process' own locks on it (fcntl(2))
            with _open_beside(place, LOCK_SUFFIX, catalog):
                pass
        wanted = max(2 * catalog.st_size, SMALLEST_RESERVE)
        with _open_beside(place, "-journal", catalog) as descriptor, acting_as(place.owner):
            if os.fstat(descriptor).st_blocks * 512 < wanted:
                os.posix_fallocate(descriptor, 0, wanted)


@contextlib.contextmanager
def _open_beside(place: CatalogPlace, suffix: str, catalog: os.stat_result) -> Iterator[int]:
    """Yield a descriptor of a file of the catalog. A new file has the catalog's group and mode, like SQLite's files.

    :raises OSError: the file can't be opened.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    created = False
    with acting_as(place.owner):
        try:
            descriptor = os.open(place.path + suffix, flags | os.O_CREAT | os.O_EXCL, 0o600)
            created = True
        except FileExistsError:
            descriptor = os.open(place.path + suffix, flags)
    try:
        if created:
            overwrite_in_place(descriptor)
            os.fchown(descriptor, -1, catalog.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(catalog.st_mode))
        yield descriptor
    finally:
        os.close(descriptor)


def overwrite_in_place(descriptor: int) -> None:
    """Let btrfs overwrite the blocks of a file that is still empty. Copy-on-write would need free blocks, which a
    full file system lacks (ioctl_iflags(2)).
    """
    with contextlib.suppress(OSError):
        (flags,) = struct.unpack("l", fcntl.ioctl(descriptor, _GET_FLAGS, bytes(struct.calcsize("l"))))
        fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("l", flags | _NO_COPY_ON_WRITE))


__all__ = ["LOCK_SUFFIX", "overwrite_in_place", "reserve"]
