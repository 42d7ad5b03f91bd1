# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots of an image: the files ``<image>.snap/<id>`` (design: driver-contract). There are three layouts, by
transfer driver:

* whole copies: each snapshot is a whole copy, and the image is a file (raw, and qcow2 with ``ssh``).
* overlays: each file is a qcow2 overlay of the file before, and the image is a symbolic link to the newest file. The
  newest file is no snapshot, because it receives the writes.
* overlays on shared storage: the image is the first file, and ``<image>.snap/0`` is a symbolic link to the image. The
  file with the highest number receives the writes. ``<image>.snap/<image>.snap`` is a symbolic link to ``.``, so that
  backing files are found from both directories.

A change is written to a new file, which is then renamed over the old one, so all data stays complete at any time. Every
action can be repeated.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping

from .._core.directory import descriptor_path
from .._core.errors import Conflict, InvalidInput
from .._core.records import TYPE_CHECKING
from .copy import convert, copy_local, creation_options, foresee_conversion, foresee_copy
from .image_file import disk_size
from .image_files import ImageFiles, opened_files
from .layout import checksum_file, is_image_name, snapshot_directory
from .new_image import NewImage, remove_files, replace_image, sweep

if TYPE_CHECKING:
    from .batch import Batch

#: Upper bound of the time of a command that copies data in seconds.
TIMEOUT = 86400


def delete_snapshot(image: str, format: str, snapshot: int, *, timeout: float = TIMEOUT) -> None:
    """Remove a snapshot. qcow2 files that are based on the snapshot are first rebased on its backing file. A missing
    snapshot counts as removed.

    :arg image: the image's path. The driver has checked that it is in the datastore.
    :raises Conflict: the file is the current data of the image, or the files have another layout than those above.
    :raises PathNotAllowed: a link of another user leads to the datastore.
    :raises CommandFailed: qemu-img failed.
    :raises NoSpace, FileAccessFailed: a file operation failed.
    """
    with opened_files(image) as files:
        delete_from(files, format, snapshot, timeout=timeout)


def delete_from(files: ImageFiles, format: str, snapshot: int, *, timeout: float = TIMEOUT) -> bool:
    """Remove a snapshot of open files as :func:`delete_snapshot` does. Return ``False`` if it is missing."""
    sweep(files.directory)  # a killed run may have left the files that it replaced
    if not files.has(snapshot):
        return False
    if format == "qcow2":
        if files.data_of(snapshot) == files.active():
            raise Conflict(
                f"{files.path(snapshot)} can't be deleted: it is not a snapshot but what the image {files.image} holds "
                "now."
            )
        for child in files.children(snapshot):
            _rebase(files, child, snapshot, timeout)
    files.unlink(snapshot)
    return True


def revert_snapshot(image: str, format: str, snapshot: int) -> None:
    """Replace the data of the image by that of a snapshot. The snapshot stays. Arguments and errors are those of
    :func:`delete_snapshot`.

    :raises NotFound: there is no such snapshot.
    """
    with opened_files(image) as files:
        revert_to(files, format, snapshot)


def revert_to(files: ImageFiles, format: str, snapshot: int) -> bool:
    """Revert open files as :func:`revert_snapshot` does. Return ``False`` if the snapshot is the current file."""
    source = files.chain(snapshot)[0] if format == "qcow2" else files.data_of(snapshot)
    target = files.active() if format == "qcow2" else None
    if source == target:
        return False
    with files.opened(source) as descriptor, files.new_image(descriptor) as part:
        if target is None:
            copy_local(descriptor, part.fd)
        else:
            fill_overlay(files, part, snapshot)
        replace_image(part, files.place(target), path=files.path(target), outdated=[checksum_file(files.name)])
    return True


def fill_overlay(
    files: ImageFiles, part: NewImage, snapshot: int, *, options: str | None = None, timeout: float = TIMEOUT
) -> None:
    """Make the empty file ``part`` a qcow2 overlay of the file with the number ``snapshot``. All data of this file is
    visible, and the overlay stores none.

    :arg options: see :func:`creation_options`.
    :raises CommandFailed: qemu-img failed.
    :raises Conflict, FileAccessFailed: the file can't be used.
    """
    data = files.data_of(snapshot)
    size = files.virtual_size(data)
    files.link_to_itself()
    create_overlay(part, f"{files.backing_directory()}/{snapshot}", size, options=options, timeout=timeout)


