# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Block devices that are read like files. stat(2) returns neither their length nor the time of the last change of
data.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from .directory import descriptor_path

#: Requests for the sizes of blocks (Linux, include/uapi/linux/fs.h).
_BLKSSZGET, _BLKPBSZGET = 0x1268, 0x127B


def is_block_device(descriptor: int) -> bool:
    """Return whether a descriptor is that of a block device.

    :raises OSError: the descriptor isn't open.
    """
    return stat.S_ISBLK(os.fstat(descriptor).st_mode)


def require_storage(descriptor: int) -> None:
    """Refuse anything but a regular file or a block device. It is a ``check`` of :func:`open_file_at`.

    :raises OSError: with ENOTBLK.
    """
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise OSError(errno.ENOTBLK, "it is neither a regular file nor a block device")


def length_of(descriptor: int) -> int:
    """Return the length of an open file or block device in bytes. The file position of a device changes.

    :raises OSError: the length of a device can't be read.
    """
    status = os.fstat(descriptor)
    return os.lseek(descriptor, 0, os.SEEK_END) if stat.S_ISBLK(status.st_mode) else status.st_size


def sectors_written(descriptor: int) -> int:
    """Return how many sectors were written to an open block device since the device exists, including data that was
    waiting in memory.

    The number is field 7 of the device's statistics (Linux, Documentation/block/stat.rst); 0 if the kernel has none.

    :raises OSError: data that was waiting can't be written.
    """
    os.fsync(descriptor)
    number = os.fstat(descriptor).st_rdev
    try:
        with open(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat", encoding="ascii") as file:
            return int(file.read().split()[6])
    except (OSError, ValueError, IndexError):
        return 0


def block_sizes(descriptor: int) -> tuple[int, int, int]:
    """Return the sizes of blocks of an open block device in bytes: logical, physical, and the granularity of discarded
    blocks, which is 0 for a device that discards nothing (ioctl BLKSSZGET and BLKPBSZGET; Linux,
    Documentation/ABI/stable/sysfs-block).

    :raises OSError: the sizes can't be read.
    """
    logical, physical = (
        struct.unpack("I", fcntl.ioctl(descriptor, request, bytes(4)))[0] for request in (_BLKSSZGET, _BLKPBSZGET)
    )
    number = os.fstat(descriptor).st_rdev
    try:
        with open(
            f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/queue/discard_granularity", encoding="ascii"
        ) as file:
            return logical, physical, int(file.read())
    except (FileNotFoundError, ValueError):
        return logical, physical, 0


def is_held(descriptor: int) -> bool:
    """Return whether an open block device is mounted, or a part of another device, such as of a volume group (open(2),
    O_EXCL without O_CREAT).

    :raises OSError: the device can't be opened once more.
    """
    try:
        os.close(os.open(descriptor_path(descriptor), os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return True
    return False


__all__ = ["block_sizes", "is_block_device", "is_held", "length_of", "require_storage", "sectors_written"]
