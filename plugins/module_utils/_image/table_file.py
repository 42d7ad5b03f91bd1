# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tables of an image file, read piece by piece, and the sum of the blocks that they refer to."""

from __future__ import annotations

import errno
import os
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator

from .._core.block_device import length_of
from .._core.records import dataclass

#: Size of one read of a table in bytes.
_PIECE = 64 << 10


@dataclass
class Allocation:
    """The blocks that the tables of an image refer to, counted while the tables are read.

    :arg length: bytes of the file.
    :arg block: bytes of one block.
    """

    length: int
    block: int
    #: End of the last block or table in bytes.
    end: int = 0
    #: Sum of the bytes of blocks and tables that begin within the file. A sum larger than the file shows that blocks
    #: are shared.
    inside: int = 0
    #: Upper bound of the data that a conversion reads, in bytes.
    data: int = 0

    def add_tables(self, offsets: Iterable[int], size: int) -> None:
        """Count tables of ``size`` bytes."""
        for offset in offsets:
            self.end = max(self.end, offset + size)
            self.inside += size if offset < self.length else 0

    def add_blocks(self, offsets: list[int], end: int | None = None) -> None:
        """Count blocks.

        :arg end: end of the last block, if a part of this block is unused.
        """
        if not offsets:
            return
        highest = max(offsets)
        self.end = max(self.end, highest + self.block if end is None else end)
        self.data += self.block * len(offsets)
        self.inside += self.block * (
            len(offsets) if highest < self.length else sum(offset < self.length for offset in offsets)
        )

    def is_shared(self) -> bool:
        """Return whether the tables refer to blocks several times. The last block may end behind the file."""
        return self.inside > self.length + self.block


class TableFile:
    """An open image file whose tables are read. Behind its end there are zeros, the same as for qemu.

    :arg descriptor: descriptor of the file. The file position changes.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.length = length_of(descriptor)
        #: Start and end of the last hole that was found.
        self._hole = (0, 0)

    def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes. The caller ensures that ``size`` is small.

        :raises OSError: the file can't be read.
        """
        data = os.pread(self.descriptor, size, offset) if 0 <= offset < self.length else b""
        return data.ljust(size, b"\0")

    def entries(self, offset: int, count: int, code: str, byte_order: str) -> Iterator[tuple[int, array[int]]]:
        """Yield a table of ``count`` entries in pieces, each with the number of its first entry. Pieces inside a hole
        are left out.

        :arg code: type code of an entry (:mod:`array`).
        :arg byte_order: ``big`` or ``little``.
        :raises OSError: the file can't be read.
        """
        width = array(code).itemsize
        for first in range(0, count, _PIECE // width):
            start = offset + first * width
            if start >= self.length:
                return
            size = min(_PIECE, (count - first) * width)
            if self._is_hole(start, start + size):
                continue
            piece = array(code, self.read(start, size))
            if sys.byteorder != byte_order:
                piece.byteswap()
            yield first, piece

    def _is_hole(self, start: int, end: int) -> bool:
        if not (self._hole[0] <= start and end <= self._hole[1]):
            try:
                data = os.lseek(self.descriptor, start, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # the rest of the file is a hole
                    raise
                data = max(self.length, end)
            self._hole = (start, data)
        return end <= self._hole[1]


#: A function that reads ``size`` bytes at ``offset`` of a file or of its known beginning.
Read = Callable[[int, int], bytes]

__all__ = ["Allocation", "Read", "TableFile"]
