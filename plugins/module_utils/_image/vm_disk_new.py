# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Create the disks of a virtual machine: copies of images, overlays on images, links to images, and empty disks.

A new disk gets its name when all of its data is durable. An existing disk of the same name, which an interrupted action
may have left, is replaced. So every action can be repeated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from .._core.directory import sync_opened
from .._core.errors import Conflict, InvalidInput, NotFound, os_errors
from .backing_names import set_backing_directory
from .copy import foresee_conversion, foresee_copy
from .image_file import disk_size
from .image_files import ImageFiles, files_in, make_link, opened_files, owner_like
from .layout import snapshot_directory
from .new_image import new_image
from .resize import grow_opened
from .snapshots import TIMEOUT, create_overlay, merge
from .vm_directory import DiskPath, make_directory_at, parse_disk_path
from .vm_disk import DiskRecord, check_format, check_image, make_room, place_file, place_layer, replace_link, unchanged
from .vm_lock import DEADLINE, locked_disk


def clone_image(
    record: DiskRecord,
    *,
    linked: bool = False,
    layered: bool = False,
    size: int | None = None,
    qcow2_options: str | None = None,
    deadline: float = DEADLINE,
) -> None:
    """Create a disk from its image, which is on this host. An existing disk is replaced.

    :arg linked: create an overlay on the image (qcow2) instead of a copy of its current data.
    :arg layered: make the copy the first layer, as the link ``disk.N`` to ``disk.N.snap/0`` (qcow2). An overlay always
        is a layer.
    :arg size: least size of the disk in bytes. The part behind the end of the image takes no storage.
    :arg qcow2_options: options of an overlay, see :func:`creation_options`.
    :arg deadline: seconds to wait for another action on the disk.
    :raises InvalidInput: the record or an option is invalid.
    :raises NotFound: the image is missing.
    :raises Conflict: a program uses the old disk, or writes to the image.
    :raises LockTimeout: another action on the disk didn't end before the deadline.
    :raises NoSpace, CommandFailed, FileAccessFailed: the disk can't be written.
    """
    path, image = _parse(record)
    if record.format != "qcow2" and (linked or layered):
        raise InvalidInput("format", record.format, "qcow2 is expected for a disk of layers")
    with (
        opened_files(image) as source,
        opened_image_data(source, record.format) as reads,  # first, because a missing image creates no directory
        locked_disk(path, doing="clone", create=True, deadline=deadline) as directory,
        new_image(directory, owner=owner_like(directory)) as part,
    ):
        first = next(iter(reads))
        wanted = max(size or 0, disk_size(first, record.format, image))
        if linked:
            create_overlay(part, image, wanted, options=qcow2_options)
        else:
            with unchanged(reads):
                foresee_merge(reads, record.format, directory)
                merge(reads, record.format, part)
            if wanted > disk_size(part.fd, record.format, path.path):
                grow_opened(part.fd, record.format, wanted, path.path, timeout=TIMEOUT)
        (place_layer if linked or layered else place_file)(directory, path, part)


def link_image(record: DiskRecord, *, deadline: float = DEADLINE) -> None:
    """Make a disk a link to its image on shared storage. Snapshots of the disk are then those of the image.

    A qcow2 image gets the directory ``<image>.snap`` with a link ``0`` to the image, and the disk is a link to the file
    with the highest number. Arguments and errors are those of :func:`clone_image`.
    """
    path, image = _parse(record)
    with opened_files(image) as files:
        if files.target() is None and not files.is_regular():
            raise NotFound(f"The image {image} does not exist.")
        target = image
        if record.format == "qcow2":
            target = f"{snapshot_directory(image)}/{_last_layer(files)}"
        with locked_disk(path, doing="ln", create=True, deadline=deadline) as directory:
            make_room(directory, path, keeps_file=True)
            replace_link(directory, path, target)


def make_disk(
    path: str,
    *,
    format: str,
    size_mb: int,
    fs: str | None = None,
    supported: Sequence[str] = (),
    fs_options: str = "",
    qcow2_options: str = "",
    sparse: bool = True,
    deadline: float = DEADLINE,
) -> None:
    """Create a disk that is empty, or has an empty file system or swap space. An existing disk is replaced.

    The other arguments and errors are those of :func:`make_datablock` and :func:`clone_image`.
    """
    from .datablock import check_datablock, make_datablock

    parsed = parse_disk_path(path)
    check_datablock(format=format, size_mb=size_mb, fs=fs, supported=supported, fs_options=fs_options)
    doing = "mkswap" if fs == "swap" else "mkimage"
    with (
        locked_disk(parsed, doing=doing, create=True, deadline=deadline) as directory,
        new_image(directory, owner=owner_like(directory)) as part,
    ):
        make_datablock(
            part,
            format=format,
            size_mb=size_mb,
            fs=fs,
            supported=supported,
            fs_options=fs_options,
            qcow2_options=qcow2_options,
            sparse=sparse,
            timeout=TIMEOUT,
        )
        place_file(directory, parsed, part)


def opened_image_data(files: ImageFiles, format: str) -> contextlib.AbstractContextManager[Mapping[int, str]]:
    """Open the files with the current data of an image. Yield their paths by descriptor."""
    return files.opened_chain(files.active()) if format == "qcow2" else files.opened_alone(None)


def foresee_merge(reads: Mapping[int, str], format: str, directory: int) -> None:
    """Refuse a :func:`merge` into a new file of an open directory that lacks space.

    :raises NoSpace, CommandFailed, FileAccessFailed: see :func:`foresee_copy` and :func:`foresee_conversion`.
    """
    if len(reads) == 1:
        foresee_copy(next(iter(reads)), directory)
    else:
        from .qemu_img import as_one_image

        foresee_conversion(as_one_image(tuple(reads)), format, directory, format, reads=reads, timeout=TIMEOUT)


def _parse(record: DiskRecord) -> tuple[DiskPath, str]:
    """Return the path of the disk and the path of its image."""
    check_format(record.format)
    if record.image is None:
        raise InvalidInput("image", None, "the path of the disk's image is expected")
    return parse_disk_path(record.path), check_image(record.image)


def _last_layer(files: ImageFiles) -> int:
    """Return the number of the file that receives the writes of a qcow2 image on shared storage. Without snapshots, the
    link ``<image>.snap/0`` to the image is created.

    :raises Conflict: the snapshots of the image are whole copies, or its files have another layout.
    """
    number = files.active_number()
    if number is not None:
        set_backing_directory(files, snapshot_directory(files.image), snapshot_directory(files.name))
        return number
    place = snapshot_directory(files.image)
    with os_errors(f"write {place}"):
        make_directory_at(files.directory, snapshot_directory(files.name))
    with files_in(files.directory, files.image) as opened:
        numbers = opened.numbers()
        if numbers and not opened.is_linked_to_itself():
            raise Conflict(f"{files.image} can't be linked, because its snapshots are whole copies: delete them first.")
        opened.link_to_itself()
        if not numbers:
            directory, name = opened.place(0)
            with os_errors(f"write {place}"):
                make_link(directory, name, files.image)
                sync_opened(directory)
        number = numbers[-1] if numbers else 0
        set_backing_directory(opened, snapshot_directory(files.image), snapshot_directory(files.name))
        return number


__all__ = ["clone_image", "foresee_merge", "link_image", "make_disk", "opened_image_data"]
