# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The blocks that the tables of a VHDX refer to ([MS-VHDX] 2.2.3, 2.5 and 2.6), and its virtual size."""

from __future__ import annotations

import struct

from .table_file import Allocation, Read, TableFile

#: Offset of the first region table, length of a table, and length of an entry, in bytes.
_REGIONS, _TABLE, _ENTRY = 192 << 10, 64 << 10, 32
#: GUIDs in the byte order of the file.
_BLOCKS = bytes.fromhex("6677c22d23f600429d64115e9bfd4a08")
_METADATA = bytes.fromhex("06a27c8b90479a4bb8fe575f050f886e")
_FILE_PARAMETERS = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
_VIRTUAL_SIZE = bytes.fromhex("2442a52f1bcd7648b2115dbed83bf4b8")
_SECTOR_SIZE = bytes.fromhex("1dbf41816fa90947ba47f233a8faab5f")
#: State of a block that is completely in the file, the only state with data in a disk without a parent.
_PRESENT = 6
_STATE = 7
_OFFSET = (1 << 64) - (1 << 20)
#: Number of sectors of one block of the sector bitmap.
_BITMAP_SECTORS = 1 << 23


def vhdx_size(read: Read) -> int:
    """Return the virtual size in bytes.

    :raises struct.error, ValueError: the offsets of the tables are invalid.
    """
    return int(struct.unpack("<Q", _item(read, _VIRTUAL_SIZE, 8))[0])


def vhdx_allocation(file: TableFile) -> Allocation:
    """Return the allocation of a file that qemu-img can open.

    :raises OSError: the file can't be read.
    :raises struct.error, ValueError: the offsets of the tables are invalid.
    """
    size = vhdx_size(file.read)
    block = struct.unpack("<I", _item(file.read, _FILE_PARAMETERS, 4))[0]
    sector = struct.unpack("<I", _item(file.read, _SECTOR_SIZE, 4))[0]
    table, _length = _region(file.read, _BLOCKS)
    ratio = _BITMAP_SECTORS * sector // block
    blocks = -(-size // block)
    # The entry of each bitmap follows the entries of its blocks.
    count = blocks + (blocks - 1) // ratio if blocks else 0
    found = Allocation(file.length, block)
    found.add_tables([table], 8 * count)
    for first, entries in file.entries(table, count, "Q", "little"):
        if found.is_shared():
            break
        found.add_blocks(
            [
                entry & _OFFSET
                for number, entry in enumerate(entries, first)
                if entry & _STATE == _PRESENT and number % (ratio + 1) != ratio
            ]
        )
    return found


def _region(read: Read, guid: bytes) -> tuple[int, int]:
    """Return offset and length in bytes of a region."""
    table = read(_REGIONS, _TABLE)
    return struct.unpack_from("<QI", table, _find_entry(table, guid, 16) + 16)


def _item(read: Read, guid: bytes, size: int) -> bytes:
    """Return the first ``size`` bytes of an item of the metadata."""
    region, _length = _region(read, _METADATA)
    table = read(region, _TABLE)
    offset = struct.unpack_from("<I", table, _find_entry(table, guid, _ENTRY) + 16)[0]
    return read(region + offset, size)


def _find_entry(table: bytes, guid: bytes, first: int) -> int:
    """Return the position of the entry with ``guid``. The first entry is at ``first``."""
    for position in range(first, len(table) - _ENTRY + 1, _ENTRY):
        if table.startswith(guid, position):
            return position
    raise ValueError("no such entry")


__all__ = ["vhdx_allocation", "vhdx_size"]
