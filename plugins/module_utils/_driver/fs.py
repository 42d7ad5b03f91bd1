# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Image files in a directory (spec: storage-driver). So far it says how full their file system is."""

from __future__ import annotations

import re

from .._core.command import Completed, reason, run
from .._core.errors import CommandFailed
from .base import Capacity, DatastoreDriver, DriverInfo

MEBIBYTE = 2**20


class FsDriver(DatastoreDriver):
    info = DriverInfo(
        "fs",
        datastore_types=frozenset(["image", "file"]),
        image_types=frozenset(),
        tm_drivers=("local", "shared", "ssh"),
        attributes=frozenset(["convert", "driver", "limit_transfer_bw", "no_decompress", "sparse", "staging_dir"]),
    )

    def monitor(self) -> Capacity:
        """Ask another process, because a dead file server keeps the one that asks for ever.

        :raises CommandFailed: there is no such directory, or no answer in time.
        """
        path = self.datastore.base_path
        completed = run(["stat", "--file-system", "--format=%S %b %f %a", "--", path], timeout=self.timeout, accept=None)
        return read_capacity(path, completed)


class SystemDriver(FsDriver):
    """System datastores have no datastore driver (spec: storage-driver); on the front-end they are directories like those of ``fs``."""

    info = DriverInfo("system", datastore_types=frozenset(["system"]), image_types=frozenset(), tm_drivers=("local", "shared", "ssh"))


def read_capacity(path: str, completed: Completed) -> Capacity:
    """The capacity in the output of stat(1): block size, blocks, free blocks, blocks free to users; as df(1) counts."""
    match = re.fullmatch(r"([0-9]+) ([0-9]+) ([0-9]+) ([0-9]+)\n", completed.stdout)
    if completed.returncode != 0 or match is None:
        raise CommandFailed(f"The capacity of {path} could not be read: {reason(completed)}")
    block, blocks, free, available = map(int, match.groups())
    return Capacity(block * (blocks - free) // MEBIBYTE, block * available // MEBIBYTE, block * blocks // MEBIBYTE)


__all__ = ["FsDriver", "SystemDriver", "read_capacity"]
