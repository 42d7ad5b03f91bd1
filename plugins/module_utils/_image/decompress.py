# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Decompress a stream. The compression is detected from the content, because a name may be wrong.

A compressed stream is hostile input. It can expand a thousandfold, need gigabytes of memory, and continue behind its
end.
"""

from __future__ import annotations

import bz2
import contextlib
import functools
import itertools
import lzma
import resource
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator

from .._core.command import CHUNK, stream
from .._core.errors import InvalidInput, missing_command
from .._core.records import TYPE_CHECKING
from .magic import COMPRESSIONS, ENOUGH, refusal, sniff

if TYPE_CHECKING:
    from typing import Any

#: Upper bound of the memory of a decoder in bytes. The highest levels of xz and zstd need 65 and 128 MiB, while a
#: hostile header can require 4 GiB.
MEMORY = 256 << 20

#: Upper bound of the memory of zstd(1) in bytes. Besides the window of a frame, zstd(1) needs buffers and a stack for
#: each thread.
ZSTD_MEMORY = 2 * MEMORY
_ZSTD_STACK = 1 << 20

#: Upper bound of the CPU time of a decoder in seconds, and the bytes of input or output that allow one second more.
#: bzip2, the slowest, takes a twentieth of this.
CPU_SECONDS = 10
BYTES_PER_CPU_SECOND = 256 << 10

#: Upper bound of the input in bytes. Each byte of output allows two bytes more.
MOST_INPUT = 256 << 20
INPUT_PER_OUTPUT = 2

#: Upper bound of empty members beyond the number of other members. Parallel compressors write one empty member for each
#: of the others.
_EMPTY = 10_000

#: First input of a new member in bytes. A small value is fast for tiny members, because a decoder copies all unused
#: input.
_SLICE = 4 << 10

#: Magic numbers of RFC 8878, 3.1.1 and 3.1.2; skippable frames have 16 of them. Upper bound of a block in bytes
#: (3.1.1.2.4).
_ZSTD_FRAME = 0xFD2FB528
_ZSTD_SKIPPABLE = 0x184D2A50
_ZSTD_BLOCK = 128 << 10

#: Bytes at the beginning that contain the magic numbers of compressions and archives.
_HEAD = 512

_DECODERS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY),
}


def decompress(
    chunks: Iterable[bytes],
    *,
    limit: int,
    path: str,
    timeout: float = 60,
    require_image: Callable[[str], object] | None = None,
) -> Iterator[bytes]:
    """Yield ``chunks``, decompressed if they are gzip (RFC 1952), bzip2, xz or zstd (RFC 8878), of one member or many.
    Read no more chunks than necessary.

    :arg limit: upper bound of the output in bytes, also for uncompressed data.
    :arg path: the local path or URL of the source, for errors.
    :arg timeout: upper bound of the time without progress of zstd(1) in seconds.
    :arg require_image: raises for kinds of files (:func:`sniff`) that must not be stored. The default is
        :func:`refusal`.
    :raises InvalidInput: the data is refused by ``require_image``, compressed twice, or more than ``limit`` bytes. The
        stream is damaged, ends early, continues behind its end, or takes too much memory, time or input for its output.
    :raises CommandFailed: zstd(1) is missing or stalled.
    """
    refused = _make_refusal(path)
    require_image = require_image or functools.partial(_require_image, path)
    compression, chunks = peek(chunks)
    require_image(compression)
    if compression not in COMPRESSIONS:
        yield from limit_bytes(chunks, limit=limit, path=path)
        return
    effort = _Effort(compression, refused)
    inside, chunks = peek(effort.give(_unpack(compression, chunks, limit, effort, timeout)))
    _require_once(compression, inside, refused)
    require_image(inside)
    yield from limit_bytes(chunks, limit=limit, path=path, verb="expands to")


def limit_bytes(chunks: Iterable[bytes], *, limit: int, path: str, verb: str = "has") -> Iterator[bytes]:
    """Yield ``chunks`` up to ``limit`` bytes.

    :arg path: see :func:`decompress`.
    :raises InvalidInput: the chunks have more than ``limit`` bytes.
    """
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > limit:
            raise _make_refusal(path)(f"at most {limit} bytes are expected, and it {verb} more than that")
        yield chunk


class _Effort:
    """The input and CPU time of a decompression, compared with its output."""

    def __init__(self, compression: str, refused: Callable[[str], InvalidInput]) -> None:
        self._compression = compression
        self.refused = refused
        self._taken = self._given = self._empty = 0
        self._seconds = 0.0

    def take(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield ``chunks`` of the input, and count them.

        :raises InvalidInput: the output is far too small for the input.
        """
        for chunk in chunks:
            self._taken += len(chunk)
            if self._taken > MOST_INPUT + INPUT_PER_OUTPUT * self._given:
                raise self.refused(
                    f"{self._compression} data is expected, and of the first {self._taken} bytes only {self._given} "
                    "come out"
                )
            yield chunk

    def give(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._given += len(chunk)
            yield chunk

    def spend(self, seconds: float) -> None:
        """Count CPU time.

        :raises InvalidInput: the CPU time is too high.
        """
        self._seconds += seconds
        most = CPU_SECONDS + (self._taken + self._given) / BYTES_PER_CPU_SECOND
        if self._seconds > most:
            raise self.refused(
                f"{self._compression} data that takes at most {most:.0f} seconds of CPU time so far is expected"
            )

    def count_member(self, *, is_empty: bool) -> None:
        """Count a member of the stream.

        :raises InvalidInput: too many members are empty.
        """
        self._empty += 1 if is_empty else -1
        if self._empty > _EMPTY:
            raise self.refused(
                f"{self._compression} data is expected, and more than {_EMPTY} of its members or frames are empty"
            )


def decompress_beginning(head: bytes, size: int, *, path: str, timeout: float = 60) -> bytes:
    """Decompress the beginning of a file. Return ``size`` bytes or a little more, or fewer if ``head`` ends before. The
    data may be no image.

    Arguments and errors are those of :func:`decompress`, except that damaged and short streams are accepted.
    """

    def broken(_why: str) -> InvalidInput:
        return InvalidInput("path", path, "more of it is expected")

    compression = sniff(head)
    out = bytearray()
    with contextlib.suppress(InvalidInput):
        for chunk in _unpack(compression, [head], size, _Effort(compression, broken), timeout):
            out += chunk
            if len(out) >= size:
                break
    _require_once(compression, sniff(bytes(out)), _make_refusal(path))
    return bytes(out)


def _make_refusal(path: str) -> Callable[[str], InvalidInput]:
    """Return a function that returns an error about ``path`` for a reason."""

    def refused(why: str) -> InvalidInput:
        from .source import redact  # modules for URLs load slowly, and a local file doesn't need them

        return InvalidInput("path", redact(path), why)

    return refused


def peek(chunks: Iterable[bytes]) -> tuple[str, Iterator[bytes]]:
    """Return the kind of the data, and an iterator over all of the data.

    More data is read only if the beginning would be refused, to find the signs of a disk.
    """
    chunks = iter(chunks)
    head = _read(chunks, _HEAD)
    kind = sniff(head)
    if refusal(kind):
        head += _read(chunks, ENOUGH)
        kind = sniff(head)
    return kind, itertools.chain((head,), chunks) if head else chunks


def _read(chunks: Iterator[bytes], size: int) -> bytes:
    """Read ``size`` bytes or a little more, or fewer at the end of the stream."""
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) >= size:
            break
    return bytes(data)


