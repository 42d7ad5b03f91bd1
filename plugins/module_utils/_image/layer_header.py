# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The header of a qcow2 file that is a layer of an image or a disk. It is untrusted, because a program that uses the
file can change it.
"""

from __future__ import annotations

import os

from .._core.errors import Conflict, os_errors
from .qcow2 import HEADER_SIZE, Qcow2Header

#: Upper bound of the name of a backing file in bytes (QEMU, docs/interop/qcow2.txt).
_LONGEST_BACKING_NAME = 1023

#: Upper bound of the first table in bytes (QEMU, block/qcow2.h: QCOW_MAX_L1_SIZE).
_LARGEST_TABLE = 32 << 20


def read_layer_header(descriptor: int, path: str) -> Qcow2Header:
    """Return the header of an open file.

    :arg path: path of the file, for messages.
    :raises Conflict: the file isn't a qcow2 image, or needs other files than a backing file.
    :raises FileAccessFailed: the file can't be read.
    """
    with os_errors(f"read {path}"):
        head = os.pread(descriptor, HEADER_SIZE, 0)
    try:
        header = Qcow2Header.parse(head)
    except ValueError as error:
        raise Conflict(f"{path} is not used: it isn't a qcow2 image.") from error
    if header.has_external_data or header.backing_length > _LONGEST_BACKING_NAME:
        raise Conflict(f"{path} is not used: it has an external data file, or its header is damaged.")
    return header


def read_backing_name(descriptor: int, path: str) -> str | None:
    """Return the name of the backing file, or ``None`` without one. Errors are those of :func:`read_layer_header`."""
    header = read_layer_header(descriptor, path)
    if not header.backing_offset:
        return None
    with os_errors(f"read {path}"):
        return os.fsdecode(os.pread(descriptor, header.backing_length, header.backing_offset))


def has_data(descriptor: int, path: str) -> bool:
    """Return whether the first table of a file has an entry, so that the file may have data of its own. Errors are
    those of :func:`read_layer_header`.
    """
    header = read_layer_header(descriptor, path)
    size = 8 * header.l1_entries
    with os_errors(f"read {path}"):
        table = os.pread(descriptor, min(size, _LARGEST_TABLE), header.l1_offset)
    return len(table) != size or any(table)


__all__ = ["has_data", "read_backing_name", "read_layer_header"]
