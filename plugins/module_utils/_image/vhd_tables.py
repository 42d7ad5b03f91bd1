# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The size in the footer of a VHD, and the blocks that the table of a dynamic VHD refers to (Microsoft, Virtual Hard
Disk Image Format Specification 1.0).
"""

from __future__ import annotations

import struct

from .table_file import Allocation, TableFile

#: Size of the footer at the end of a file in bytes.
FOOTER = 512
_SECTOR = 512
_COOKIE = b"conectix"
_FIXED = 2
_FREE = 0xFFFFFFFF
#: Programs that use the geometry in the footer, which is a little smaller than the current size: Virtual PC and QEMU
#: (QEMU, block/vpc.c).
_BY_GEOMETRY = (b"vpc ", b"qemu")
#: Programs for whose images every QEMU uses the current size (QEMU, block/vpc.c).
_BY_CURRENT_SIZE = (b"win ", b"qem2", b"d2v ", b"tap\0", b"CXSF")
#: The largest geometry, which stands for any larger size.
_LARGEST_GEOMETRY = (65535, 16, 255)
#: Size of the footer of the oldest programs in bytes.
_SHORTEST_FOOTER = 511


def is_by_geometry(footer: bytes) -> bool:
    """Return whether the size of a disk is its geometry, not the current size.

    :raises struct.error: ``footer`` is incomplete.
    """
    creator, *geometry = struct.unpack_from(">28x4s24xHBB", footer)
    return creator in _BY_GEOMETRY and tuple(geometry) != _LARGEST_GEOMETRY


def has_two_sizes(footer: bytes) -> bool:
    """Return whether versions of QEMU disagree about the size. For images of VirtualBox, Azure and others, 7.2 uses the
    geometry, and newer versions use the current size.

    :raises struct.error: ``footer`` is incomplete.
    """
    creator, size, *geometry = struct.unpack_from(">28x4s16xQHBB", footer)
    cylinders, heads, sectors = geometry
    if creator in (*_BY_GEOMETRY, *_BY_CURRENT_SIZE) or tuple(geometry) == _LARGEST_GEOMETRY:
        return False
    return bool(size != _SECTOR * cylinders * heads * sectors)


def vhd_size(footer: bytes) -> int:
    """Return the virtual size in bytes.

    :raises struct.error: ``footer`` is incomplete.
    """
    size, cylinders, heads, sectors = struct.unpack_from(">48xQHBB", footer)
    return int(_SECTOR * cylinders * heads * sectors if is_by_geometry(footer) else size)


def fixed_vhd_size(tail: bytes, length: int) -> int | None:
    """Return the bytes of a fixed VHD before its footer, or ``None`` for any other file.

    :arg tail: the last bytes of the file.
    :arg length: bytes of the file.
    """
    footer = tail[-FOOTER:]
    if len(footer) < FOOTER or not footer.startswith(_COOKIE):
        return None
    size, kind, checksum = struct.unpack_from(">48xQ4xII", footer)
    if kind != _FIXED or size != length - FOOTER or checksum != ~(sum(footer) - sum(footer[64:68])) & 0xFFFFFFFF:
        return None
    return int(size)


def vhd_allocation(file: TableFile) -> Allocation:
    """Return the allocation of a dynamic VHD, with the footer at the end. qemu-img must be able to open the file.

    :raises OSError: the file can't be read.
    """
    header = struct.unpack(">Q", file.read(16, 8))[0]
    table, entries, block = struct.unpack(">Q4xII", file.read(header + 16, 20))
    bitmap = -(-block // _SECTOR // 8 // _SECTOR) * _SECTOR
    found = Allocation(file.length, bitmap + block)
    found.add_tables([table], 4 * entries)
    read = 0
    for _first, piece in file.entries(table, entries, "I", "big"):
        found.add_blocks([entry * _SECTOR for entry in piece if entry != _FREE])
        read += len(piece)
        if found.is_shared():
            break
    # In a hole, all entries refer to the beginning of the file.
    found.inside += (bitmap + block) * max(min(entries, max(file.length - table, 0) // 4) - read, 0)
    found.end += _SHORTEST_FOOTER
    return found


__all__ = ["FOOTER", "fixed_vhd_size", "has_two_sizes", "is_by_geometry", "vhd_allocation", "vhd_size"]