def _require_once(compression: str, inside: str, refused: Callable[[str], InvalidInput]) -> None:
    if inside in COMPRESSIONS:
        raise refused(f"an image that is compressed once is expected, and inside {compression} there is {inside} again")


def _require_image(path: str, kind: str) -> None:
    why = refusal(kind, is_remote=not path.startswith("/"))
    if why:
        raise _make_refusal(path)(why)


def _unpack(compression: str, chunks: Iterable[bytes], limit: int, effort: _Effort, timeout: float) -> Iterator[bytes]:
    chunks = effort.take(chunks)
    return _zstd(chunks, limit, effort, timeout) if compression == "zstd" else _members(compression, chunks, effort)


def _members(compression: str, chunks: Iterable[bytes], effort: _Effort) -> Iterator[bytes]:
    """Yield the decompressed members in pieces of at most one ``CHUNK``."""
    decoder: Any = None
    size, is_empty = _SLICE, True
    for data in chunks:
        position = 0
        while position < len(data):
            if decoder is None:
                # Zeros behind a member are padding (xz file format 2.2; gzip(1) on tapes).
                piece = data[position : position + _SLICE]
                position += len(piece) - len(piece.lstrip(b"\0"))
                if position == len(data) or not data[position]:
                    continue
                decoder, size, is_empty = _DECODERS[compression](), _SLICE, True
            piece = data[position : position + size]
            position += len(piece)
            size = min(2 * size, CHUNK)
            for out in _decode(compression, decoder, piece, effort):
                is_empty = False
                yield out
            if decoder.eof:
                position -= len(decoder.unused_data)
                decoder = None
                effort.count_member(is_empty=is_empty)
    if decoder is not None:
        raise effort.refused(f"a whole {compression} stream is expected, and this one ends too early")


