# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots and copies of the disks of running domains, on the host of the domain."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ..._core.errors import NotFound
from ..._core.records import dataclass
from ..._image.copy import convert
from ..._image.new_image import NewImage
from ..._image.qemu_img import as_one_image, run_qemu_img
from ..._image.vm_disk import DiskRecord, OpenDisk, opened_disk
from ..._image.vm_disk_snapshots import create_snapshot, delete_snapshot, prepare_overlay, switch_to
from ..._libvirt import disk_copy, disk_snapshots
from ..._libvirt.connection import DEFAULT_URI, Domain, Hypervisor
from ..._libvirt.disk_snapshots import DiskFile
from ..._libvirt.quiesce import quiesced
from ..._libvirt.running_disk import RunningDisk, find_running_disk

#: Upper bound of the time in which a guest doesn't write while its raw disk is copied, in seconds.
QUIET = 3600.0

#: Upper bound of the time of a job of libvirt that copies data, in seconds.
JOB = 86400.0


@dataclass(frozen=True)
class RunningVm:
    """The domain of a VM.

    :arg domain: its name or UUID.
    :arg quiesce: the way in which the guest stops writing, see :func:`.quiesced`.
    """

    domain: str
    quiesce: str = "auto"

    def open(self) -> Domain:
        """Return the domain.

        :raises NotFound: there is no such domain; :raises LibvirtFailed: libvirt can't be reached.
        """
        return Hypervisor(DEFAULT_URI).domain(self.domain)


def take_snapshot(record: DiskRecord, snapshot: int, whole: bool, vm: RunningVm) -> None:
    """Take a snapshot of a disk while the domain runs. A domain that is off is accepted.

    Layers get an overlay, which QEMU then writes to. Any other disk is copied while the guest doesn't write.

    :raises VmstoreError: see :func:`.create_snapshot` and :func:`.prepare_overlay`.
    """
    domain = vm.open()
    running = _find(domain, record)
    if running is None:
        create_snapshot(record, snapshot, whole=whole)
        return
    with opened_disk(record) as disk:
        is_layered = disk.is_layered
        if snapshot in disk.files.list_snapshots():
            return
    overlay = prepare_overlay(record, snapshot) if is_layered else None
    with quiesced(domain, method=vm.quiesce, deadline=QUIET):
        if overlay is None:
            create_snapshot(record, snapshot, whole=True, is_paused=True)
        else:
            disk_snapshots.create_snapshot(running, overlay, lambda: switch_to(record, overlay))


def remove_snapshot(record: DiskRecord, snapshot: int, vm: RunningVm) -> None:
    """Remove a snapshot of a disk, perhaps while the domain runs.

    QEMU first copies the data of the snapshot, and of all overlays before it, into the newest file. So QEMU no longer
    has the snapshot open. A snapshot that isn't one of the open files may have been merged before this process was
    killed, so the merge ends once more.

    :raises VmstoreError: see :func:`.delete_snapshot` and :func:`.merge_files`.
    """
    running = _find(vm.open(), record)
    if running is not None:
        with opened_disk(record) as disk:
            numbers, files = _chain(disk)
        if files:
            base = numbers.index(snapshot) + 1 if snapshot in numbers else 1
            disk_snapshots.merge_files(running, files, base, deadline=JOB)
    delete_snapshot(record, snapshot)


def _chain(disk: OpenDisk) -> tuple[list[int | None], list[DiskFile]]:
    """Return the files with the data of a layered disk, each before its backing file: their numbers, and their names
    for libvirt. The base comes last, without a number.
    """
    if not disk.is_layered:
        return [], []
    files = disk.files
    numbers = files.chain_from(files.active())
    with disk.opened_data() as reads:
        paths = list(reads.values())
    names = [files.backing_name(number) for number in numbers]
    names += [None] * (len(paths) - len(names))
    return numbers, [DiskFile(path, name) for path, name in zip(paths, names)]


@contextlib.contextmanager
def copy_of_running(disk: OpenDisk, vm: RunningVm) -> Iterator[NewImage | None]:
    """Yield a temporary image with the present data of a disk whose domain runs. Yield ``None`` if it doesn't.

    :raises VmstoreError: see :func:`.disk_copy.copy_disk`.
    """
    running = _find(vm.open(), DiskRecord(disk.path.path, disk.format))
    if running is None:
        yield None
        return
    with disk.new_file() as copied, contextlib.ExitStack() as stack:
        # libvirt allocates every block of a raw file.
        arguments = ["create", "-q", "-f", "qcow2", "--", copied.file, str(running.capacity())]
        run_qemu_img(*arguments, reads={}, writes={copied.fd: "a copy"}, data=0, timeout=JOB)
        path = os.path.join(copied.place, copied.name)
        disk_copy.copy_disk(running, path, "qcow2", deadline=JOB, quiesce=vm.quiesce)
        if disk.format == "qcow2":
            yield copied
        else:
            part = stack.enter_context(disk.new_file())
            reads = {copied.fd: path}
            convert(as_one_image([copied.fd]), "qcow2", part.fd, disk.format, reads=reads, timeout=JOB)
            yield part


def _find(domain: Domain, record: DiskRecord) -> RunningDisk | None:
    """Return the disk of the domain, or ``None`` if the domain is off or lacks the disk."""
    try:
        return find_running_disk(domain, record.path)
    except NotFound:
        return None


__all__ = ["RunningVm", "copy_of_running", "remove_snapshot", "take_snapshot"]
