# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A stream of bytes that is read in pieces of a given length."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from ..._core.chunks import CHUNK


class ByteStream:
    """The bytes of an iterable.

    :ivar position: number of the bytes that were read or skipped.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        #: The current chunk, and the position in it.
        self._chunk, self._offset = b"", 0
        self.position = 0

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yield the next ``size`` bytes, or fewer at the end of the stream."""
        while size > 0:
            if self._offset == len(self._chunk):
                chunk = next(self._chunks, None)
                if chunk is None:
                    return
                self._chunk, self._offset = chunk, 0
                continue
            piece = self._chunk[self._offset : self._offset + size]  # a whole chunk isn't copied
            self._offset += len(piece)
            self.position += len(piece)
            size -= len(piece)
            yield piece

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes, or fewer at the end of the stream. The caller ensures that ``size`` is
        small.
        """
        return b"".join(self.pieces(size))

    def skip(self, size: int) -> int:
        """Skip bytes, and return their number, which is smaller at the end of the stream."""
        return sum(map(len, self.pieces(size)))

    def drain(self, most: int) -> bool:
        """Skip the rest of the stream, at most so many bytes. Return whether that is all of the rest."""
        self.skip(most)
        return not self.skip(1)


class FileStream(ByteStream):
    """The bytes of an open file. Skipped bytes aren't read."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(())
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size

    def pieces(self, size: int) -> Iterator[bytes]:
        while size > 0:
            data = os.pread(self._descriptor, min(size, CHUNK), self.position)
            if not data:
                return
            self.position += len(data)
            size -= len(data)
            yield data

    def skip(self, size: int) -> int:
        skipped = max(0, min(size, self._size - self.position))
        self.position += skipped
        return skipped


__all__ = ["ByteStream", "FileStream"]
