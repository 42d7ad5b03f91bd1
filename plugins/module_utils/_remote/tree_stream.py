# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The data of a tree: frames (:mod:`.stream`) of all files, one after the other.

The data comes in segments. After each segment comes a digest of all data so far. So the receiver knows up to where the
data is verified, and the last digest verifies the whole tree.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator

from .._core.errors import TransferFailed, VmstoreError
from .._core.sparse import extents, writing_out
from .staging import STRIDE, Position, Staging
from .stream import CHUNK, DATA, DIGEST, END, FRAME, HOLE
from .tree import FILE, Entry, Source, Tree
from .wire import describe_failure, rebuild_error

#: Kinds of frames besides those of :mod:`.stream`: the end of a segment, and an error of the sender.
SEGMENT_END, FAILURE = b"S", b"F"

#: Data of a segment in bytes. After a broken connection, less than this is sent again.
SEGMENT = 64 << 20

#: Bytes of a block in which zeros are searched: the smallest block of usual file systems.
BLOCK = 4096

#: Upper bound of an error of the sender in bytes.
LONGEST_FAILURE = 64 << 10


class Digest:
    """The digest of all frames so far, as a chain over the segments.

    ssh(1) authenticates all data. So only damage in memory and in pipes is left to find, and a CRC of each segment
    suffices. A cryptographic hash would take a fifth of the time of a transfer.
    """

    def __init__(self, start: bytes) -> None:
        self._start = start
        self._sum = 0

    def update(self, data: bytes | memoryview) -> None:
        self._sum = zlib.crc32(data, self._sum)

    def cut(self) -> bytes:
        """Return the digest, and begin a segment."""
        import hashlib

        segment = self._start + self._sum.to_bytes(4, "big")
        self._start, self._sum = hashlib.new(DIGEST, segment, usedforsecurity=False).digest(), 0
        return self._start


def send_data(source: Source, tree: Tree, position: Position, write: Callable[[memoryview | bytes], object]) -> None:
    """Write the frames from a position on.

    :raises StaleState: a file changed.
    :raises VmstoreError, OSError: errors of reading, which are sent too, and of ``write``.
    """
    sender = _Sender(source, write, position)
    for index, entry in enumerate(tree[position.index :], start=position.index):
        if entry.kind == FILE and entry.size:
            sender.send_file(entry, position.offset if index == position.index else 0)
    sender.end(END)


def send_failure(error: Exception, write: Callable[[bytes], object]) -> None:
    """Write an error in the place of further data, so that the receiver discards the data."""
    message = json.dumps(describe_failure(error)).encode()[:LONGEST_FAILURE]
    write(FRAME.pack(FAILURE, len(message)) + message)


