# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small ISO 9660 images with files in a few directories: the writer, by xorriso(1), and a reader.

The reader is separate from any program because the images are in directories of other users.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping

from .._core.command import run
from .._core.errors import CommandMissing, InvalidInput, missing_command, os_errors
from .._core.records import dataclass

#: ECMA-119: bytes of a logical sector, and the offset of the primary volume descriptor.
_SECTOR = 2048
_DESCRIPTOR = 16 * _SECTOR
#: Upper bound of the length of a name in characters. Joliet names, which Windows reads, have no more.
LONGEST_NAME = 64
#: Upper bound of the number of files and directories that the reader returns or enters.
MOST_FILES = 1000
#: Upper bound of the time that xorriso takes, in seconds.
_TIMEOUT = 300


@dataclass(frozen=True)
class IsoLabels:
    """The labels in an image's primary volume descriptor.

    :arg application_id: the name of the program that the image is for.
    """

    volume_id: str
    application_id: str = ""


def check_file_name(option: str, name: str) -> str:
    """Return the name of a file in an image.

    :raises InvalidInput: the name is too long, or has a character that a guest's file system or shell could take for
        something else.
    """
    is_plain = re.fullmatch(r"[A-Za-z0-9_.+@][A-Za-z0-9_.+@-]*", name) is not None
    if not is_plain or len(name) > LONGEST_NAME or name in (".", ".."):
        raise InvalidInput(
            option,
            name,
            f"a file name of 1 to {LONGEST_NAME} letters, digits and '_', '.', '+', '@', '-', not starting with '-', "
            "is expected",
        )
    return name


def iso_bytes(labels: IsoLabels, files: Mapping[str, bytes]) -> bytes:
    """Return an image with ``files`` by name. The same input and the same xorriso give the same bytes.

    :arg files: by paths, such as ``openstack/latest/user_data``. :func:`check_file_name` accepts every part of a path.
    :raises CommandFailed: xorriso isn't installed, or failed.
    """
    with (
        os_errors("make an ISO image in the directory for temporary files"),
        tempfile.TemporaryDirectory(prefix="vmstore-iso-") as scratch,
    ):
        tree = os.path.join(scratch, "tree")
        os.mkdir(tree)
        for name, data in files.items():
            path = os.path.join(tree, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(data)
            os.utime(path, (0, 0))
        for directory, _directories, _files in os.walk(tree):
            os.utime(directory, (0, 0))
        image = os.path.join(scratch, "image")
        _make_image(labels, tree, image)
        with open(image, "rb") as made:
            return made.read()


def _make_image(labels: IsoLabels, tree: str, image: str) -> None:
    argv = ["xorriso", "-no_rc", "-as", "mkisofs", "-quiet", "-volid", labels.volume_id, "-joliet", "-rational-rock"]
    argv += ["-appid", labels.application_id] if labels.application_id else []
    # All dates are constant, so that equal files give equal bytes.
    argv += ["--modification-date=1970010100000000", "--set_all_file_dates", "set_to_mtime", "-output", image, tree]
    try:
        run(argv, timeout=_TIMEOUT)
    except CommandMissing as error:
        raise missing_xorriso() from error


def missing_xorriso() -> CommandMissing:
    """Return the error about the missing program."""
    return missing_command("xorriso", "xorriso")


def read_labels(data: bytes) -> IsoLabels:
    """Return the labels of an image.

    :raises ValueError: ``data`` isn't an image.
    """
    descriptor = _read_descriptor(data)
    return IsoLabels(_text(descriptor[40:72]), _text(descriptor[574:702]))


def _read_descriptor(data: bytes) -> bytes:
    descriptor = data[_DESCRIPTOR : _DESCRIPTOR + _SECTOR]
    if len(descriptor) < _SECTOR or descriptor[:7] != b"\x01CD001\x01":
        raise ValueError("not an ISO 9660 image")
    return descriptor


def _text(field: bytes) -> str:
    return field.rstrip(b" ").decode("ascii", "replace")


def read_files(data: bytes) -> dict[str, bytes]:
    """Return the files of an image by path. Names are those of Rock Ridge, or the plain ones (ECMA-119) in lower case.

    :raises ValueError: ``data`` isn't an image, or is damaged, or has more than :data:`MOST_FILES` files.
    """
    descriptor = _read_descriptor(data)
    if int.from_bytes(descriptor[80:84], "little") * _SECTOR > len(data):
        raise ValueError("the image lacks its end")
    files: dict[str, bytes] = {}
    waiting = [("", descriptor[156:190])]
    left, entries = len(data), 0
    while waiting:
        place, directory = waiting.pop(0)
        for record in _records(_extent(data, directory)):
            if record[33 : 33 + record[32]] in (b"\0", b"\1"):  # the directory itself, and the one above
                continue
            content = _extent(data, record)
            left, entries = left - len(content), entries + 1
            # The files and directories of a hostile image can overlap, or contain themselves.
            if left < 0 or entries > MOST_FILES:
                raise ValueError("the image has too many files")
            if record[25] & 2:
                waiting.append((f"{place}{_name(record)}/", record))
            else:
                files[place + _name(record)] = content
    return files


def _records(directory: bytes) -> Iterator[bytes]:
    """Yield the records of a directory (ECMA-119, 9.1)."""
    place = 0
    while place < len(directory):
        length = directory[place]
        if length < 34:  # the rest of a sector is zeros
            place = (place // _SECTOR + 1) * _SECTOR
            continue
        record = directory[place : place + length]
        if len(record) < length or 33 + record[32] > length:
            raise ValueError("a directory record lacks its end")
        yield record
        place += length


def _name(record: bytes) -> str:
    """Return the name in a directory record: that of its entries NM (Rock Ridge, IEEE P1282, 4.1.4), or the plain
    one.
    """
    length = record[32]
    entry = 33 + length + (length + 1) % 2
    name = b""
    while entry + 4 <= len(record) and record[entry + 2] >= 4:
        if record[entry : entry + 2] == b"NM":
            name += record[entry + 5 : entry + record[entry + 2]]
        entry += record[entry + 2]
    return (name or record[33 : 33 + length].partition(b";")[0].rstrip(b".").lower()).decode("ascii", "replace")


def _extent(data: bytes, record: bytes) -> bytes:
    """Return the data of a directory record (ECMA-119, 9.1): first sector at byte 2, length at byte 10, both with 32
    bits, little-endian first.
    """
    start = int.from_bytes(record[2:6], "little") * _SECTOR
    end = start + int.from_bytes(record[10:14], "little")
    if end > len(data):
        raise ValueError("an extent is beyond the end of the image")
    return data[start:end]


__all__ = [
    "LONGEST_NAME",
    "MOST_FILES",
    "IsoLabels",
    "check_file_name",
    "iso_bytes",
    "missing_xorriso",
    "read_files",
    "read_labels",
]
