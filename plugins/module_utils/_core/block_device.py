# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Block devices that are read like files. stat(2) returns neither their length nor the time of the last change of
data.
"""

from __future__ import annotations

import errno
import os
import stat

from .directory import descriptor_path


def is_block_device(descriptor: int) -> bool:
    """Return whether a descriptor is that of a block device.

    :raises OSError: the descriptor isn't open.
    """
    return stat.S_ISBLK(os.fstat(descriptor).st_mode)


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


__all__ = ["is_block_device", "is_held", "length_of", "sectors_written"]
