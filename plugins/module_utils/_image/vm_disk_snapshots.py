# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots of a virtual machine's disk while no program uses the disk, and the files of live snapshots (design:
transfers). :mod:`.vm_disk` describes the layouts.

The file that receives the writes has the number of the next snapshot. A snapshot of layers creates the file with the
following number, an overlay, and then lets the disk be a link to this overlay. The link is the commit point: before it
changes, the overlay is empty and unused.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

from .._core.directory import descriptor_path, sync_opened
from .._core.errors import Conflict, InvalidInput, NotFound, os_errors
from .._core.records import replace
from .copy import copy_local, foresee_copy
from .image_files import LONGEST_CHAIN, files_in
from .layout import HIGHEST_NUMBER, snapshot_directory
from .new_image import sweep
from .qemu_img import as_one_image
from .snapshots import delete_from, fill_overlay, foresee_in, revert_to
from .vm_directory import make_directory_at
from .vm_disk import DiskRecord, OpenDisk, opened_disk, unchanged
from .vm_lock import DEADLINE


def create_snapshot(
    record: DiskRecord, snapshot: int, *, whole: bool = False, is_paused: bool = False, deadline: float = DEADLINE
) -> bool:
    """Take a snapshot of a disk. Return ``False`` if the disk has this snapshot.

    A raw disk is copied. A qcow2 disk becomes the backing file of a new overlay, which then receives the writes.

    :arg snapshot: id of the snapshot. For layers, it is the number of the last layer.
    :arg whole: whether to copy a qcow2 file without layers, too, as the driver ``ssh`` does.
    :arg is_paused: whether a paused virtual machine may have a disk open that is copied.
    :arg deadline: seconds to wait for another action on the disk.
    :raises Conflict: a program uses the disk, the next snapshot has another id, or the files have another layout.
    :raises NotFound: there is no such disk.
    :raises NoSpace, CommandFailed, FileAccessFailed: the snapshot can't be written. The disk keeps its data.
    """
    _check_number(snapshot)
    with opened_disk(record, doing="snap_create", deadline=deadline) as disk:
        if snapshot in disk.files.list_snapshots():
            return False
        if not _makes_layers(disk, whole):
            _copy(disk, snapshot, is_paused)
            return True
        disk.require_unused("get a snapshot")
        with _as_layers(disk, snapshot) as layers:
            layers.switch(_prepare(layers, snapshot))
        return True


def prepare_overlay(record: DiskRecord, snapshot: int, *, deadline: float = DEADLINE) -> str:
    """Create the overlay of a snapshot that QEMU will take while the virtual machine runs, and return its path. The
    disk still is a link to the layer before. A repeated call returns the same overlay. Arguments and errors are those
    of :func:`create_snapshot`.

    After QEMU has switched to the overlay, :func:`switch_to` lets the disk be a link to the overlay.

    :raises Conflict: the disk has this snapshot, or is raw.
    """
    _check_number(snapshot)
    with opened_disk(record, doing="snap_create_live", deadline=deadline) as disk:
        if snapshot in disk.files.list_snapshots():
            raise Conflict(f"The disk {disk.path.path} already has the snapshot {snapshot}.")
        _require_layers(disk)
        with _as_layers(disk, snapshot) as layers:
            return layers.files.path(_prepare(layers, snapshot))


def switch_to(record: DiskRecord, path: str, *, deadline: float = DEADLINE) -> bool:
    """Let a disk be a link to the layer that QEMU writes to. Return ``False`` if it is already.

    :arg path: path of the layer: the result of :func:`prepare_overlay`, or a layer that QEMU has merged another one
        into.
    :raises NotFound: there is no such layer or disk.
    :raises Conflict: the path isn't that of a layer, or the layer has another backing file than the layers of the disk.
    """
    with opened_disk(record, doing="switch", deadline=deadline) as disk:
        number = disk.layer_of(path)
        if number == disk.files.active_number():
            return False
        disk.files.chain(number)
        disk.switch(number)
        return True


def delete_snapshot(record: DiskRecord, snapshot: int, *, deadline: float = DEADLINE) -> bool:
    """Remove a snapshot of a disk. Overlays that are based on it are rebased. Return ``False`` without such a snapshot.
    Arguments and errors are those of :func:`create_snapshot`.
    """
    with opened_disk(record, doing="snap_delete", deadline=deadline) as disk:
        if snapshot not in disk.files.list_snapshots():
            sweep(disk.files.directory)
            return False
        disk.require_settled()
        disk.require_unused_by(snapshot)
        with disk.opened_data():  # refuses files that refer to other ones
            pass
        foresee_in(disk.files, "snap_delete", disk.format, snapshot)
        return delete_from(disk.files, disk.format, snapshot)


def revert_snapshot(record: DiskRecord, snapshot: int, *, deadline: float = DEADLINE) -> None:
    """Replace the data of a disk by that of a snapshot. The snapshot stays. The old data stays until the new data is
    complete. Arguments and errors are those of :func:`create_snapshot`.

    :raises NotFound: there is no such snapshot.
    """
    with opened_disk(record, doing="snap_revert", deadline=deadline) as disk:
        if snapshot not in disk.files.list_snapshots():
            raise NotFound(f"The disk {disk.path.path} has no snapshot {snapshot}.")
        disk.require_unused("be reverted")
        disk.require_settled()
        foresee_in(disk.files, "snap_revert", disk.format, snapshot)
        revert_to(disk.files, disk.format, snapshot)


