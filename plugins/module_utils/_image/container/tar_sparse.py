# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sparse files in tar archives, in GNU's formats: the old one, and pax 0.0, 0.1 and 1.0 (GNU tar's manual, "Storing
Sparse Files"). The archive has a map of the file's data, and only this data.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..._core.records import dataclass
from .byte_stream import ByteStream
from .tar_header import BLOCK, BadArchive, ends_early, parse_decimal, parse_number

#: Upper bound of the pieces in a map.
MOST_PIECES = 1 << 20
#: Upper bound of the length of a line of a map in bytes.
_LONGEST_LINE = 20

_HOLE = bytes(1 << 20)


@dataclass(frozen=True)
class SparseMap:
    """The data of a sparse file.

    :arg size: bytes of the whole file.
    :arg pieces: the offset and the length of each piece of data; ``None`` if the map is before the data.
    """

    size: int
    pieces: Sequence[tuple[int, int]] | None


def read_old_map(header: bytes, stream: ByteStream) -> SparseMap:
    """Return the map of an entry of the type ``S``. The stream is behind the header, and then behind further blocks of
    the map.

    :raises BadArchive: the map is damaged.
    """
    fields, is_extended = header[386:482], header[482]
    numbers: list[int] = []
    while True:
        numbers += [
            parse_number(fields[start : start + 12])
            for start in range(0, len(fields), 12)
            if fields[start - start % 24 : start - start % 24 + 24].strip(b"\0 ")
        ]
        if not is_extended:
            return SparseMap(parse_number(header[483:495]), _pair(numbers))
        if len(numbers) > 2 * MOST_PIECES:
            raise BadArchive(f"a sparse file with at most {MOST_PIECES} pieces is expected")
        block = stream.read(BLOCK)
        if len(block) < BLOCK:
            raise ends_early()
        fields, is_extended = block[:504], block[504]


def find_map(values: Mapping[str, bytes], records: Iterable[tuple[str, bytes]]) -> SparseMap | None:
    """Return the map in the extended headers of an entry, or ``None`` for a file that isn't sparse.

    :arg values: the values by name, and ``records`` all names and values in their order.
    :raises BadArchive: the map is damaged.
    """
    if "GNU.sparse.realsize" in values and values.get("GNU.sparse.major") == b"1":
        return SparseMap(parse_decimal(values["GNU.sparse.realsize"]), None)
    if "GNU.sparse.size" not in values:
        return None
    if "GNU.sparse.map" in values:
        numbers = [parse_decimal(one) for one in values["GNU.sparse.map"].split(b",")]
    else:
        names = ("GNU.sparse.offset", "GNU.sparse.numbytes")
        numbers = [parse_decimal(value) for name, value in records if name in names]
    return SparseMap(parse_decimal(values["GNU.sparse.size"]), _pair(numbers))


def _pair(numbers: Sequence[int]) -> list[tuple[int, int]]:
    if len(numbers) % 2:
        raise BadArchive("the map of a sparse file is damaged")
    return list(zip(numbers[::2], numbers[1::2]))


def expand(found: SparseMap, stream: ByteStream) -> Iterator[bytes]:
    """Yield the whole file, with zeros for the holes.

    :raises BadArchive: the map is damaged, or the archive ends too early.
    """
    position = 0
    pieces = _read_map(stream) if found.pieces is None else found.pieces
    for start, length in itertools.chain(pieces, [(found.size, 0)]):
        if start < position or start + length > found.size:
            raise BadArchive("the map of a sparse file is damaged")
        yield from _hole(start - position)
        end = stream.position + length
        yield from stream.pieces(length)
        if stream.position != end:
            raise ends_early()
        position = start + length


def _hole(size: int) -> Iterator[bytes]:
    while size:
        piece = _HOLE[:size]
        size -= len(piece)
        yield piece


def _read_map(stream: ByteStream) -> list[tuple[int, int]]:
    """Return the map before the data: lines with the number of the pieces, and the offset and length of each piece.
    Zeros fill the last block.
    """
    lines = _lines(stream)
    count = next(lines)
    if count > MOST_PIECES:
        raise BadArchive(f"a sparse file with at most {MOST_PIECES} pieces is expected")
    return _pair([next(lines) for _number in range(2 * count)])


def _lines(stream: ByteStream) -> Iterator[int]:
    """Yield the numbers in lines. Whole blocks are read."""
    rest = b""
    while True:
        line, end, behind = rest.partition(b"\n")
        if end:
            rest = behind
            yield parse_decimal(line)
            continue
        block = stream.read(BLOCK)
        if len(block) < BLOCK or len(line) > _LONGEST_LINE:
            raise BadArchive("the map of a sparse file is damaged")
        rest = line + block


__all__ = ["SparseMap", "expand", "find_map", "read_old_map"]
