# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Decompress an image while it passes by. What it is, its content says; the name may lie.

A compressed stream is hostile input: it can expand a thousandfold and more, ask for gigabytes of memory, and go on behind its end.
"""

from __future__ import annotations

import bz2
import contextlib
import itertools
import lzma
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .._core.command import CHUNK, stream
from .._core.errors import CommandFailed, InvalidInput
from .magic import COMPRESSIONS, ENOUGH, refusal, sniff

#: Bytes of memory for a decoder. The highest levels of xz and zstd need 65 and 128 MiB; a hostile header can ask for 4 GiB.
MEMORY = 256 << 20

#: Bytes in which compressions and archives have their magic number.
_HEAD = 512

_DECODERS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY),
}


def decompressed(chunks: Iterable[bytes], *, limit: int, path: str, timeout: float = 60) -> Iterator[bytes]:
    """``chunks`` as they are, or decompressed when they are gzip (RFC 1952), bzip2, xz or zstd (RFC 8878), of one member or many. Reads no more than it must.

    :arg limit: bytes that may come out, of what isn't compressed too.
    :arg path: the local path or URL that the bytes come from, for errors.
    :arg timeout: seconds in which zstd(1) must do something.
    :raises InvalidInput: what :func:`refusal` names, also compressed; compressed twice; more than ``limit`` bytes; a stream that is damaged,
        ends early or goes on behind its end.
    :raises CommandFailed: zstd(1) is missing or stalled.
    """
    refused = _refusing(path)
    compression, chunks = _peek(chunks)
    _require_image(compression, path, refused)
    if compression in COMPRESSIONS:
        inside, chunks = _peek(_unpack(compression, chunks, refused, timeout))
        _require_image(inside, path, refused, within=compression)
    verb = "expands to" if compression in COMPRESSIONS else "has"
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > limit:
            raise refused(f"at most {limit} bytes are expected, and it {verb} more than that")
        yield chunk


def beginning(head: bytes, size: int, *, path: str, timeout: float = 60) -> bytes:
    """Return what the beginning of a compressed file unpacks to: ``size`` bytes or a little more, or fewer where it breaks off before.

    Arguments and errors are those of :func:`decompressed`, but for a stream that is damaged or ends early.
    """

    def broken(_why: str) -> InvalidInput:
        return InvalidInput("path", path, "more of it is expected")

    compression = sniff(head)
    out = bytearray()
    with contextlib.suppress(InvalidInput):
        for chunk in _unpack(compression, [head], broken, timeout):
            out += chunk
            if len(out) >= size:
                break
    _require_image(sniff(bytes(out)), path, _refusing(path), within=compression)
    return bytes(out)


def _refusing(path: str) -> Callable[[str], InvalidInput]:
    """Return a function that makes an error about ``path`` of a reason."""

    def refused(why: str) -> InvalidInput:
        from .source import redacted  # a local file needs no URLs, which take longer to load than all this

        return InvalidInput("path", redacted(path), why)

    return refused


def _peek(chunks: Iterable[bytes]) -> tuple[str, Iterator[bytes]]:
    """Return what begins here, and all of it again. Only what is about to be refused is read on, as far as the signs of a disk go."""
    chunks = iter(chunks)
    head = _read(chunks, _HEAD)
    kind = sniff(head)
    if refusal(kind):
        head += _read(chunks, ENOUGH)
        kind = sniff(head)
    return kind, itertools.chain((head,), chunks) if head else chunks


def _read(chunks: Iterator[bytes], size: int) -> bytes:
    """Read ``size`` bytes or a little more, fewer only at the end."""
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) >= size:
            break
    return bytes(data)


def _require_image(kind: str, path: str, refused: Callable[[str], InvalidInput], *, within: str | None = None) -> None:
    """Refuse what is no image, or is compressed again ``within`` a compression."""
    why = refusal(kind, is_remote=not path.startswith("/"))
    if within and kind in COMPRESSIONS:
        why = f"an image that is compressed once is expected, and inside {within} there is {kind} again"
    if why:
        raise refused(why)


def _unpack(compression: str, chunks: Iterable[bytes], refused: Callable[[str], InvalidInput], timeout: float) -> Iterator[bytes]:
    return _zstd(chunks, refused, timeout) if compression == "zstd" else _members(compression, chunks, refused)


def _members(compression: str, chunks: Iterable[bytes], refused: Callable[[str], InvalidInput]) -> Iterator[bytes]:
    """Never more than one ``CHUNK`` at once, however far the input expands."""
    decoder: Any = None
    for data in chunks:
        while True:
            if decoder is None:
                # Zeros behind a member are padding (xz file format 2.2; gzip(1) on tapes).
                data = data.lstrip(b"\0")
                if not data:
                    break
                decoder = _DECODERS[compression]()
            try:
                out = decoder.decompress(data, CHUNK)
            except (OSError, ValueError, lzma.LZMAError, zlib.error) as error:
                raise refused(f"a whole {compression} stream is expected, and this one is damaged or goes on behind its end ({error})") from error
            if out:
                yield out
            if decoder.eof:
                data, decoder = decoder.unused_data, None
            else:
                # Only zlib hands back what it didn't take yet; the others keep it.
                data = getattr(decoder, "unconsumed_tail", b"")
                if not data and len(out) < CHUNK:
                    break
    if decoder is not None:
        raise refused(f"a whole {compression} stream is expected, and this one ends too early")


def _zstd(chunks: Iterable[bytes], refused: Callable[[str], InvalidInput], timeout: float) -> Iterator[bytes]:
    """By zstd(1): Python has no zstd before 3.14."""
    command = shutil.which("zstd")
    if command is None:
        raise CommandFailed("The command 'zstd' is not installed on this host: install the package zstd.")

    def damaged(reason: str) -> InvalidInput:
        return refused(f"a whole zstd stream is expected, and this one is damaged, ends too early or goes on behind its end ({reason})")

    return stream([command, "-d", "-c", "-q", f"--memory={MEMORY >> 20}MiB"], chunks, failed=damaged, timeout=timeout)


__all__ = ["beginning", "decompressed"]