def is_at_snapshot(record: DiskRecord, snapshot: int) -> bool:
    """Return whether a disk has the content of a snapshot. Read both entirely, unless nothing was written since.

    :raises NotFound: there is no such disk or snapshot.
    :raises Conflict, CommandFailed, FileAccessFailed: a file can't be read.
    """
    from .image_chain import OpenChain, has_same_content

    with opened_disk(record) as disk:
        newest = disk.files.active_number() if disk.format == "qcow2" else None
        if newest is not None and disk.files.parent(newest) == snapshot and disk.files.is_empty_overlay(newest):
            return True
        with disk.opened_data() as now, disk.opened_data(snapshot) as then:
            chains = [OpenChain(_name_for_qemu(reads, disk.format), disk.format, reads) for reads in (now, then)]
            return has_same_content(*chains)


def _name_for_qemu(reads: Mapping[int, str], format: str) -> str:
    return as_one_image(tuple(reads)) if format == "qcow2" else descriptor_path(next(iter(reads)))


def _check_number(snapshot: int) -> None:
    """Refuse a number that the following layer can't exceed."""
    if not 0 <= snapshot < HIGHEST_NUMBER:
        raise InvalidInput("snapshot", snapshot, f"an id from 0 to {HIGHEST_NUMBER - 1} is expected")


def _require_layers(disk: OpenDisk) -> None:
    if not _makes_layers(disk, whole=False):
        raise Conflict(f"The disk {disk.path.path} can't have layers, because its snapshots are whole copies.")


def _makes_layers(disk: OpenDisk, whole: bool) -> bool:
    """Return whether a snapshot of the disk is a layer, and not a whole copy."""
    if disk.format != "qcow2" or disk.is_layered:
        return disk.format == "qcow2"
    return not whole and not disk.files.list_snapshots()


@contextlib.contextmanager
def _as_layers(disk: OpenDisk, snapshot: int) -> Iterator[OpenDisk]:
    """Yield the disk with its data in a layer, which the snapshot will consist of.

    A file ``disk.N`` becomes the layer ``disk.N.snap/<snapshot>``. The file gets this second name before the link
    replaces its first one, so that it always has a name.
    """
    if disk.is_layered:
        number = disk.files.active_number()
        if number != snapshot:
            raise Conflict(
                f"The disk {disk.path.path} can't have the snapshot {snapshot} now: its next snapshot is {number}."
            )
        yield disk
        return
    with _with_directory(disk) as opened:
        directory, name = opened.files.place(snapshot)
        with os_errors(f"write {opened.files.path(snapshot)}"):
            with contextlib.suppress(FileExistsError):  # a killed run has made it
                os.link(disk.path.name, name, src_dir_fd=disk.directory, dst_dir_fd=directory, follow_symlinks=False)
            sync_opened(directory)
        if opened.files.data_of(snapshot) is not None:
            raise Conflict(f"{opened.files.path(snapshot)} is not used: it is no layer of the disk {disk.path.path}.")
        opened.switch(snapshot)
        yield opened


@contextlib.contextmanager
def _with_directory(disk: OpenDisk) -> Iterator[OpenDisk]:
    """Yield the disk with a directory for its snapshots."""
    files = disk.files
    with os_errors(f"write {snapshot_directory(files.image)}"):
        make_directory_at(files.directory, snapshot_directory(files.name))
    with files_in(files.directory, files.image, pointer=files.pointer, base=files.base) as opened:
        yield replace(disk, files=opened)


def _prepare(disk: OpenDisk, snapshot: int) -> int:
    """Create the overlay on a layer, durably, and return its number. The overlay of an interrupted action is used
    again.
    """
    number, files = snapshot + 1, disk.files
    with files.opened_chain(files.data_of(snapshot)) as chain:
        if len(chain) >= LONGEST_CHAIN:
            raise Conflict(
                f"The disk {disk.path.path} can't have more snapshots: its data is in {LONGEST_CHAIN} files already."
            )
    if files.has(number) and not _is_replaceable(disk, number, snapshot):
        return number
    with disk.new_file() as part:
        fill_overlay(files, part, snapshot)
        with os_errors(f"write {files.path(number)}"):
            directory, name = files.place(number)
            part.publish_durably(directory, name)
    return number


def _is_replaceable(disk: OpenDisk, number: int, snapshot: int) -> bool:
    """Return whether an existing overlay is useless, because the layer has another size meanwhile.

    :raises Conflict: the overlay has data, but isn't based on the layer.
    """
    files = disk.files
    data = files.data_of(snapshot)
    is_based = files.parent(number) == snapshot
    if is_based and files.virtual_size(number) == files.virtual_size(data):
        return False
    if not files.is_empty_overlay(number):
        raise Conflict(f"{files.path(number)} is not used: it has data, but is no overlay of {files.path(snapshot)}.")
    return True


def _copy(disk: OpenDisk, snapshot: int, is_paused: bool) -> None:
    """Copy the disk's data to the file of a snapshot."""
    with _with_directory(disk) as opened, opened.opened_data() as reads, opened.new_file() as part:
        if len(reads) > 1:
            raise Conflict(f"The disk {disk.path.path} can't be copied as a whole: it is based on another file.")
        source = next(iter(reads))
        with unchanged(reads, is_paused=is_paused):
            foresee_copy(source, part.directory)
            copy_local(source, part.fd)
        with os_errors(f"write {opened.files.path(snapshot)}"):
            directory, name = opened.files.place(snapshot)
            part.publish_durably(directory, name)


__all__ = [
    "create_snapshot",
    "delete_snapshot",
    "is_at_snapshot",
    "prepare_overlay",
    "revert_snapshot",
    "switch_to",
]
