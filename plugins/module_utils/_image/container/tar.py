# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The entries of a tar archive, read as a stream: ustar, pax and GNU's extensions (POSIX, tar(5)).

Python's tarfile isn't used, because it keeps headers of any length in memory. Here, each header has a limit.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..._core.records import dataclass
from .byte_stream import ByteStream
from .tar_header import (
    BLOCK,
    BadArchive,
    check_header,
    ends_early,
    parse_decimal,
    parse_number,
    parse_records,
    parse_text,
)
from .tar_sparse import SparseMap, expand, find_map, read_old_map

#: Upper bound of the extended headers of an entry in bytes, and of their number.
_LONGEST_HEADERS = 1 << 20
_MOST_HEADERS = 16

#: Types of entries.
FILE, HARD_LINK, SYMBOLIC_LINK, DIRECTORY, _SPARSE = "0", "1", "2", "5", "S"
#: Types that also stand for a regular file, and types without data whatever their size is.
_FILES = (FILE, "\0", "7", _SPARSE)
_WITHOUT_DATA = (HARD_LINK, SYMBOLIC_LINK, "3", "4", DIRECTORY, "6")
#: Types of headers before an entry: GNU's long name and long target of a link, and those of pax for the next entry and
#: for all entries.
_LONG_NAME, _LONG_LINK, _EXTENDED, _GLOBAL = "L", "K", "x", "g"

_ZEROS = bytes(BLOCK)


@dataclass(frozen=True)
class TarEntry:
    """An entry of an archive.

    :arg kind: the type, such as :data:`FILE`. A regular file always has this type.
    :arg stored: bytes of the data in the archive.
    :arg sparse: the map of a sparse file.
    """

    name: str
    kind: str
    stored: int
    sparse: SparseMap | None = None

    @property
    def size(self) -> int:
        """Return the length of the file in bytes."""
        return self.stored if self.sparse is None else self.sparse.size

    def read(self, stream: ByteStream) -> Iterator[bytes]:
        """Yield the content of a file. The stream is behind the headers of the entry.

        :raises BadArchive: the archive is damaged.
        """
        if self.sparse is not None:
            yield from expand(self.sparse, stream)
            return
        end = stream.position + self.stored
        yield from stream.pieces(self.stored)
        if stream.position != end:
            raise ends_early()


def read_entries(stream: ByteStream, *, most: int) -> Iterator[TarEntry]:
    """Yield the entries of an archive. Data that the consumer didn't read before the next entry is skipped.

    :arg most: upper bound of the entries.
    :raises BadArchive: the archive is damaged, ends too early, or has too many entries.
    """
    for count in range(most + 1):
        entry = _read_entry(stream)
        if entry is None:
            return
        if count == most:
            break
        end = stream.position + entry.stored + -entry.stored % BLOCK
        yield entry
        if stream.position > end:
            raise BadArchive("a sparse file has more data than its size")
        _skip(stream, end - stream.position)
    raise BadArchive(f"an archive with at most {most} entries is expected")


def _read_entry(stream: ByteStream) -> TarEntry | None:
    """Return the next entry with the values of the headers before it, or ``None`` at the end of the archive."""
    records: list[tuple[str, bytes]] = []
    length = 0
    for _header in range(_MOST_HEADERS):
        header = stream.read(BLOCK)
        if header in (b"", _ZEROS):
            if records:
                raise ends_early()
            return None
        check_header(header)
        kind, size = chr(header[156]), parse_number(header[124:136])
        if kind not in (_LONG_NAME, _LONG_LINK, _EXTENDED, _GLOBAL):
            return _make_entry(header, kind, records, stream)
        length += size
        if length > _LONGEST_HEADERS:
            raise BadArchive(f"an entry with at most {_LONGEST_HEADERS} bytes of headers is expected")
        data = stream.read(size)
        if len(data) < size:
            raise ends_early()
        _skip(stream, -size % BLOCK)
        if kind == _EXTENDED:
            records += parse_records(data)
        elif kind == _LONG_NAME:
            records.insert(0, ("path", parse_text(data)))
    raise BadArchive(f"an entry with at most {_MOST_HEADERS} headers is expected")


def _make_entry(header: bytes, kind: str, records: list[tuple[str, bytes]], stream: ByteStream) -> TarEntry:
    values = dict(records)
    name = values.get("GNU.sparse.name", values.get("path", _name_of(header))).decode("utf-8", "surrogateescape")
    if kind in _FILES and kind != _SPARSE and name.endswith("/"):
        kind = DIRECTORY  # as old programs write it
    if kind in _WITHOUT_DATA:
        return TarEntry(name, kind, 0)
    stored = parse_decimal(values["size"]) if "size" in values else parse_number(header[124:136])
    if kind not in _FILES:
        return TarEntry(name, kind, stored)
    found = read_old_map(header, stream) if kind == _SPARSE else find_map(values, records)
    return TarEntry(name, FILE, stored, found)


def _name_of(header: bytes) -> bytes:
    name = parse_text(header[:100])
    prefix = parse_text(header[345:500]) if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _skip(stream: ByteStream, size: int) -> None:
    if stream.skip(size) < size:
        raise ends_early()


__all__ = ["DIRECTORY", "FILE", "HARD_LINK", "SYMBOLIC_LINK", "BadArchive", "TarEntry", "read_entries"]
