# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations of transfer drivers on the host that has the disk."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from typing import Any

from ..._core.directory import exists_at, opened_directory, sync_opened
from ..._core.errors import Conflict, NotFound, SharedDirectory, os_errors
from ..._core.files import replace_file
from ..._image.image_files import owner_like
from ..._image.layout import snapshot_directory
from ..._image.new_image import NewImage
from ..._image.snapshots import merge
from ..._image.vm_directory import DiskPath, opened_system_datastore, parse_disk_path
from ..._image.vm_disk import DiskRecord, OpenDisk, check_image, opened_disk, unchanged
from ..._image.vm_disk_data import grow_disk, shrink_disk
from ..._image.vm_disk_new import clone_image, foresee_merge, link_image, make_disk
from ..._image.vm_disk_snapshots import create_snapshot, delete_snapshot, is_at_snapshot, revert_snapshot
from ..._image.vm_lock import locked_disk
from ..._image.vm_removal import (
    remove,
    remove_directory_at,
    remove_disk_at,
    require_unused_at,
    sweep_removed_at,
)
from ..._remote.tree import Source
from .arrival import Arrival
from .disk_source import FilesSource, disk_source
from .live_disks import RunningVm, copy_of_running, remove_snapshot, take_snapshot
from .local_peer import LocalReceiver, LocalSender, Target
from .migration_actions import MigrationActions, held_directory
from .monitor_mark import mark_for_monitoring
from .operations import Placement


