# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A disk or an image that arrived from another place, before it gets its name."""

from __future__ import annotations

import os

from ..._core.directory import open_file_at
from ..._core.errors import TransferFailed, os_errors
from ..._core.records import dataclass
from ..._image.backing_names import rename_layers
from ..._image.image_file import disk_size
from ..._image.layout import snapshot_directory
from ..._image.new_image import MODE
from ..._image.resize import grow_opened
from ..._image.snapshots import TIMEOUT
from ..._remote.staging import Staging
from ..._remote.tree import FILE, LINK, Tree


@dataclass(frozen=True)
class Arrival:
    """The way in which the files of a disk or an image get their names.

    :arg name: name of the disk or the image in its directory.
    :arg former: its name at the sender.
    :arg format: ``raw`` or ``qcow2``.
    :arg size: least size of the disk in bytes. 0 keeps its size.
    :arg outdated: further names in the directory that describe the old data.
    """

    name: str
    former: str
    format: str
    size: int = 0
    outdated: tuple[str, ...] = ()

    def accept(self, tree: Tree) -> None:
        """Refuse a tree with other files than those of the disk.

        :raises TransferFailed: there is one.
        """
        names = (self.name, snapshot_directory(self.name))
        for entry in tree:
            if entry.path.split("/")[0] not in names:
                raise TransferFailed(f"The files of {self.name} came with {entry.path!r}, which is none of them.")

    def publish(self, staging: Staging) -> None:
        """Adapt the files, and give them their names. Old files of the disk are removed.

        :raises Conflict: a layer is based on an unknown file.
        :raises CommandFailed: qemu-img failed.
        :raises NoSpace, FileAccessFailed: a file operation failed.
        """
        rename_layers(staging.data, f"{staging.place}/{self.name}", self.former)
        if self.size:
            self._grow(staging)
        for entry in staging.tree:
            if entry.kind == FILE:
                with os_errors(f"write {staging.place}/{entry.path}"):
                    os.chmod(entry.path, MODE, dir_fd=staging.data)
        names = {entry.path for entry in staging.tree}
        staging.publish(outdated=[*self.outdated, *({snapshot_directory(self.name)} - names)])

    def _grow(self, staging: Staging) -> None:
        entry = next(entry for entry in staging.tree if entry.path == self.name)
        name = entry.target if entry.kind == LINK else entry.path
        path = f"{staging.place}/{name}"
        with os_errors(f"write {path}"):
            descriptor = open_file_at(staging.data, name, os.O_RDWR)
        try:
            if disk_size(descriptor, self.format, path) < self.size:
                grow_opened(descriptor, self.format, self.size, path, timeout=TIMEOUT)
        finally:
            os.close(descriptor)


__all__ = ["Arrival"]
