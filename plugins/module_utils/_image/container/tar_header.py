# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The headers of tar archives: numbers, checksums, and the records of pax (POSIX, tar(5))."""

from __future__ import annotations

import struct
from collections.abc import Iterator

#: Size of a block in bytes.
BLOCK = 512


class BadArchive(Exception):
    """The archive is damaged or exceeds a limit. ``str(error)`` is the reason as a part of a sentence."""


def ends_early() -> BadArchive:
    """Return the error about an archive without its end."""
    return BadArchive("it ends too early")


def check_header(header: bytes) -> None:
    """Refuse a block that isn't a header.

    :raises BadArchive: the block is too short, or has another checksum.
    """
    if len(header) < BLOCK:
        raise ends_early()
    block = header[:148] + b" " * 8 + header[156:]
    checksum = parse_number(header[148:156])
    # Some old programs compute the checksum with signed bytes.
    if checksum != sum(block) and checksum != sum(struct.unpack("512b", block)):
        raise BadArchive("a header has a wrong checksum")


def parse_number(digits: bytes) -> int:
    """Return a number of a header: octal digits, or GNU's numbers with 256 as their base.

    :raises BadArchive: the digits are invalid.
    """
    if digits[0] == 0x80:
        return int.from_bytes(digits[1:], "big")
    stripped = digits.strip(b" \0")
    if stripped.translate(None, b"01234567"):
        raise BadArchive("a header has an invalid number")
    return int(stripped or b"0", 8)


def parse_decimal(digits: bytes) -> int:
    """Return a number of pax.

    :raises BadArchive: the digits are invalid.
    """
    if not 0 < len(digits) < 20 or digits.translate(None, b"0123456789"):
        raise BadArchive("a header has an invalid number")
    return int(digits)


def parse_text(field: bytes) -> bytes:
    """Return the text of a field, up to the first zero byte."""
    return field.partition(b"\0")[0]


def parse_records(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the names and the values in an extended header of pax.

    :raises BadArchive: the header is damaged.
    """
    position = 0
    while position < len(data) and data[position : position + 1] != b"\0":
        blank = data.find(b" ", position, position + 20)
        length = parse_decimal(data[position : max(blank, position)])
        record = data[blank + 1 : position + length]
        name, equals, value = record[:-1].partition(b"=")
        if not record.endswith(b"\n") or not equals or position + length > len(data):
            raise BadArchive("an extended header is damaged")
        yield name.decode("utf-8", "replace"), value
        position += length


__all__ = [
    "BLOCK",
    "BadArchive",
    "check_header",
    "ends_early",
    "parse_decimal",
    "parse_number",
    "parse_records",
    "parse_text",
]
