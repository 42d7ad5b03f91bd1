# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ``shared`` transfer driver, also called ``qcow2``: all hosts have the same datastores (spec: shared-file-system;
design: transfers).
"""

from __future__ import annotations

import os

from ..._core.records import TYPE_CHECKING
from ..._image.vm_disk import DiskRecord
from .base import TransferInfo
from .storing import DISK, StoringDriver, size_in_bytes

if TYPE_CHECKING:
    from ..._model.place import Place


class SharedTransferDriver(StoringDriver):
    """A qcow2 disk is an overlay on its image, a raw disk a copy. A persistent disk is a link to its image."""

    info = TransferInfo("shared", is_shared=True, has_overlays=True)

    def _record(self, disk: Place, vm: int) -> DiskRecord:
        facts = self._facts(disk, vm)
        return DiskRecord(disk.path, facts.require_format(), facts.source)

    def clone(self, image: Place, disk: Place, vm: int) -> None:
        if not os.path.basename(disk.path).startswith(DISK):
            record, size, is_linked = DiskRecord(disk.path, "raw", image.path), 0, False
        else:
            facts = self._facts(disk, vm)
            record = DiskRecord(disk.path, facts.require_format(), image.path)
            size = facts.size_mb if facts.size_mb > (facts.original_size_mb or 0) else 0
            is_linked = not facts.is_standalone
        self._run(disk.host, "clone", record, is_linked, size_in_bytes(size), self.settings.qcow2_options)

    def ln(self, image: Place, disk: Place, vm: int) -> None:
        self._run(disk.host, "link", DiskRecord(disk.path, self._facts(disk, vm).require_format(), image.path))

    def mvds(self, disk: Place, image: str, vm: int) -> None:
        self._run(disk.host, "unlink", DiskRecord(disk.path, self._facts(disk, vm).require_format(), image))

    def cpds(self, disk: Place, image: str, snapshot: int | None, vm: int) -> None:
        self._run(disk.host, "save_here", self._record(disk, vm), snapshot, self._saving(vm), image)

    def _is_move(self, origin: Place, target: Place) -> bool:
        return origin.path != target.path

    def _move_directory(self, origin: Place, target: Place) -> None:
        # The target's host has both directories, and the host of the origin may be gone.
        self._run(target.host, "move_directory", origin.path, target.path, None)


__all__ = ["SharedTransferDriver"]
