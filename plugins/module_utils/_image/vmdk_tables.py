# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The blocks that the tables of a sparse VMDK refer to (VMware, Virtual Disk Format 5.0: sparse and stream-optimized
extents).
"""

from __future__ import annotations

import struct

from .table_file import Allocation, TableFile

_SECTOR = 512
_MAGIC = b"KDMV"
#: The flag for compressed grains. Each grain has a header with its length.
_COMPRESSED = 1 << 16
#: The directory offset that stands for a second header at the end of the file.
_AT_END = (1 << 64) - 1
#: Distance of the second header from the end of the file in bytes. The end-of-stream marker is behind it.
_FOOTER = 1024
#: Entry of a grain of zeros.
_ZERO_GRAIN = 1


def has_footer(file: TableFile) -> bool:
    """Return whether the second header exists, if the first header refers to it.

    :raises OSError: the file can't be read.
    """
    named = struct.unpack("<Q", file.read(56, 8))[0] == _AT_END
    return not named or file.read(file.length // _SECTOR * _SECTOR - _FOOTER, 4) == _MAGIC


def vmdk_allocation(file: TableFile) -> Allocation:
    """Return the allocation of a file that qemu-img can open.

    :raises OSError: the file can't be read.
    """
    head = file.read(0, _SECTOR)
    if struct.unpack_from("<Q", head, 56)[0] == _AT_END:
        head = file.read(file.length // _SECTOR * _SECTOR - _FOOTER, _SECTOR)
    flags, capacity, grain_sectors, per_table, directory = struct.unpack_from("<IQQ16xI8xQ", head, 8)
    grain = grain_sectors * _SECTOR
    found = Allocation(file.length, grain)
    tables = -(-capacity // (grain_sectors * per_table))
    found.add_tables([directory * _SECTOR], 4 * tables)
    for _first, offsets in file.entries(directory * _SECTOR, tables, "I", "little"):
        for offset in filter(None, offsets):
            if found.is_shared():  # the result is final
                return found
            found.add_tables([offset * _SECTOR], 4 * per_table)
            for _number, entries in file.entries(offset * _SECTOR, per_table, "I", "little"):
                grains = [entry * _SECTOR for entry in entries if entry > _ZERO_GRAIN]
                if flags & _COMPRESSED:
                    _count_compressed(found, file, grains)
                else:
                    found.add_blocks(grains)
    return found


def _count_compressed(found: Allocation, file: TableFile, offsets: list[int]) -> None:
    if offsets:
        highest = max(offsets)
        found.end = max(found.end, highest + 12 + struct.unpack("<8xI", file.read(highest, 12))[0])
        found.inside += _SECTOR * sum(offset < file.length for offset in offsets)  # at least one sector each
        found.data += found.block * len(offsets)


__all__ = ["has_footer", "vmdk_allocation"]
