# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Datastores that are a directory: how full its file system is."""

from __future__ import annotations

import contextlib
import os

from ..._core.digits import is_decimal
from ..._core.directory import open_directory_at, opened_directory, opened_parent, sync_opened
from ..._core.errors import CommandFailed, NotFound, StaleState, os_errors
from ..._core.records import TYPE_CHECKING
from .base import Capacity, DatastoreDriver, DriverInfo

if TYPE_CHECKING:
    from ..._core.command import Completed

MEBIBYTE = 2**20


class DirectoryDriver(DatastoreDriver):
    def prepare(self) -> None:
        """Make the directory where it is missing; the one it lies in has to exist, since it may be a mount point.

        It belongs to the service user even if root makes it: to whom the one it lies in belongs.

        :raises PathNotAllowed: a link of another user leads to it; :raises FileAccessFailed: it can't be made.
        :raises StaleState: somebody put another directory in its place.
        """
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
            if os.listdir(descriptor):  # whoever owns the one around it can have put another directory there
                raise StaleState(f"Another program replaced the directory {path} while it was made.")
            os.fchmod(descriptor, 0o755)  # whatever the umask is
            if os.geteuid() == 0:
                owner = os.fstat(around)
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        finally:
            os.close(descriptor)

    def monitor(self) -> Capacity:
        """Ask another process, because a dead file server keeps the one that asks for ever.

        :raises NotFound: there is no such directory.
        :raises CommandFailed: no answer in time.
        """
        from ..._core.command import run

        path = self.datastore.base_path
        completed = run(
            ["stat", "--file-system", "--format=%S %b %f %a", "--", path], timeout=self.timeout, accept=None
        )
        return read_capacity(path, completed)


class SystemDriver(DirectoryDriver):
    """System datastores have no datastore driver (spec: storage-driver); on the front-end they are directories like
    those of ``fs``.
    """

    info = DriverInfo(
        "system", datastore_types=frozenset(["system"]), image_types=frozenset(), tm_drivers=("local", "shared", "ssh")
    )


def read_capacity(path: str, completed: Completed) -> Capacity:
    """The capacity in the output of stat(1): block size, blocks, free blocks, blocks free to users; as df(1) counts."""
    numbers = completed.stdout.split()
    if completed.returncode != 0 or len(numbers) != 4 or not all(map(is_decimal, numbers)):
        from ..._core.command import reason

        why = reason(completed)
        missing = completed.returncode == 1 and why.endswith(": No such file or directory")
        raise (NotFound if missing else CommandFailed)(f"The capacity of {path} could not be read: {why}")
    block, blocks, free, available = map(int, numbers)
    return Capacity(block * (blocks - free) // MEBIBYTE, block * available // MEBIBYTE, block * blocks // MEBIBYTE)


__all__ = ["MEBIBYTE", "DirectoryDriver", "SystemDriver", "read_capacity"]
