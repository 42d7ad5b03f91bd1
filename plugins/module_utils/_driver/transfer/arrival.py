# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A disk or an image that arrived from another place, before it gets its name."""

from __future__ import annotations

import os

from ..._core.directory import opened_file_at
from ..._core.errors import TransferFailed, os_errors
from ..._core.records import dataclass
from ..._image.backing_names import rename_layers
from ..._image.image_file import disk_size
from ..._image.layout import snapshot_directory, snapshot_number
from ..._image.new_image import MODE
from ..._image.resize import grow_opened
from ..._image.snapshots import TIMEOUT
from ..._remote.staging import Staging
from ..._remote.tree import DIRECTORY, FILE, LINK, Entry, Tree


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
        """Refuse a tree with other files than those of the disk, or without its data.

        :raises TransferFailed: the tree can't be used.
        """
        for entry in tree:
            if not self._has(entry):
                raise TransferFailed(f"The files of {self.name} came with {entry.path!r}, which is none of them.")
        files = {entry.path for entry in tree if entry.kind == FILE}
        if self._data_of(tree) not in files:
            raise TransferFailed(f"The files of {self.name} came without its data.")

    def _has(self, entry: Entry) -> bool:
        """Return whether an entry is one of the disk's files, see :func:`.disk_source`."""
        snapshots = snapshot_directory(self.name)
        directory, name = os.path.split(entry.path)
        if directory == snapshots:
            is_link = name == snapshots and entry.kind == LINK and entry.target == "."
            return is_link or (entry.kind == FILE and snapshot_number(name) is not None)
        return entry.path == self.name or (entry.path == snapshots and entry.kind == DIRECTORY)

    def _data_of(self, tree: Tree) -> str | None:
        """Return the path of the file that receives the writes of the disk."""
        own = next((entry for entry in tree if entry.path == self.name), None)
        if own is None or own.kind != LINK:
            return self.name
        return own.target if os.path.dirname(own.target) == snapshot_directory(self.name) else None

    def publish(self, staging: Staging) -> None:
        """Adapt the files, and give them their names. Old files of the disk are removed.

        :raises Conflict: a layer is based on an unknown file.
        :raises CommandFailed: qemu-img failed.
        :raises NoSpace, FileAccessFailed: a file operation failed.
        """
        if self.format == "qcow2":
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
        name = self._data_of(staging.tree) or self.name
        path = f"{staging.place}/{name}"
        with os_errors(f"write {path}"), opened_file_at(staging.data, name, os.O_RDWR) as descriptor:
            if disk_size(descriptor, self.format, path) < self.size:
                grow_opened(descriptor, self.format, self.size, path, timeout=TIMEOUT)


__all__ = ["Arrival"]
