# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations of transfer drivers on both hosts of a live migration.

libvirt copies the data that a running VM writes. The target gets everything else before: the VM directory with a
placeholder for each file that receives writes. A mark shows that the directory isn't in use yet.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..._core.directory import exists_at, open_directory_at, sync_opened
from ..._core.errors import Conflict, InvalidInput, NotFound, SharedDirectory, TransferFailed, os_errors
from ..._core.files import replace_file
from ..._core.temporary import create_part, is_part_name
from ..._image.image_files import owner_like
from ..._image.new_image import sweep
from ..._image.placeholder import Placeholder, describe_active, is_empty, make_placeholder
from ..._image.vm_directory import DiskPath, opened_system_datastore, opened_vm_directory, parse_disk_path
from ..._image.vm_disk import DiskRecord, opened_disk
from ..._image.vm_lock import locked_disk
from ..._image.vm_removal import remove_directory_at, require_directory_unused, sweep_removed_at
from ..._remote.staging import Staging
from ..._remote.tree import DIRECTORY, Source, Tree
from .monitor_mark import mark_for_monitoring
from .remote import Hosts

#: The file in a VM directory that no VM has used since a migration to its host was prepared.
MARK = ".migrating"


class MigrationActions:
    """The operations of one request.

    :arg peer: the peer of an operation that sends or receives a tree: a :class:`.TreePeer`, or a peer on this host.
    :arg log: is called with each line about the progress.
    :arg hosts: the way to other hosts.
    """

    def __init__(self, peer: Any, log: Callable[[str], object], hosts: Hosts) -> None:
        self._peer = peer
        self._log = log
        self._hosts = hosts

    def has_directory(self, path: str) -> bool:
        """Return whether a VM directory exists."""
        with contextlib.suppress(NotFound), opened_vm_directory(parse_disk_path(path, directory=True)):
            return True
        return False

    # At the source

    def prepare_migration(
        self, path: str, host: str, target: str, disks: Sequence[DiskRecord], monitor: str | None
    ) -> bool:
        """Prepare the directory of a running VM on another host, unless both hosts have the same directory. Return
        whether they have two directories.

        :arg target: the directory on the host ``host``.
        :arg disks: the disks that libvirt copies.
        :raises NotFound: a disk is missing. :raises Conflict: a disk can't be copied.
        """
        if not self.has_directory(path):
            self._log(f"The VM has no directory {path} to migrate.")
            return True
        with held_directory(path, "premigrate") as (parsed, system, token):
            placeholders = [_describe(disk) for disk in disks]
            vm = str(parse_disk_path(target, directory=True).vm)
            left_out = [f"{vm}/{placeholder.file}" for placeholder in placeholders]
            source = Source(system, parsed.datastore, {str(parsed.vm): vm}, left_out=left_out)
            arguments = (target, token, placeholders, monitor)
            try:
                self._hosts.push(host, "receive_migration", *arguments, source=source, log=self._log)
            except SharedDirectory:
                self._log(f"{path} is the same directory on {host}, so nothing is copied.")
                return False
        return True

    def require_shared(self, path: str, host: str) -> None:
        """Require that another host has the same directory of a running VM.

        :raises Conflict: the host has another directory, or none.
        """
        if not self.has_directory(path):
            self._log(f"The VM has no directory {path} to migrate.")
            return
        with held_directory(path, "premigrate") as (_parsed, _system, token):
            if not self._hosts.run(host, "has_token", path, token, log=self._log):
                raise Conflict(
                    f"{path} is not the same directory on the host {host}, so the VM can't migrate to {host}: mount "
                    "the datastore there."
                )

    def finish_migration(self, path: str, host: str | None, target: str, disks: Sequence[DiskRecord]) -> None:
        """Remove the directory of a VM that has migrated, unless both hosts have the same directory.

        :arg host: the host of the directory ``target``. ``None`` is this host.
        :arg disks: the disks below ``target``.
        :raises Conflict: a program here uses a disk, or a disk at the target has no data.
        :raises NotFound: a disk at the target is missing.
        """
        if not self.has_directory(path):
            self._log(f"The VM has no directory {path} any more.")
            parsed = parse_disk_path(path, directory=True)
            with contextlib.suppress(NotFound), opened_system_datastore(parsed) as system:
                sweep_removed_at(system, parsed)  # a killed run may have left it
            self._accept(host, target, "", [])
            return
        with held_directory(path, "postmigrate", is_unused=True) as (parsed, system, token):
            try:
                empty = self._accept(host, target, token, disks)
            except SharedDirectory:
                self._log(f"{path} is the same directory on {host}, so it stays.")
                return
            for disk in disks:
                if disk.path in empty:
                    self._require_no_data(path, disk, target)
            remove_directory_at(system, parsed)

    def _accept(self, host: str | None, path: str, token: str, disks: Sequence[DiskRecord]) -> Sequence[str]:
        found: Sequence[str]
        if host is None:
            found = self.accept_migration(path, token, disks)
        else:
            found = self._hosts.run(host, "accept_migration", path, token, disks, log=self._log)
        return found

    @staticmethod
    def _require_no_data(path: str, disk: DiskRecord, target: str) -> None:
        own = DiskRecord(f"{path}/{os.path.basename(disk.path)}", disk.format, disk.image)
        with contextlib.suppress(NotFound), opened_disk(own) as opened:
            if not is_empty(opened):
                raise Conflict(f"{own.path} is kept, because its copy in {target} has no data.")

    # At the target

    def receive_migration(
        self, path: str, token: str, placeholders: Sequence[Placeholder], monitor: str | None
    ) -> None:
        """Receive the directory of a VM that will migrate to this host. An existing one is replaced.

        :arg token: see :meth:`require_other_directory`.
        :raises SharedDirectory: this host has the directory of the source.
        :raises Conflict: a program uses a file in the existing directory.
        """
        self.require_other_directory(path, token)

        def complete(staging: Staging, parsed: DiskPath) -> None:
            owner = owner_like(staging.directory)
            with os_errors(f"write {path}"):
                directory = open_directory_at(staging.data, str(parsed.vm))
            try:
                for placeholder in placeholders:
                    make_placeholder(directory, parsed, placeholder, owner)
                with os_errors(f"write {path}"):
                    replace_file(directory, MARK, b"", 0o600, owner)
                    sync_opened(directory)
            finally:
                os.close(directory)

        self._receive_directory(path, monitor, complete)

    def _receive_directory(
        self, path: str, monitor: str | None, complete: Callable[[Staging, DiskPath], object] | None = None
    ) -> None:
        """Receive a VM directory. An existing one is replaced.

        :arg complete: adds files to the received directory before it gets its name.
        """
        parsed = parse_disk_path(path, directory=True)

        def accept(tree: Tree) -> None:
            for entry in tree:
                # A lying host must not replace the directory of another VM.
                if entry.path.split("/")[0] != str(parsed.vm) or tree[0].kind != DIRECTORY:
                    raise TransferFailed(f"The files of {path} came with {entry.path!r}, which is none of them.")

        def commit(staging: Staging) -> None:
            if complete is not None:
                complete(staging, parsed)
            _publish_directory(staging, parsed)

        with opened_system_datastore(parsed, create=True) as system:
            self._peer.receive(system, parsed.datastore, commit, owner=owner_like(system), accept=accept)
        mark_for_monitoring(parsed, monitor)

    def require_other_directory(self, path: str, token: str) -> None:
        """Require that a VM directory isn't that of the other host.

        :arg token: name of a file in the directory of the other host. An empty text if that directory is missing.
        :raises SharedDirectory: both hosts have the same directory.
        """
        if token and self.has_token(path, token):
            raise SharedDirectory(f"{path} is the same directory on both hosts.")

    def has_token(self, path: str, token: str) -> bool:
        """Return whether a VM directory has the file by which another host recognizes its own directory.

        :raises InvalidInput: ``token`` is no name of such a file.
        """
        if not is_part_name(token):
            raise InvalidInput("token", token, "the name of a temporary file is expected")
        with contextlib.suppress(NotFound), opened_vm_directory(parse_disk_path(path, directory=True)) as directory:
            return exists_at(directory, token)
        return False

    def accept_migration(self, path: str, token: str, disks: Sequence[DiskRecord]) -> tuple[str, ...]:
        """Keep a directory that was prepared for a migration. Return the paths of the disks without data of their own.

        :arg token: see :meth:`require_other_directory`.
        :raises SharedDirectory: this host has the directory of the source.
        :raises NotFound: a disk is missing.
        """
        self.require_other_directory(path, token)
        empty = []
        parsed = parse_disk_path(path, directory=True)
        if not (disks or self.has_directory(path)):
            return ()
        with locked_disk(parsed, doing="postmigrate") as directory:
            for disk in disks:
                with opened_disk(disk) as opened:
                    if is_empty(opened):
                        empty.append(disk.path)
            with os_errors(f"write {path}"), contextlib.suppress(FileNotFoundError):
                os.unlink(MARK, dir_fd=directory)
                sync_opened(directory)
        return tuple(empty)

    def abandon_migration(self, path: str) -> None:
        """Remove a directory that was prepared for a migration. A directory that a VM has used stays.

        :raises Conflict: a program uses a file in the directory.
        """
        parsed = parse_disk_path(path, directory=True)
        with contextlib.suppress(NotFound), opened_system_datastore(parsed) as system:
            sweep_removed_at(system, parsed)
            with locked_disk(parsed, doing="failmigrate") as directory:
                if exists_at(directory, MARK):
                    require_directory_unused(directory, parsed)
                    remove_directory_at(system, parsed)