def _without_zeros(descriptor: int, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the parts of ranges that aren't zeros. Allocated storage without data is a hole until a program reads it
    (lseek(2) of ext4 and XFS). So a file can have more data than a moment ago, though nobody wrote to it.
    """
    for begin, end in ranges:
        for position in range(begin, end, BLOCK):
            length = min(BLOCK, end - position)
            if os.pread(descriptor, length, position).strip(b"\0"):
                yield position, position + length


class _Sender:
    def __init__(self, source: Source, write: Callable[[memoryview | bytes], object], position: Position) -> None:
        self._source = source
        self._write = write
        self._digest = Digest(position.digest)
        self._sent = 0
        # The header and the data of a frame are written at once.
        self._buffer = memoryview(bytearray(FRAME.size + CHUNK))

    def send_file(self, entry: Entry, start: int) -> None:
        with self._source.opened(entry) as descriptor:
            ranges = list(extents(descriptor, entry.size, start))
            if sum(end - begin for begin, end in ranges) > entry.data:
                ranges = list(_without_zeros(descriptor, ranges))
            position = start
            for begin, end in ranges:
                self._skip(begin - position)
                self._send_range(descriptor, begin, end, entry)
                position = end
            self._skip(entry.size - position)

    def _skip(self, length: int) -> None:
        if length:
            self._put(memoryview(FRAME.pack(HOLE, length)))

    def _send_range(self, descriptor: int, position: int, end: int, entry: Entry) -> None:
        while position < end:
            length = os.preadv(
                descriptor, [self._buffer[FRAME.size : FRAME.size + min(CHUNK, end - position)]], position
            )
            if not length:
                raise self._source.stale(entry)
            FRAME.pack_into(self._buffer, 0, DATA, length)
            self._put(self._buffer[: FRAME.size + length])
            position += length
            self._sent += length
            if self._sent >= SEGMENT:
                self.end(SEGMENT_END)

    def _put(self, frame: memoryview) -> None:
        self._digest.update(frame)
        self._write(frame)

    def end(self, kind: bytes) -> None:
        """End a segment, or all data."""
        digest = self._digest.cut()
        self._write(FRAME.pack(kind, len(digest)) + digest)
        self._sent = 0


def receive_data(staging: Staging, position: Position, read_into: Callable[[memoryview], object], peer: str) -> None:
    """Read frames from a position on into a staging, until all of the tree is there and verified.

    :arg read_into: fills a buffer.
    :arg peer: the sender, for messages.
    :raises BadData: the frames aren't the data of the tree.
    :raises VmstoreError: the error of the sender.
    :raises OSError: the data can't be written.
    """
    receiver = _Receiver(staging, position, read_into, peer)
    while receiver.receive_file():
        pass
    receiver.receive_end()


class BadData(TransferFailed):
    """Frames that aren't the data of the announced tree, or were damaged on their way."""


class _Receiver:
    def __init__(
        self, staging: Staging, position: Position, read_into: Callable[[memoryview], object], peer: str
    ) -> None:
        self._staging = staging
        self._read_into = read_into
        self._peer = peer
        self._digest = Digest(position.digest)
        self._index, self._offset = position.index, position.offset
        self._is_empty = True  # whether nothing came since the last digest
        self._header = memoryview(bytearray(FRAME.size))
        self._buffer = memoryview(bytearray(CHUNK))

    def receive_file(self) -> bool:
        """Receive the rest of the current file, and return whether there was one."""
        tree = self._staging.tree
        while self._index < len(tree) and self._offset >= tree[self._index].size:
            self._index, self._offset = self._index + 1, 0
        if self._index == len(tree):
            return False
        entry = tree[self._index]
        flushed, data = self._offset, entry.data
        with self._staging.opened(entry) as descriptor, writing_out(descriptor) as write_out:
            while self._offset < entry.size:
                kind, length = self._read_header()
                if kind == SEGMENT_END:
                    self._end_segment(length)
                    continue
                if kind not in (DATA, HOLE) or not 0 < length <= entry.size - self._offset:
                    raise self._unexpected(f"{length} bytes at {self._offset} of {entry.path!r}")
                self._digest.update(self._header)
                if kind == DATA:
                    data -= length
                    if length > CHUNK or data < 0:
                        raise self._unexpected(f"more data of {entry.path!r} than announced")
                    self._write(descriptor, length)
                self._offset += length
                self._is_empty = False
                if self._offset - flushed >= STRIDE:
                    write_out(flushed, self._offset - flushed)
                    flushed = self._offset
        return True

    def receive_end(self) -> None:
        kind, length = self._read_header()
        if kind == SEGMENT_END:
            self._end_segment(length)
            kind, length = self._read_header()
        if kind != END:
            raise self._unexpected("data behind the last file")
        self._end_segment(length)

    def _read_header(self) -> tuple[bytes, int]:
        self._read_into(self._header)
        kind, length = FRAME.unpack(self._header)
        if kind == FAILURE:
            raise self._read_failure(length)
        if kind == SEGMENT_END and self._is_empty:
            raise self._unexpected("an empty segment")
        return kind, length

    def _read_failure(self, length: int) -> VmstoreError:
        if length > LONGEST_FAILURE:
            return self._unexpected("a long error")
        message = memoryview(bytearray(length))
        self._read_into(message)
        try:
            return rebuild_error(self._peer, dict(json.loads(bytes(message))))
        except (LookupError, RecursionError, TypeError, ValueError):
            return self._unexpected("an unknown error")

    def _write(self, descriptor: int, length: int) -> None:
        data = self._buffer[:length]
        self._read_into(data)
        self._digest.update(data)
        position = self._offset
        while data:
            written = os.pwrite(descriptor, data, position)
            data, position = data[written:], position + written

    def _end_segment(self, length: int) -> None:
        self._is_empty = True
        expected = self._digest.cut()
        if length != len(expected):
            raise self._unexpected("a digest of another length")
        found = memoryview(bytearray(length))
        self._read_into(found)
        if found != expected:
            raise BadData(f"The data from the {self._peer} was damaged on its way: the digests differ.")
        self._staging.note(Position(self._index, self._offset, expected))

    def _unexpected(self, what: str) -> BadData:
        return BadData(f"The {self._peer} did not send the data that it announced: {what}.")


__all__ = ["BadData", "receive_data", "send_data", "send_failure"]
