# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Datastores in a directory, and the capacity of the directory's file system."""

from __future__ import annotations

import contextlib
import functools
import os

from ..._core.digits import is_decimal
from ..._core.directory import open_directory_at, opened_directory, opened_parent, sync_opened
from ..._core.errors import CommandFailed, NotFound, StaleState, os_errors
from ..._core.records import TYPE_CHECKING
from ..._model.datastore import NFS_AUTO
from ..info import DriverInfo
from .base import OPTION, Capacity, DatastoreDriver, VmUsage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..._core.command import Completed
    from ..._image.vm_usage import Usage
    from .shared_store import SharedStore

#: A mebibyte in bytes.
MEBIBYTE = 2**20


def in_mebibytes(size: int) -> int:
    """Return ``size`` bytes in MiB, rounded up."""
    return -(-size // MEBIBYTE)


class DirectoryDriver(DatastoreDriver):
    def require_store(self) -> None:
        """Require that the shared file system of the datastore is there. Other datastores need nothing.

        :raises VmstoreError: see :meth:`SharedStore.require`.
        """
        if self.datastore.shared or self.datastore.mounts_automatically:
            self._shared_store.require()

    @functools.cached_property
    def _shared_store(self) -> SharedStore:
        from .shared_store import SharedStore  # few datastores need it

        return SharedStore(
            self.datastore,
            timeout=self.timeout,
            may_mount=self.may_mount,
            prepare=self._make_directory,
            called=OPTION,
        )

    def prepare(self) -> None:
        """Create the datastore's directory if it is missing. The parent directory must exist, because it may be a mount
        point.

        The new directory gets the owner of the parent directory (the service user), also if root creates it.

        :raises PathNotAllowed: a link of another user leads to the directory.
        :raises FileAccessFailed: the directory can't be created.
        :raises StaleState: another program replaced the new directory.
        :raises VmstoreError: see :meth:`require_store`.
        """
        self.require_store()
        self._make_directory()

    def _make_directory(self) -> None:
        path = self.datastore.base_path
        with os_errors(f"make the directory {path}"), contextlib.suppress(FileExistsError):
            with contextlib.suppress(FileNotFoundError), opened_directory(path, option="base_path"):
                return
            with opened_parent(path, option="base_path") as (around, name):
                os.mkdir(name, 0o755, dir_fd=around)
                try:
                    self._hand_over(around, name, path)
                    sync_opened(around)
                except OSError:
                    os.rmdir(name, dir_fd=around)
                    raise

    @staticmethod
    def _hand_over(around: int, name: str, path: str) -> None:
        descriptor = open_directory_at(around, name)
        try:
            if os.listdir(descriptor):  # the owner of the parent directory may have replaced the new one
                raise StaleState(f"Another program replaced the directory {path} while it was made.")
            os.fchmod(descriptor, 0o755)  # regardless of the umask
            if os.geteuid() == 0:
                owner = os.fstat(around)
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        finally:
            os.close(descriptor)

    def monitor(self) -> Capacity:
        """Return the capacity that stat(1) prints. A process of its own can be stopped, while a read from a dead file
        server blocks forever.

        :raises NotFound: there is no such directory.
        :raises CommandFailed: stat(1) failed or took too long.
        :raises VmstoreError: see :meth:`require_store`.
        """
        from ..._core.command import run

        self.require_store()
        path = self.datastore.base_path
        completed = run(
            ["stat", "--file-system", "--format=%S %b %f %a", "--", path], timeout=self.timeout, accept=None
        )
        return read_capacity(path, completed)

    def vm_usage(self) -> tuple[VmUsage, ...]:
        """Return the storage of the disks of VMs. Only system datastores have such directories.

        :raises FileAccessFailed: the datastore's directory can't be read.
        :raises TimedOut: the file system doesn't respond.
        :raises VmstoreError: see :meth:`require_store`.
        """
        from ..._core.deadline import run_with_deadline
        from ..._image.vm_usage import read_usage  # on a bridge, a child process can't import modules

        self.require_store()
        path = self.datastore.base_path
        read = functools.partial(_read_usage, path, read_usage)
        return run_with_deadline(self.timeout, f"Reading the disks in {path}", read)


class SystemDriver(DirectoryDriver):
    """The stand-in for the missing datastore driver of system datastores (spec: storage-driver). On the front-end,
    system datastores are directories like those of ``fs``.
    """

    info = DriverInfo(
        "system",
        datastore_types=frozenset(["system"]),
        image_types=frozenset(),
        tm_drivers=("local", "shared", "ssh"),
        is_directory=True,
        attributes=frozenset(NFS_AUTO),
    )


def _read_usage(path: str, read: Callable[[int, str], Iterable[Usage]]) -> tuple[VmUsage, ...]:
    with os_errors(f"read the directory {path}"), opened_directory(path, option="base_path") as found:
        opened = open_directory_at(found, ".")
        try:
            return tuple(
                VmUsage(vm, tuple(disks), tuple(snapshots), error) for vm, disks, snapshots, error in read(opened, path)
            )
        finally:
            os.close(opened)


def read_capacity(path: str, completed: Completed) -> Capacity:
    """Return the capacity, with the numbers of df(1).

    :arg completed: the result of stat(1), whose output is the block size, the blocks, the free blocks, and the blocks
        free to users.
    :raises NotFound: there is no such directory.
    :raises CommandFailed: stat(1) failed.
    """
    numbers = completed.stdout.split()
    if completed.returncode != 0 or len(numbers) != 4 or not all(map(is_decimal, numbers)):
        from ..._core.command import reason

        why = reason(completed)
        missing = completed.returncode == 1 and why.endswith(": No such file or directory")
        raise (NotFound if missing else CommandFailed)(f"The capacity of {path} could not be read: {why}")
    block, blocks, free, available = map(int, numbers)
    return Capacity(block * (blocks - free) // MEBIBYTE, block * available // MEBIBYTE, block * blocks // MEBIBYTE)


__all__ = [
    "MEBIBYTE",
    "DirectoryDriver",
    "SystemDriver",
    "in_mebibytes",
    "read_capacity",
]