class HostActions(MigrationActions):
    """The operations of one request."""

    # Disks from another place, and back

    def place(self, placement: Placement) -> None:
        """Receive the files of a new disk. An existing disk of its name is replaced."""
        path = parse_disk_path(placement.path)
        arrival = Arrival(path.name, placement.former, placement.format, placement.size, (_moved_mark(path),))
        with locked_disk(path, doing="clone", create=True) as directory:
            if not placement.may_be_used:
                for name in (path.name, snapshot_directory(path.name)):
                    require_unused_at(directory, name, f"{path.directory}/{name}")
            self._peer.receive(
                directory, path.directory, arrival.publish, owner=owner_like(directory), accept=arrival.accept
            )
        mark_for_monitoring(path, placement.monitor)

    def give_back(self, record: DiskRecord, name: str) -> None:
        """Send the files of a disk under the name of its image, and then remove the disk. A mark for :meth:`has_moved`
        stays.
        """
        path = parse_disk_path(record.path)
        with opened_disk(record, doing="mvds") as disk:
            disk.require_unused("go back to its image")
            disk.require_settled()
            self._peer.send(disk_source(disk.files, record.format, name, layered=False))
            with os_errors(f"write in {path.directory}"):
                replace_file(disk.directory, _moved_mark(path), b"", 0o600, owner_like(disk.directory))
            remove_disk_at(disk.directory, path)

    def has_moved(self, path: str) -> bool:
        """Return whether a disk has gone back to its image, so that a repeated action recognises its own work. Files
        of the disk that a killed action has left are removed.
        """
        parsed = parse_disk_path(path)
        with contextlib.suppress(NotFound), locked_disk(parsed, doing="mvds") as directory:
            if exists_at(directory, _moved_mark(parsed)) and not exists_at(directory, parsed.name):
                remove_disk_at(directory, parsed)
                return True
        return False

    def save(self, record: DiskRecord, snapshot: int | None, vm: RunningVm | None, name: str) -> None:
        """Send the data of a disk or of a snapshot as one file under the name of a new image.

        :arg vm: the domain of the disk, if it may run.
        """
        with opened_disk(record, doing="cpds") as disk, contextlib.ExitStack() as stack:
            part = None
            if snapshot is None and vm is not None and disk.is_used():
                part = stack.enter_context(copy_of_running(disk, vm))
            if part is None:
                part = self._copy_unused(disk, snapshot, name, stack)
            if part is not None:
                self._peer.send(Source(part.directory, part.place, {part.name: name}))

    def _copy_unused(
        self, disk: OpenDisk, snapshot: int | None, name: str, stack: contextlib.ExitStack
    ) -> NewImage | None:
        """Return a temporary image with the data of a snapshot, or of a disk that no program uses. A single file is
        sent itself, and the result is ``None``.
        """
        if snapshot is None:
            disk.require_settled()
        with disk.opened_data(snapshot) as reads, unchanged(reads):
            if len(reads) == 1:
                number = disk.files.active() if snapshot is None else disk.files.data_of(snapshot)
                self._peer.send(FilesSource(disk.files, {name: number}, {}))
                return None
            part = stack.enter_context(disk.new_file())
            foresee_merge(reads, disk.format, part.directory)
            merge(reads, disk.format, part)
            return part

    # Directories of VMs

    def receive_directory(self, path: str, monitor: str | None, token: str = "") -> None:
        """Receive a VM directory. An existing one is replaced.

        :arg token: see :meth:`require_other_directory`.
        """
        self.require_other_directory(path, token)
        self._receive_directory(path, monitor)

    def send_directory(self, path: str, name: str, token: str) -> None:
        """Send a VM directory, and then remove it.

        :arg name: the name of the directory at the receiver.
        :arg token: see :meth:`require_other_directory`.
        """
        self.require_other_directory(path, token)
        with held_directory(path, "mv", is_unused=True) as (parsed, system, _token):
            self._peer.send(Source(system, parsed.datastore, {str(parsed.vm): name}))
            remove_directory_at(system, parsed)

    def push_directory(self, path: str, host: str, target: str, monitor: str | None) -> None:
        """Send a VM directory to another host, and then remove it here, unless both hosts have the same directory."""
        with held_directory(path, "mv", is_unused=True) as (parsed, system, token):
            vm = parse_disk_path(target, directory=True).vm
            source = Source(system, parsed.datastore, {str(parsed.vm): str(vm)})
            try:
                self._hosts.push(host, "receive_directory", target, monitor, token, source=source, log=self._log)
            except SharedDirectory:
                self._log(f"{path} is the directory {target} on {host}, so it stays.")
                return
            remove_directory_at(system, parsed)

    def move_directory(self, path: str, target: str, monitor: str | None) -> None:
        """Move a VM directory to another system datastore of this host, unless an earlier run has moved it."""
        parsed = parse_disk_path(target, directory=True)
        if self.has_directory(path) or not self.has_directory(target):
            with held_directory(path, "mv", is_unused=True) as (origin, system, _token):
                if not _rename_directory(origin, system, parsed):
                    names = {str(origin.vm): str(parsed.vm)}
                    # A link to an image stays as it is, as with rename(2).
                    source = Source(system, origin.datastore, names, may_lead_out=True)
                    HostActions(LocalSender(source), self._log, self._hosts).receive_directory(target, None)
                    remove_directory_at(system, origin)
        else:
            origin = parse_disk_path(path, directory=True)
            with contextlib.suppress(NotFound), opened_system_datastore(origin) as system:
                sweep_removed_at(system, origin)  # a killed run may have left it
        mark_for_monitoring(parsed, monitor)

    # Disks on shared storage

    def clone(self, record: DiskRecord, linked: bool, size: int, qcow2_options: str) -> None:
        """Create a disk from an image of this host."""
        is_layered = record.format == "qcow2"
        clone_image(
            record,
            linked=linked and is_layered,
            layered=is_layered,
            size=size or None,
            qcow2_options=qcow2_options or None,
        )

    def link(self, record: DiskRecord) -> None:
        link_image(record)

    def unlink(self, record: DiskRecord) -> None:
        """Remove the link to an image. A disk that isn't a link stays."""
        with contextlib.suppress(NotFound):
            with opened_disk(record, doing="mvds") as disk:
                if disk.files.pointer is None:
                    raise Conflict(f"{record.path} is no link to {record.image}, so its data would be lost.")
                disk.require_unused("go back to its image")
                remove_disk_at(disk.directory, disk.path)

    def save_here(self, record: DiskRecord, snapshot: int | None, vm: RunningVm | None, image: str) -> None:
        """Create an image of this host with the data of a disk or of a snapshot."""
        directory, name = os.path.split(check_image(image))
        arrival = Arrival(name, name, record.format)
        with os_errors(f"write {image}"), opened_directory(directory) as opened:
            target = Target(opened, directory, arrival.publish, owner_like(opened), arrival.accept)
            HostActions(LocalReceiver(target), self._log, self._hosts).save(record, snapshot, vm, name)

    # Disks in their place

    def make(self, path: str, options: Mapping[str, Any]) -> None:
        """Create an empty disk.

        :arg options: the options of :func:`make_disk`.
        """
        make_disk(path, **options)

    def snap_create(self, record: DiskRecord, snapshot: int, whole: bool) -> None:
        create_snapshot(record, snapshot, whole=whole)

    def snap_create_live(self, record: DiskRecord, snapshot: int, whole: bool, vm: RunningVm) -> None:
        take_snapshot(record, snapshot, whole, vm)

    def snap_delete(self, record: DiskRecord, snapshot: int, vm: RunningVm | None) -> None:
        """Remove a snapshot.

        :arg vm: the domain of the disk, if it may run.
        """
        if vm is None:
            delete_snapshot(record, snapshot)
        else:
            remove_snapshot(record, snapshot, vm)

    def snap_revert(self, record: DiskRecord, snapshot: int) -> None:
        revert_snapshot(record, snapshot)

    def is_at_snapshot(self, record: DiskRecord, snapshot: int) -> bool:
        return is_at_snapshot(record, snapshot)

    def grow(self, record: DiskRecord, size: int) -> None:
        grow_disk(record, size)

    def shrink(self, record: DiskRecord, size: int) -> None:
        """Cut the end of a disk, which must hold no data."""
        shrink_disk(record, size)

    def remove(self, path: str) -> None:
        remove(path)


def _moved_mark(path: DiskPath) -> str:
    return f".{path.name}.moved"


def _rename_directory(origin: DiskPath, system: int, target: DiskPath) -> bool:
    """Rename a VM directory, durably. Return ``False`` if the target exists, or is on another file system."""
    with opened_system_datastore(target, create=True) as around:
        if exists_at(around, str(target.vm)):
            return False
        with os_errors(f"move {origin.directory} to {target.directory}"):
            try:
                os.rename(str(origin.vm), str(target.vm), src_dir_fd=system, dst_dir_fd=around)
            except OSError as error:
                if error.errno == errno.EXDEV:
                    return False
                raise
            sync_opened(around)
            sync_opened(system)
    return True


__all__ = ["HostActions"]
