# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The blocks that the table of a VDI refers to (VirtualBox, VDICore.h)."""

from __future__ import annotations

import struct

from .table_file import Allocation, TableFile

#: Entries of blocks without storage: a block of zeros, and an unallocated block.
_ZERO, _FREE = 0xFFFFFFFE, 0xFFFFFFFF


def vdi_allocation(file: TableFile) -> Allocation:
    """Return the allocation of a file with a valid header.

    :raises OSError: the file can't be read.
    """
    table, data = struct.unpack("<II", file.read(340, 8))
    block, extra, blocks = struct.unpack("<III", file.read(376, 12))
    found = Allocation(file.length, block)
    found.add_tables([table], 4 * blocks)
    read = 0
    for _first, entries in file.entries(table, blocks, "I", "little"):
        found.add_blocks([data + entry * (block + extra) for entry in entries if entry < _ZERO])
        read += len(entries)
        if found.is_shared():
            return found
    # In a hole, all entries refer to the first block.
    unread = min(blocks, max(file.length - table, 0) // 4) - read
    found.add_blocks([data] if unread > 0 else [])
    found.inside += block * max(unread - 1, 0)
    return found


__all__ = ["vdi_allocation"]
