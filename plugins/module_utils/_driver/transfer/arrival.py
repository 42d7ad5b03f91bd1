# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A disk or an image that arrived from another host, before it gets its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from ..._core.directory import open_file_at
from ..._core.errors import Conflict, TransferFailed, os_errors
from ..._core.records import dataclass
from ..._image.image_file import disk_size
from ..._image.layout import snapshot_directory, snapshot_number
from ..._image.qcow2 import HEADER_SIZE, Qcow2Header
from ..._image.qemu_img import run_qemu_img
from ..._image.resize import grow_opened
from ..._image.snapshots import TIMEOUT
from ..._remote.staging import Staging
from ..._remote.tree import FILE, LINK, Entry, Tree

#: Upper bound of the name of a backing file in bytes (QEMU, docs/interop/qcow2.txt).
LONGEST_BACKING_NAME = 1023


@dataclass(frozen=True)
class Arrival:
    """The way in which the files of a disk or an image get their names.

    :arg name: name of the disk or the image in its directory.
    :arg format: ``raw`` or ``qcow2``.
    :arg size: least size of the disk in bytes. 0 keeps its size.
    :arg outdated: further names in the directory that describe the old data.
    """

    name: str
    format: str
    size: int = 0
    outdated: tuple[str, ...] = ()

    def accept(self, tree: Tree) -> None:
        """Refuse a tree with other files than those of the disk.

        :raises TransferFailed: there is one.
        """
        snapshots = snapshot_directory(self.name)
        for entry in tree:
            if entry.path.split("/")[0] not in (self.name, snapshots):
                raise TransferFailed(f"The files of {self.name} came with {entry.path!r}, which is none of them.")

    def publish(self, staging: Staging) -> None:
        """Adapt the files, and give them their names. Old files of the disk are removed.

        :raises Conflict: a layer is based on an unknown file.
        :raises CommandFailed: qemu-img failed.
        :raises NoSpace, FileAccessFailed: a file operation failed.
        """
        snapshots = snapshot_directory(self.name)
        names = {entry.path for entry in staging.tree}
        for entry in self._layers(staging.tree):
            self._change(staging, entry, self._rename_backing_file)
        if self.size:
            self._change(staging, self._active(staging.tree), self._grow)
        staging.publish(outdated=[*self.outdated, *({snapshots} - names)])

    def _layers(self, tree: Tree) -> Iterator[Entry]:
        """Yield the layers, if the disk has some."""
        if any(entry.kind == LINK and entry.path == self.name for entry in tree):
            yield from (entry for entry in tree if entry.kind == FILE)

    def _active(self, tree: Tree) -> Entry:
        """Return the file that receives the writes."""
        by_path = {entry.path: entry for entry in tree}
        entry = by_path[self.name]
        return by_path[entry.target] if entry.kind == LINK else entry

    def _change(self, staging: Staging, entry: Entry, change: Callable[[int, str], object]) -> None:
        path = f"{staging.place}/{entry.path}"
        with os_errors(f"write {path}"):
            descriptor = open_file_at(staging.data, entry.path, os.O_RDWR)
            try:
                change(descriptor, path)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _rename_backing_file(self, descriptor: int, path: str) -> None:
        """Write the present name of the layer before into the header of a layer. Its data stays."""
        try:
            header = Qcow2Header.parse(os.pread(descriptor, HEADER_SIZE, 0))
        except ValueError as error:
            raise Conflict(f"{path} is not used: it isn't a qcow2 image.") from error
        if not header.backing_offset:
            return
        length = min(header.backing_length, LONGEST_BACKING_NAME)
        old = os.fsdecode(os.pread(descriptor, length, header.backing_offset))
        number = snapshot_number(os.path.basename(old))
        if number is None:
            raise Conflict(f"{path} is not used: it is based on {old!r}, which is no layer of {self.name}.")
        new = f"{snapshot_directory(self.name)}/{number}"
        if new != old:
            file = f"/proc/self/fd/{descriptor}"
            run_qemu_img(
                *["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", new, "--", file],
                reads={},
                writes={descriptor: path},
                data=0,
                timeout=TIMEOUT,
            )

    def _grow(self, descriptor: int, path: str) -> None:
        if disk_size(descriptor, self.format, path) < self.size:
            grow_opened(descriptor, self.format, self.size, path, timeout=TIMEOUT)


__all__ = ["Arrival"]
