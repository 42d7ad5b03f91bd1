# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Placeholders: empty files that libvirt fills during a live migration. A placeholder has the size and the backing file
of the file that receives the writes of a disk at the source.
"""

from __future__ import annotations

import os

from .._core.directory import open_directory_at
from .._core.errors import Conflict, InvalidInput, os_errors
from .._core.records import dataclass
from .._core.sparse import extents
from .image_file import LARGEST
from .layer_header import has_data
from .layout import snapshot_directory, snapshot_number
from .new_image import new_image
from .snapshots import create_overlay
from .vm_directory import DiskPath, parse_disk_path
from .vm_disk import OpenDisk, check_format, is_own_layer

#: Size of one read in bytes.
_PIECE = 1 << 20


@dataclass(frozen=True)
class Placeholder:
    """A placeholder.

    :arg file: path of the file in the VM directory, ``disk.N`` or ``disk.N.snap/<number>``.
    :arg format: ``raw`` or ``qcow2``.
    :arg size: size of the disk in bytes.
    :arg backing: name of the backing file in the header, a layer of the same disk. ``None`` for no backing file.
    """

    file: str
    format: str
    size: int
    backing: str | None = None


def describe_active(disk: OpenDisk) -> Placeholder:
    """Return the placeholder for the file that receives the writes of a disk.

    :raises Conflict: the disk is a link to an image, its files are damaged, or a live snapshot was interrupted.
    """
    disk.require_settled()
    files, number = disk.files, disk.current()
    if files.pointer is not None:
        raise Conflict(f"{disk.path.path} can't be copied to another host, because it is a link to {files.image}.")
    file = os.path.relpath(files.path(number), disk.path.directory)
    if disk.format == "qcow2":
        return Placeholder(file, "qcow2", files.virtual_size(number), files.backing_name(number))
    with files.opened(number) as descriptor:
        return Placeholder(file, "raw", os.fstat(descriptor).st_size)


def make_placeholder(directory: int, path: DiskPath, placeholder: Placeholder, owner: tuple[int, int] | None) -> None:
    """Create a placeholder in an open VM directory, durably.

    :arg path: path of the VM directory, for messages.
    :arg placeholder: it comes from another host, so it is untrusted.
    :raises InvalidInput: the placeholder is none of a disk in the directory.
    :raises CommandFailed, NoSpace, FileAccessFailed: the file can't be created.
    """
    disk, layer = _parse(path, placeholder)
    around = directory
    with os_errors(f"write {path.directory}/{placeholder.file}"):
        if layer is not None:
            around = open_directory_at(directory, snapshot_directory(disk.name))
        try:
            with new_image(around, owner=owner) as part:
                if placeholder.format == "raw":
                    os.truncate(part.fd, placeholder.size)
                else:
                    create_overlay(part, placeholder.backing, placeholder.size)
                part.publish_durably(around, os.path.basename(placeholder.file))
        finally:
            if around != directory:
                os.close(around)


def _parse(path: DiskPath, placeholder: Placeholder) -> tuple[DiskPath, int | None]:
    """Return the path of the disk of a placeholder, and the number of its layer.

    :raises InvalidInput: the placeholder can't be one of the disk.
    """
    check_format(placeholder.format)
    name, slash, layer = placeholder.file.partition("/")
    if slash:
        name = name[: -len(snapshot_directory(""))]
    disk = parse_disk_path(f"{path.directory}/{name}", option="placeholder")
    is_layer = placeholder.file == f"{snapshot_directory(name)}/{layer}" and snapshot_number(layer) is not None
    if not (is_layer if slash else placeholder.file == name):
        raise InvalidInput("placeholder", placeholder.file, "a disk or a layer of it is expected")
    if not 0 <= placeholder.size <= LARGEST:
        raise InvalidInput("placeholder", placeholder.size, f"at most {LARGEST} bytes are expected")
    if placeholder.backing is not None and not (is_layer and is_own_layer(disk, placeholder.backing)):
        raise InvalidInput("placeholder", placeholder.backing, f"a layer of {disk.path} is expected")
    return disk, int(layer) if slash else None


def is_empty(disk: OpenDisk) -> bool:
    """Return whether the file that receives the writes of a disk has no data of its own. Zeros are no data."""
    number = disk.current()
    with disk.files.opened(number) as descriptor:
        path = disk.files.path(number)
        if disk.format == "qcow2":
            return not has_data(descriptor, path)
        with os_errors(f"read {path}"):
            for start, end in extents(descriptor, os.fstat(descriptor).st_size):
                for position in range(start, end, _PIECE):
                    if os.pread(descriptor, min(_PIECE, end - position), position).strip(b"\0"):
                        return False
    return True


__all__ = ["Placeholder", "describe_active", "is_empty", "make_placeholder"]