def _describe(record: DiskRecord) -> Placeholder:
    with opened_disk(record) as disk:
        return describe_active(disk)


@contextlib.contextmanager
def new_token(path: str) -> Iterator[str]:
    """Create a temporary file in a VM directory during a block. Yield its name; an empty text without a directory."""
    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(opened_vm_directory(parse_disk_path(path, directory=True)))
        except NotFound:
            yield ""
        else:
            yield stack.enter_context(_token_in(directory, path))


@contextlib.contextmanager
def _token_in(directory: int, path: str) -> Iterator[str]:
    sweep(directory)
    with os_errors(f"write in {path}"):
        descriptor, token = create_part(directory)
    try:
        yield token
    finally:
        with contextlib.suppress(OSError):
            os.unlink(token, dir_fd=directory)
        with contextlib.suppress(OSError):
            os.close(descriptor)


@contextlib.contextmanager
def held_directory(path: str, doing: str, *, is_unused: bool = False) -> Iterator[tuple[DiskPath, int, str]]:
    """Hold the locks of all disks in a VM directory. Yield its path, a descriptor of the directory of the system
    datastore, and the name of a temporary file in the VM directory.

    :arg is_unused: whether a program that uses a file of the directory is an error.
    """
    parsed = parse_disk_path(path, directory=True)
    with opened_system_datastore(parsed) as system:
        sweep_removed_at(system, parsed)
        with locked_disk(parsed, doing=doing) as directory:
            if is_unused:
                require_directory_unused(directory, parsed)
            with _token_in(directory, path) as token:
                yield parsed, system, token


def _publish_directory(staging: Staging, path: DiskPath) -> None:
    """Give a VM directory its name. A directory of this name must not be in use."""
    try:
        with locked_disk(path, doing="mv") as directory:
            require_directory_unused(directory, path)
            staging.publish()
    except NotFound:
        staging.publish()


__all__ = ["MigrationActions", "held_directory", "new_token"]
