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

from .._core.directory import descriptor_path, open_file_at, opened_directory, opened_file_at
from .._core.errors import Conflict, os_errors
from .image_file import inspect
from .layout import checksum_file
from .new_image import remove_files
from .qemu_img import run_qemu_img
from .room import require_length, require_room
from .snapshots import chain_files, list_snapshots
from .still import is_used


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
        if is_used(descriptor):
            raise Conflict(
                f"{image} can't grow while a program such as a running virtual machine uses it: shut that down first."
            )
        growth = size - _size_of(descriptor, format, image)
        if growth <= 0:
            return
        if not sparse:
            require_room(descriptor, growth, f"grow {image}")
        remove_files(directory, [checksum_file(name)])  # the checksum is that of the old data
        if format == "raw":
            _grow_raw(descriptor, size, sparse, image)
        else:
            preallocation = [] if sparse else ["--preallocation=falloc"]
            file = descriptor_path(descriptor)
            run_qemu_img(
                "resize",
                "-q",
                "-f",
                "qcow2",
                *preallocation,
                "--",
                file,
                str(size),
                reads={},
                writes={descriptor: image},
                data=size,
                timeout=timeout,
            )
        with os_errors(f"write {image}"):
            os.fsync(descriptor)


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


__all__ = ["foresee_growth", "grow_image"]