def create_overlay(
    part: NewImage,
    backing: str | None,
    size: int,
    *,
    format: str = "qcow2",
    options: str | None = None,
    timeout: float = TIMEOUT,
) -> None:
    """Make the empty file ``part`` a qcow2 overlay. The backing file isn't opened.

    :arg backing: name of the backing file for the header. ``None`` for a disk without one.
    :arg size: size of the disk in bytes.
    :arg format: format of the backing file.
    :raises CommandFailed: qemu-img failed.
    """
    from .qemu_img import run_qemu_img

    named = [] if backing is None else ["-u", "-F", format, "-b", backing]
    arguments = ["create", "-q", "-f", "qcow2", *named, *creation_options(options), "--", part.file, str(size)]
    run_qemu_img(*arguments, reads={}, writes={part.fd: "the new overlay"}, data=size, timeout=timeout)


def flatten_snapshot(image: str, format: str, snapshot: int, *, timeout: float = TIMEOUT) -> None:
    """Replace the image by a single file with the data of a snapshot, and remove all snapshots. Arguments and errors
    are those of :func:`delete_snapshot`.

    A crash can leave the new image beside the snapshots, because no rename changes two names. A repeated call removes
    the snapshots. Until then the snapshots stay complete, except on shared storage. There, the backing file of all
    snapshots is the image's own file, which now has other data.
    """
    with opened_files(image) as files:
        if files.snapshots is None and files.is_regular():
            sweep(files.directory)  # an earlier run may have been killed before it removed all files
            return
        file = files.data_of(snapshot)
        with _opened_data(files, format, file) as reads, files.new_image(next(iter(reads))) as part:
            merge(reads, format, part, timeout=timeout)
            outdated, remove = [checksum_file(files.name)], snapshot_directory(files.name)
            replace_image(part, files.place(None), path=image, outdated=outdated, remove=remove)


def foresee_change(action: str, image: str, format: str, snapshot: int) -> None:
    """Refuse a change of snapshots that lacks space.

    :arg action: the driver's name of one of the functions above: ``snap_delete``, ``snap_flatten`` or ``snap_revert``.
    :raises NoSpace: the space isn't enough.
    :raises NotFound, Conflict, FileAccessFailed, CommandFailed: see the function.
    """
    with opened_files(image) as files:
        foresee_in(files, action, format, snapshot)


def foresee_in(files: ImageFiles, action: str, format: str, snapshot: int) -> None:
    """Refuse a change of the snapshots of open files that lacks space. See :func:`foresee_change`."""
    if action == "snap_delete":
        # Each file is copied and replaced before the next one.
        copied = files.children(snapshot) if format == "qcow2" and files.has(snapshot) else []
    elif action == "snap_flatten" and format == "qcow2":
        from .qemu_img import as_one_image

        with files.opened_chain(files.data_of(snapshot)) as reads:
            foresee_conversion(
                as_one_image(tuple(reads)), "qcow2", files.directory, "qcow2", reads=reads, timeout=TIMEOUT
            )
        return
    elif format == "qcow2":
        # A revert of overlays copies no data.
        copied = files.chain(snapshot)[:1] if files.active() is None else []
    else:
        copied = [files.data_of(snapshot)]
    for number in copied:
        with files.opened(number) as descriptor:
            foresee_copy(descriptor, files.directory)


def list_snapshots(image: str) -> list[int]:
    """Return the ids of an image's snapshots, ascending. The current data of the image is no snapshot, also if its file
    has a number.

    :raises Conflict: the files have another layout than those above.
    :raises FileAccessFailed: the files can't be read.
    """
    with opened_files(image) as files:
        return files.list_snapshots()


