# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Grow an image file in place. The existing data stays, and the new part reads as zeros.

A copy of a large disk would take hours. A crash leaves the old size or the new size: the file system changes the size
of a raw file atomically, and qemu-img writes the size of a qcow2 image last (QEMU, docs/interop/qcow2.txt, "Header").
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from .._core.directory import open_file_at, opened_directory, opened_file_at
from .._core.errors import Conflict, os_errors
from .._core.sparse import extents
from .copy import CHUNK
from .image_file import disk_size, inspect
from .layout import checksum_file
from .new_image import remove_files
from .qemu_img import as_one_image, run_qemu_img
from .room import require_length, require_room
from .snapshots import chain_files, list_snapshots
from .still import require_unused


def grow_image(image: str, format: str, size: int, *, sparse: bool = True, timeout: float) -> None:
    """Grow a raw or qcow2 image to ``size`` bytes. An image of this size or larger stays unchanged.

    :arg image: the image's path. The driver has checked that it is in the datastore.
    :arg sparse: ``False`` allocates storage for the new part.
    :arg timeout: seconds for qemu-img.
    :raises Conflict: the image has snapshots, or a program uses the image.
    :raises CommandFailed: qemu-img failed.
    :raises NoSpace, FileAccessFailed: a file operation failed.
    """
    if chain_files(image, format) != [image] or list_snapshots(image):
        raise Conflict(f"{image} can't grow while it has snapshots: delete them, or flatten one.")
    directory, name = os.path.split(image)
    with contextlib.ExitStack() as stack:
        with os_errors(f"open {image}"):
            opened = stack.enter_context(opened_directory(directory))
            descriptor = open_file_at(opened, name, os.O_RDWR)
            stack.callback(os.close, descriptor)
        require_unused(descriptor, image, "grow")
        if size <= _size_of(descriptor, format, image):
            return
        if not sparse:
            require_room(descriptor, size - _size_of(descriptor, format, image), f"grow {image}")
        remove_files(directory, [checksum_file(name)])  # the checksum is that of the old data
        grow_opened(descriptor, format, size, image, sparse=sparse, timeout=timeout)


def grow_opened(descriptor: int, format: str, size: int, path: str, *, sparse: bool = True, timeout: float) -> None:
    """Grow an open raw or qcow2 file to ``size`` bytes, durably. Arguments and errors are those of :func:`grow_image`.

    :arg descriptor: for reading and writing. A backing file in the header isn't opened.
    """
    if format == "raw":
        _grow_raw(descriptor, size, sparse, path)
    else:
        preallocation = [] if sparse else ["--preallocation=falloc"]
        run_qemu_img(
            *["resize", "-q", "-f", "qcow2", *preallocation, "--", as_one_image([descriptor]), str(size)],
            reads={},
            writes={descriptor: path},
            data=size,
            timeout=timeout,
        )
    with os_errors(f"write {path}"):
        os.fsync(descriptor)


def cut_opened(descriptor: int, format: str, size: int, path: str, *, timeout: float) -> None:
    """Cut an open raw or qcow2 file to ``size`` bytes, durably. The end must hold no data.

    :raises Conflict: the end holds data.
    :raises CommandFailed, FileAccessFailed: the file can't be read or cut.
    """
    if format == "raw":
        with os_errors(f"read {path}"):
            is_empty = not any(map(any, _read_from(descriptor, size)))
    else:
        is_empty = _is_unallocated(descriptor, size, path, timeout)
    if not is_empty:
        raise Conflict(f"{path} can't shrink to {size} bytes, because the part behind them holds data.")
    if format == "raw":
        with os_errors(f"write {path}"):
            os.truncate(descriptor, size)
    else:
        arguments = ["resize", "-q", "-f", "qcow2", "--shrink", "--", as_one_image([descriptor]), str(size)]
        run_qemu_img(*arguments, reads={}, writes={descriptor: path}, data=size, timeout=timeout)
    with os_errors(f"write {path}"):
        os.fsync(descriptor)


def _read_from(descriptor: int, position: int) -> Iterator[bytes]:
    """Yield the data of a file from a position on, without the holes."""
    for start, end in extents(descriptor, os.fstat(descriptor).st_size):
        start = max(start, position)
        while start < end:
            yield (data := os.pread(descriptor, min(CHUNK, end - start), start))
            if not data:
                return
            start += len(data)


def _is_unallocated(descriptor: int, position: int, path: str, timeout: float) -> bool:
    """Return whether a qcow2 file stores no data from a position on."""
    import json

    size = disk_size(descriptor, "qcow2", path)
    arguments = ["map", "--output=json", "-f", "qcow2", "-s", str(position), as_one_image([descriptor])]
    done = run_qemu_img(*arguments, reads={descriptor: path}, data=size, timeout=timeout)
    return not any(extent["data"] for extent in json.loads(done.stdout))


def foresee_growth(image: str, format: str, size: int, *, sparse: bool = True) -> None:
    """Refuse a :func:`grow_image` with the same arguments that lacks space.

    :raises NoSpace, FileAccessFailed: see :func:`grow_image`.
    """
    place, name = os.path.split(image)
    with contextlib.ExitStack() as stack:
        with os_errors(f"open {image}"):
            directory = stack.enter_context(opened_directory(place))
            descriptor = stack.enter_context(opened_file_at(directory, name))
            before = os.fstat(descriptor)
        if not sparse:
            require_room(directory, size - _size_of(descriptor, format, image), f"grow {image}")
        if format == "raw" and size > before.st_size:
            require_length(directory, size, f"grow {image}")


def _size_of(descriptor: int, format: str, image: str) -> int:
    """Return the virtual size in bytes."""
    return (
        os.fstat(descriptor).st_size
        if format == "raw"
        else inspect(descriptor, path=image, option="image").virtual_size
    )


def _grow_raw(descriptor: int, size: int, sparse: bool, image: str) -> None:
    before = os.fstat(descriptor).st_size
    with os_errors(f"grow {image}"):
        try:
            if sparse:
                os.truncate(descriptor, size)
            else:
                os.posix_fallocate(descriptor, before, size - before)
        except OSError:
            os.truncate(descriptor, before)  # releases a partial allocation on a full file system
            raise


__all__ = ["cut_opened", "foresee_growth", "grow_image", "grow_opened"]
