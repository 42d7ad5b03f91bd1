# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The disk by which a guest reads metrics, in the format of vhostmd(8).

A header of 16 bytes is followed by the document. A reader ignores a document while the header marks the disk as busy,
and a document with another checksum.
"""

from __future__ import annotations

import errno
import os
import struct

from ..._core.directory import open_directory_at, open_file_at
from ..._model.metrics import METRICS_NAME
from .document import EMPTY

#: Size of the disk in bytes.
SIZE = 262144

#: The signature, the busy flag, the checksum and the length of the document in bytes. All numbers are big-endian.
HEADER = struct.Struct(">4siii")
SIGNATURE = b"mvbd"

#: Upper bound of the document in bytes.
LONGEST = SIZE - 24


def checksum(document: bytes) -> int:
    """Return the sum of all bytes. Even that of the longest document is in the range of a signed number of 32 bits."""
    return sum(document)


def initial_disk() -> bytes:
    """Return the content of a whole disk without metrics, for the file that a domain starts with."""
    document = EMPTY + b"\n"
    return (HEADER.pack(SIGNATURE, False, checksum(document), len(document)) + document).ljust(SIZE, b"\0")


def update_disk(descriptor: int, document: bytes) -> None:
    """Replace the document of a disk that a guest can read at any moment.

    The kernel's page cache keeps the order of the three writes for all readers. So none of them waits for the storage.

    :arg descriptor: descriptor of the file.
    :raises ValueError: the document is too long. :raises OSError: the operating system refuses.
    """
    if len(document) > LONGEST:
        raise ValueError(f"a document of metrics has at most {LONGEST} bytes, and this one has {len(document)}")
    total = checksum(document)
    _write(descriptor, HEADER.pack(SIGNATURE, True, total, len(document)), 0)
    _write(descriptor, document, HEADER.size)
    _write(descriptor, HEADER.pack(SIGNATURE, False, total, len(document)), 0)


def _write(descriptor: int, data: bytes, offset: int) -> None:
    if os.pwrite(descriptor, data, offset) != len(data):
        raise OSError(errno.EIO, "only a part of it was written")


def open_disk(directory: int, domain: str) -> int:
    """Open the file of a domain, and return its descriptor. Links aren't followed.

    :arg directory: descriptor of the directory that has one directory for each domain.
    :arg domain: UUID of the domain.
    :raises OSError: the file is missing, or isn't a disk of metrics.
    """
    around = open_directory_at(directory, domain, os.O_PATH)
    try:
        found = open_file_at(around, METRICS_NAME, os.O_WRONLY | os.O_NONBLOCK)
    finally:
        os.close(around)
    status = os.fstat(found)
    # A file with another name elsewhere would be changed there, too.
    if (status.st_size, status.st_nlink) != (SIZE, 1):
        os.close(found)
        raise OSError(errno.EINVAL, f"it isn't a file of {SIZE} bytes with one name")
    return found


__all__ = ["LONGEST", "SIZE", "checksum", "initial_disk", "open_disk", "update_disk"]