def chain_files(image: str, format: str, snapshot: int | None = None) -> list[str]:
    """Return the files with the data of the image or of a snapshot: one file, or qcow2 overlays, each before its
    backing file.

    :raises NotFound, Conflict, FileAccessFailed: see :func:`delete_snapshot`.
    :raises InvalidInput: a file isn't a regular one.
    """
    with opened_files(image) as files:
        if format == "qcow2":
            chain = files.chain_from(files.active() if snapshot is None else files.data_of(snapshot))
        else:
            chain = [None if snapshot is None else files.data_of(snapshot)]
        return [files.path(number) for number in chain]


def data_file(image: str) -> str:
    """Return the file that an image's name leads to: the image itself or, for a symbolic link, the file of a snapshot.

    :raises NotFound, Conflict, FileAccessFailed: see :func:`delete_snapshot`.
    """
    with opened_files(image) as files:
        return files.path(files.target())


def remove_image(image: str, *, sweeping: bool = True, batch: Batch | None = None) -> bool:
    """Remove an image with its snapshots and its checksum. Return ``False`` if there is none.

    :arg sweeping: see :func:`remove_files`, also for ``batch``.
    :raises InvalidInput: ``image`` isn't the name of an image.
    :raises PathNotAllowed, NoSpace, FileAccessFailed: see :func:`remove_files`.
    """
    directory, name = os.path.split(image)
    if not is_image_name(name):
        raise InvalidInput("source", image, "the path of an image is expected, which ends in 32 hexadecimal digits")
    names = [name, snapshot_directory(name), checksum_file(name)]
    return remove_files(directory, names, sweeping=sweeping, batch=batch)


def _opened_data(
    files: ImageFiles, format: str, file: int | None
) -> contextlib.AbstractContextManager[Mapping[int, str]]:
    """Open all files with the data of a file. Yield their paths by descriptor."""
    return files.opened_chain(file) if format == "qcow2" else files.opened_alone(file)


def merge(reads: Mapping[int, str], format: str, part: NewImage, *, timeout: float = TIMEOUT) -> None:
    """Fill the empty image ``part`` with the data of one file, or of qcow2 files, each before its backing file.

    :raises CommandFailed, NoSpace, FileAccessFailed: the data can't be copied.
    """
    if len(reads) == 1:
        copy_local(next(iter(reads)), part.fd)
    else:
        from .qemu_img import as_one_image

        convert(as_one_image(tuple(reads)), format, part.fd, format, reads=reads, timeout=timeout)


def _rebase(files: ImageFiles, child: int | None, snapshot: int, timeout: float) -> None:
    """Rebase ``child`` on the backing file of ``snapshot``, and keep its content."""
    from .qemu_img import run_qemu_img

    data = files.data_of(snapshot)
    parent = files.parent(data)
    # The name keeps the directory part of the old name. The base has an absolute name.
    name = files.backing_name(data) or ""
    if parent is not None:
        name = os.path.join(os.path.dirname(files.backing_name(child) or ""), str(parent))
    with files.opened(child) as source, files.opened_chain(data) as reads, files.new_image(source) as part:
        copy_local(source, part.fd)
        # qemu-img looks up backing files relative to the image's name. Only names that lead to the chain are
        # accessible.
        named = descriptor_path(files.directory, part.name)
        run = functools.partial(
            run_qemu_img,
            reads=reads,
            writes={part.fd: files.path(child)},
            directories={files.directory: os.path.dirname(files.image)},
            data=disk_size(source, "qcow2", files.path(child)),
            timeout=timeout,
        )
        # Each write is flushed, because qemu-img ignores errors that occur only when it closes the file.
        run(*"rebase -t writethrough -f qcow2 -F qcow2 -b".split(), name, "--", named)
        run("check", "-q", "-f", "qcow2", "--", named)
        replace_image(part, files.place(child), path=files.path(child))


__all__ = [
    "chain_files",
    "create_overlay",
    "data_file",
    "delete_from",
    "delete_snapshot",
    "fill_overlay",
    "flatten_snapshot",
    "foresee_change",
    "foresee_in",
    "list_snapshots",
    "merge",
    "remove_image",
    "revert_snapshot",
    "revert_to",
]
