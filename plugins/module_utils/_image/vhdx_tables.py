# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The blocks that the tables of a VHDX refer to ([MS-VHDX] 2.2.3, 2.5 and 2.6), and its virtual size."""

from __future__ import annotations

import struct

from .table_file import Allocation, Read, TableFile

#: Bytes: where the first region table is, the length of a table, and of its entries.
_REGIONS, _TABLE, _ENTRY = 192 << 10, 64 << 10, 32
#: GUIDs as they lie in the file.
_BLOCKS = bytes.fromhex("6677c22d23f600429d64115e9bfd4a08")
_METADATA = bytes.fromhex("06a27c8b90479a4bb8fe575f050f886e")
_FILE_PARAMETERS = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
_VIRTUAL_SIZE = bytes.fromhex("2442a52f1bcd7648b2115dbed83bf4b8")
_SECTOR_SIZE = bytes.fromhex("1dbf41816fa90947ba47f233a8faab5f")
#: State of a block that is in the file as a whole, the only one of a disk that stands alone.
_PRESENT = 6
_STATE = 7
_OFFSET = (1 << 64) - (1 << 20)
#: Sectors for which a block of the sector bitmap has bits.
_BITMAP_SECTORS = 1 << 23


def vhdx_size(read: Read) -> int:
    """Return the virtual size in bytes.

    :raises struct.error, ValueError: the tables lead nowhere.
    """
    return int(struct.unpack("<Q", _item(read, _VIRTUAL_SIZE, 8))[0])


def vhdx_allocation(file: TableFile) -> Allocation:
    """Return what the tables refer to, of a file that qemu-img can open.

    :raises OSError: the file can't be read; :raises struct.error, ValueError: the tables lead nowhere.
    """
    size = vhdx_size(file.read)
    block = struct.unpack("<I", _item(file.read, _FILE_PARAMETERS, 4))[0]
    sector = struct.unpack("<I", _item(file.read, _SECTOR_SIZE, 4))[0]
    table, _length = _region(file.read, _BLOCKS)
    ratio = _BITMAP_SECTORS * sector // block
    blocks = -(-size // block)
    # Behind the entries of as many blocks as one bitmap is for comes the entry of that bitmap.
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
    return struct.unpack_from("<QI", table, _found(table, guid, 16) + 16)


def _item(read: Read, guid: bytes, size: int) -> bytes:
    """Return the first ``size`` bytes of an item of the metadata."""
    region, _length = _region(read, _METADATA)
    table = read(region, _TABLE)
    offset = struct.unpack_from("<I", table, _found(table, guid, _ENTRY) + 16)[0]
    return read(region + offset, size)


def _found(table: bytes, guid: bytes, first: int) -> int:
    """Return where the entry with ``guid`` is: a multiple of an entry's length behind the ``first``."""
    for position in range(first, len(table) - _ENTRY + 1, _ENTRY):
        if table.startswith(guid, position):
            return position
    raise ValueError("no such entry")


__all__ = ["vhdx_allocation", "vhdx_size"]
