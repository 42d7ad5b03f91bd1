# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An image that exists where ``vm_context`` writes one. Its directory can belong to another user."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from ..._core.directory import open_file_at
from ..._core.errors import Conflict
from ..._core.records import dataclass
from ..._host.made_directory import Ownership
from ..._image.iso_image import IsoLabels, read_files, read_labels
from ..._image.iso_sources import LARGEST
from .desired import APPLICATION_ID

#: Upper bound of an image in bytes: that of its files, and of what xorriso adds for 1000 files.
_LARGEST_IMAGE = LARGEST + 8 * 1024 * 1024


@dataclass(frozen=True)
class ExistingImage:
    """An image of this collection.

    :arg identity: the properties by which the file is recognized later.
    :arg files: contents by name; empty for a damaged image.
    """

    identity: tuple[int, ...]
    ownership: Ownership
    data: bytes
    labels: IsoLabels
    files: Mapping[str, bytes]


def identify(directory: int, name: str) -> tuple[int, ...] | None:
    """Return the properties by which a file in an open directory is recognized later; ``None`` without a file.

    :raises OSError: the operating system refuses.
    """
    try:
        return _identity(os.stat(name, dir_fd=directory, follow_symlinks=False))
    except FileNotFoundError:
        return None


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read_existing(directory: int, name: str, path: str) -> ExistingImage | None:
    """Return the image ``name`` in an open directory; ``None`` if the file is missing.

    :raises Conflict: this collection didn't write the file.
    :raises OSError: the operating system refuses.
    """
    try:
        descriptor = open_file_at(directory, name)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ELOOP, errno.ENXIO):  # a directory, a FIFO, a new link, or a socket
            raise _not_ours(path) from error
        raise
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        data = file.read(_LARGEST_IMAGE + 1)
    try:
        labels = read_labels(data)
    except ValueError as error:
        raise _not_ours(path) from error
    if labels.application_id != APPLICATION_ID or len(data) > _LARGEST_IMAGE:
        raise _not_ours(path)
    try:
        files = read_files(data)
    except ValueError:
        files = {}
    return ExistingImage(_identity(status), Ownership.of(status), data, labels, files)


def _not_ours(path: str) -> Conflict:
    return Conflict(
        f"path: {path} is no image that vm_context wrote, so it stays unchanged: remove it, or name another file."
    )


__all__ = ["ExistingImage", "identify", "read_existing"]
