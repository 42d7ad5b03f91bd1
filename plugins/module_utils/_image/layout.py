# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The names in the directory of a datastore (spec: storage-driver; design: driver-contract).

An image is ``<32 hexadecimal digits>``. Beside it are the directory ``<image>.snap`` with a file for each snapshot,
whose name is the number of the snapshot, and ``<image>.md5sum``, which another front-end may have written. A file that
is being created or removed is a part, ``.<32 hexadecimal digits>.part`` (:mod:`.._core.temporary`). Other names are
foreign.
"""

from __future__ import annotations

from .._core.digits import is_decimal, is_hexadecimal

#: Number of hexadecimal digits in the name of an image: 128 random bits never repeat.
_DIGITS = 32
#: Upper bound of the decimal digits in the number of a snapshot.
_LONGEST_NUMBER = 9
#: Upper bound of the number of a snapshot.
HIGHEST_NUMBER = 10**_LONGEST_NUMBER - 1

#: Suffixes of the names beside an image.
SNAPSHOTS, CHECKSUM = ".snap", ".md5sum"


def is_image_name(name: str) -> bool:
    return is_hexadecimal(name, _DIGITS)


def parse_name(name: str) -> tuple[str, str] | None:
    """Return the image of a file or directory, and the suffix of the name: ``""`` for the image itself,
    :data:`SNAPSHOTS` or :data:`CHECKSUM`. Return ``None`` for any other name.
    """
    image, end = name[:_DIGITS], name[_DIGITS:]
    return (image, end) if is_image_name(image) and end in ("", SNAPSHOTS, CHECKSUM) else None


def name_of_part(part: str) -> str:
    """Return the name of the image that a part becomes."""
    return part[1 : 1 + _DIGITS]


def snapshot_directory(image: str) -> str:
    """Return the name or the path of the directory with an image's snapshots."""
    return f"{image}{SNAPSHOTS}"


def snapshot_file(image: str, number: int) -> str:
    """Return the name or the path of a snapshot of an image."""
    return f"{image}{SNAPSHOTS}/{number:d}"


def snapshot_number(name: str) -> int | None:
    """Return the number of a snapshot by the name of its file, or ``None`` for other files. Leading zeros are refused,
    because a number must lead back to the name.
    """
    return int(name) if is_decimal(name, _LONGEST_NUMBER) and name == str(int(name)) else None


def checksum_file(image: str) -> str:
    """Return the name or the path of the file with an image's checksum."""
    return f"{image}{CHECKSUM}"


__all__ = [
    "CHECKSUM",
    "HIGHEST_NUMBER",
    "SNAPSHOTS",
    "checksum_file",
    "is_image_name",
    "name_of_part",
    "parse_name",
    "snapshot_directory",
    "snapshot_file",
    "snapshot_number",
]
