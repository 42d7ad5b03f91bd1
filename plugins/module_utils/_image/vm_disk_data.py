# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look at a disk of a virtual machine, copy its data to an image, and change its size."""

from __future__ import annotations

import os

from .._core.errors import Conflict, os_errors
from .._core.records import TYPE_CHECKING, dataclass
from .image_file import disk_size
from .resize import cut_opened, grow_opened
from .snapshots import TIMEOUT, merge
from .vm_disk import DiskRecord, opened_disk, unchanged
from .vm_disk_new import foresee_merge
from .vm_lock import DEADLINE

if TYPE_CHECKING:
    from .new_image import NewImage


@dataclass(frozen=True)
class DiskFacts:
    """A disk as it is on the host.

    :arg path: path of the disk.
    :arg size: size that the guest sees, in bytes.
    :arg allocated: storage in bytes of the file that receives the writes.
    :arg chain: paths of the files with the data, each before its backing file.
    :arg snapshots: ids of the snapshots, ascending.
    :arg snapshot_sizes: storage in bytes of the file of each snapshot, in the same order.
    :arg next_snapshot: the id that the next snapshot must have, or ``None`` if any is possible.
    :arg is_link: whether the disk is a link to an image of shared storage.
    :arg is_used: whether a program such as QEMU has the disk open.
    """

    path: str
    format: str
    size: int
    allocated: int
    chain: tuple[str, ...]
    snapshots: tuple[int, ...]
    snapshot_sizes: tuple[int, ...]
    next_snapshot: int | None
    is_link: bool
    is_used: bool


def describe_disk(record: DiskRecord) -> DiskFacts:
    """Return the facts about a disk. No lock is taken, because nothing may be written.

    :raises NotFound: there is no such disk.
    :raises Conflict: the files have another layout, or refer to other files than those of the disk and its image.
    :raises InvalidInput, PathNotAllowed, FileAccessFailed: see :func:`opened_disk`.
    """
    with opened_disk(record) as disk, disk.opened_data() as reads:
        first = next(iter(reads))
        with os_errors(f"read {disk.path.path}"):
            allocated = os.fstat(first).st_blocks * 512
        snapshots = disk.files.list_snapshots()
        return DiskFacts(
            path=disk.path.path,
            format=disk.format,
            size=disk_size(first, disk.format, reads[first]),
            allocated=allocated,
            chain=tuple(reads.values()),
            snapshots=tuple(snapshots),
            snapshot_sizes=tuple(map(disk.files.allocated, snapshots)),
            next_snapshot=disk.files.active_number() if disk.format == "qcow2" else None,
            is_link=disk.files.pointer is not None,
            is_used=disk.is_used(),
        )


def copy_disk(
    record: DiskRecord,
    part: NewImage,
    *,
    snapshot: int | None = None,
    is_paused: bool = False,
    deadline: float = DEADLINE,
) -> None:
    """Fill the empty image ``part`` with the data of a disk or of a snapshot. The copy has no backing file.

    :arg is_paused: whether a paused virtual machine may have the disk open.
    :raises NotFound: there is no such disk or snapshot.
    :raises Conflict: a program writes to the disk, or the files have another layout.
    :raises NoSpace, CommandFailed, FileAccessFailed: the data can't be copied.
    """
    with opened_disk(record, doing="cpds", deadline=deadline) as disk, disk.opened_data(snapshot) as reads:
        if snapshot is None:
            disk.require_settled()
        with unchanged(reads, is_paused=is_paused):
            foresee_merge(reads, disk.format, part.directory)
            merge(reads, disk.format, part)


def grow_disk(record: DiskRecord, size: int, *, sparse: bool = True, deadline: float = DEADLINE) -> bool:
    """Grow a disk to ``size`` bytes. Snapshots keep their size. Return ``False`` if the disk isn't smaller.

    :arg sparse: ``False`` allocates storage for the new part.
    :raises Conflict: a program uses the disk.
    :raises NoSpace, CommandFailed, FileAccessFailed: see :func:`grow_opened`.
    """
    with opened_disk(record, doing="resize", deadline=deadline) as disk:
        disk.require_settled()
        with disk.opened_for_writing("grow") as (descriptor, path):
            if size <= disk_size(descriptor, disk.format, path):
                return False
            disk.remove_checksum()
            grow_opened(descriptor, disk.format, size, path, sparse=sparse, timeout=TIMEOUT)
            return True


def shrink_disk(record: DiskRecord, size: int, *, deadline: float = DEADLINE) -> bool:
    """Cut the end of a disk that holds no data. Return ``False`` if the disk isn't larger than ``size`` bytes.

    :raises Conflict: a program uses the disk, the end holds data, or the disk has snapshots or is based on an image.
    :raises CommandFailed, FileAccessFailed: the disk can't be read or cut.
    """
    with opened_disk(record, doing="resize", deadline=deadline) as disk:
        with disk.opened_data() as reads:
            if disk.files.list_snapshots() or len(reads) > 1:
                raise Conflict(f"{disk.path.path} can't shrink while it has snapshots or is based on an image.")
        with disk.opened_for_writing("shrink") as (descriptor, path):
            if size >= disk_size(descriptor, disk.format, path):
                return False
            disk.remove_checksum()
            cut_opened(descriptor, disk.format, size, path, timeout=TIMEOUT)
            return True


__all__ = ["DiskFacts", "copy_disk", "describe_disk", "grow_disk", "shrink_disk"]
