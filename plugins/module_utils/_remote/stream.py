# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The format of data for another host: frames, which keep holes, and a digest of all frames at the end."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import IO

from .._core.errors import StaleState, TransferFailed

#: The header of a frame: its kind, and the number of bytes that follow or that a hole has.
FRAME = struct.Struct(">cQ")
DATA, HOLE, END = b"D", b"H", b"E"

#: The algorithm of the digest in the last frame.
DIGEST = "sha256"

#: Upper bound of the data of one frame in bytes.
CHUNK = 1 << 20

#: The size of a stream of unknown length.
UNKNOWN = -1


def frames_of_file(descriptor: int, size: int, extents: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """Yield an open file as frames. Holes are neither read nor sent.

    :arg size: bytes of the file.
    :arg extents: the parts of the file with data, as (start, end).
    :raises StaleState: the file became shorter meanwhile.
    """
    position = 0
    for start, end in [*extents, (size, size)]:
        if start > position:
            yield FRAME.pack(HOLE, start - position)
        position = start
        while position < end:
            data = os.pread(descriptor, min(CHUNK, end - position), position)
            if not data:
                raise StaleState(
                    "The file that an image is copied from became shorter meanwhile; copy it when nothing writes to it."
                )
            yield FRAME.pack(DATA, len(data)) + data
            position += len(data)


def frames_of_stream(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield data as frames."""
    return (FRAME.pack(DATA, len(chunk)) + chunk for chunk in chunks)


def seal(frames: Iterable[bytes], check: Callable[[], object] = bool) -> Iterator[bytes]:
    """Yield ``frames``, and a last frame with the digest of all frames.

    :arg check: is called before the last frame, and raises if the data must not be used.
    """
    import hashlib

    digest = hashlib.new(DIGEST, usedforsecurity=False)
    for frame in frames:
        digest.update(frame)
        yield frame
    check()
    yield FRAME.pack(END, digest.digest_size) + digest.digest()


class Received:
    """Data from another host, read while it arrives.

    :arg stdin: the frames.
    :arg size: bytes of the data, or :data:`UNKNOWN`.
    :arg ended: is called after the last frame.
    """

    def __init__(self, stdin: IO[bytes], size: int, ended: Callable[[], object]) -> None:
        self.size = size
        self._stdin = stdin
        self._ended = ended

    def begin(self, size: int) -> tuple[bytes, Iterator[bytes]]:
        """Return the first ``size`` bytes or more, and an iterator over all of the data.

        :raises TransferFailed: the data is damaged or incomplete. The iterator raises this, too.
        """
        chunks = self._chunks()
        head: list[bytes] = []
        for chunk in chunks:
            head.append(chunk)
            if sum(map(len, head)) >= size:
                break
        return b"".join(head), itertools.chain(head, chunks)

    def _chunks(self) -> Iterator[bytes]:
        import hashlib

        digest = hashlib.new(DIGEST, usedforsecurity=False)
        zeros = bytes(CHUNK)
        while True:
            header = self._read(FRAME.size)
            kind, length = FRAME.unpack(header)
            data = b"" if kind == HOLE else self._read(length)
            if kind == END:
                if data != digest.digest():
                    raise TransferFailed("What arrived from the front-end is not what it sent: the digests differ.")
                self._ended()
                return
            digest.update(header)
            digest.update(data)
            while kind == HOLE and length > 0:
                yield zeros[:length]
                length -= CHUNK
            if data:
                yield data

    def _read(self, length: int) -> bytes:
        data = self._stdin.read(length)
        if len(data) < length:
            raise TransferFailed("The front-end is gone.")
        return data


__all__ = [
    "CHUNK",
    "DATA",
    "DIGEST",
    "END",
    "FRAME",
    "HOLE",
    "UNKNOWN",
    "Received",
    "frames_of_file",
    "frames_of_stream",
    "seal",
]