def _decode(compression: str, decoder: Any, data: bytes, effort: _Effort) -> Iterator[bytes]:
    """Yield the decompressed ``data``, up to the end of the member."""
    while True:
        began = time.thread_time()
        try:
            out = decoder.decompress(data, CHUNK)
        except (OSError, ValueError, lzma.LZMAError, zlib.error) as error:
            raise effort.refused(
                f"a whole {compression} stream is expected, and this one is damaged or goes on behind its end ({error})"
            ) from error
        effort.spend(time.thread_time() - began)
        if out:
            yield out
        # Only zlib returns its unused input. The other decoders keep it.
        data = getattr(decoder, "unconsumed_tail", b"")
        if decoder.eof or not data and len(out) < CHUNK:
            return


def _zstd(chunks: Iterable[bytes], limit: int, effort: _Effort, timeout: float) -> Iterator[bytes]:
    """Decompress with zstd(1), because Python has no zstd before 3.14."""
    import shutil

    command = shutil.which("zstd")
    if command is None:
        raise missing_command("zstd", "zstd")

    def damaged(reason: str) -> InvalidInput:
        return effort.refused(
            "a whole zstd stream is expected, and this one is damaged, ends too early or goes on behind its end "
            f"({reason})"
        )

    seconds = CPU_SECONDS + limit // BYTES_PER_CPU_SECOND
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    limits = (
        f"--cpu={seconds if most == resource.RLIM_INFINITY else min(seconds, most)}",
        f"--data={ZSTD_MEMORY}",
        f"--stack={_ZSTD_STACK}",
        "--core=0",
    )
    frames = _zstd_frames(chunks, effort, damaged)
    return stream(
        [command, "-d", "-c", "-q", f"--memory={MEMORY >> 20}MiB"],
        frames,
        failed=damaged,
        timeout=timeout,
        limits=limits,
    )


def _zstd_frames(chunks: Iterable[bytes], effort: _Effort, damaged: Callable[[str], InvalidInput]) -> Iterator[bytes]:
    """Yield ``chunks``, which must consist of zstd frames and skippable frames (RFC 8878, 3.1).

    Otherwise, zstd(1) would decompress other compressions behind a frame, without a limit of their memory.

    :raises InvalidInput: other data, or a frame that needs more memory than :data:`MEMORY`.
    """
    steps = _zstd_steps(effort, damaged)
    skipped, wanted = next(steps, (0, 4))  # the default is the first step
    header = b""
    for chunk in chunks:
        position = 0
        while position < len(chunk):
            if skipped:
                step = min(skipped, len(chunk) - position)
                skipped -= step
                position += step
                continue
            part = chunk[position : position + wanted - len(header)]
            header += part
            position += len(part)
            if len(header) == wanted:
                skipped, wanted = steps.send(header)
                header = b""
        yield chunk


def _zstd_steps(effort: _Effort, damaged: Callable[[str], InvalidInput]) -> Generator[tuple[int, int], bytes, None]:
    """Receive each header of the frames and blocks of a stream. For the next header, yield the number of bytes to skip
    before it, and its length.
    """
    skipped = 0
    while True:
        magic = int.from_bytes((yield skipped, 4), "little")
        if magic & ~0xF == _ZSTD_SKIPPABLE:
            skipped = int.from_bytes((yield 0, 4), "little")
            effort.count_member(is_empty=True)
            continue
        if magic != _ZSTD_FRAME:
            raise damaged("what follows a frame is no zstd frame")
        (descriptor,) = yield 0, 1
        has_window = not descriptor & 0x20
        dictionary, content = (0, 1, 2, 4)[descriptor & 3], (1 - has_window, 2, 4, 8)[descriptor >> 6]
        header = yield 0, has_window + dictionary + content
        window = (
            _zstd_window(header[0])
            if has_window
            else int.from_bytes(header[-content:], "little") + 256 * (content == 2)
        )
        if window > MEMORY:
            raise effort.refused(
                f"zstd data that takes at most {MEMORY >> 20} MiB of memory is expected, and this asks for "
                f"{window >> 20} MiB"
            )
        skipped, is_last, is_empty = 0, 0, True
        while not is_last:
            block = int.from_bytes((yield skipped, 3), "little")
            is_last, kind, size = block & 1, block >> 1 & 3, block >> 3
            if kind == 3 or size > _ZSTD_BLOCK:
                raise damaged("a block has no valid header")
            is_empty = is_empty and not size
            skipped = 1 if kind == 1 else size
        skipped += 4 if descriptor & 4 else 0  # a checksum
        effort.count_member(is_empty=is_empty)


def _zstd_window(descriptor: int) -> int:
    """Return the size in bytes of the window that a frame needs (RFC 8878, 3.1.1.1.2)."""
    base = 1 << (10 + (descriptor >> 3))
    return base + base // 8 * (descriptor & 7)


__all__ = ["decompress_beginning", "decompress", "limit_bytes", "peek"]
