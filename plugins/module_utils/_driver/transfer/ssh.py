# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ``ssh`` transfer driver: disks are copies on the hosts (spec: onestor-datastore; design: transfers)."""

from __future__ import annotations

import os

from ..._core.directory import opened_directory
from ..._core.errors import NotFound, os_errors
from ..._core.records import TYPE_CHECKING
from ..._image.image_files import opened_files, owner_like
from ..._image.layout import checksum_file
from ..._image.vm_disk import check_format, check_image
from ..._remote.staging import sweep_parts
from . import hosts
from .arrival import Arrival
from .base import TransferInfo
from .disk_source import disk_source
from .local_peer import Target
from .operations import Placement
from .storing import DISK, StoringDriver, size_in_bytes

if TYPE_CHECKING:
    from typing import Any

    from ..._model.place import Place


class SshTransferDriver(StoringDriver):
    """Images are files of the front-end. The hosts have nothing but the disks of their VMs."""

    info = TransferInfo("ssh")

    #: Whether a qcow2 disk consists of layers, so that its snapshots are overlays.
    _makes_layers = False
    _copies_whole = True

    def clone(self, image: Place, disk: Place, vm: int) -> None:
        if not os.path.basename(disk.path).startswith(DISK):
            self._place(image, disk, "raw", 0)  # a kernel, or an initial RAM disk
            return
        facts = self._facts(disk, vm)
        is_larger = facts.size_mb > (facts.original_size_mb or 0)
        self._place(image, disk, facts.require_format(), size_in_bytes(facts.size_mb) if is_larger else 0)

    def ln(self, image: Place, disk: Place, vm: int) -> None:
        self._place(image, disk, self._facts(disk, vm).require_format(), 0)

    def _place(self, image: Place, disk: Place, image_format: str, size: int) -> None:
        check_format(image_format)
        name = os.path.basename(disk.path)
        placement = Placement(disk.path, os.path.basename(image.path), image_format, size, self._monitor)
        with opened_files(image.path) as files:
            source = disk_source(files, image_format, name, layered=self._makes_layers)
            hosts.push(disk.host, "place", placement, source=source, log=self.log)

    def mvds(self, disk: Place, image: str, vm: int) -> None:
        record = self._record(disk, vm)
        try:
            self._pull_image(disk, image, record.format, "give_back", record)
        except NotFound:
            if not self._run(disk.host, "has_moved", disk.path):
                raise
            self.log(f"{disk} has gone back to its image already.")
            with os_errors(f"open {os.path.dirname(image)}"), opened_directory(os.path.dirname(image)) as opened:
                sweep_parts(opened)  # a killed run may have left the old data

    def cpds(self, disk: Place, image: str, snapshot: int | None, vm: int) -> None:
        record = self._record(disk, vm)
        self._pull_image(disk, image, record.format, "save", record, snapshot, self._saving(vm))

    def _pull_image(self, disk: Place, image: str, image_format: str, action: str, *arguments: Any) -> None:
        """Run an operation that sends a disk, and replace the files of an image by its files."""
        directory, name = os.path.split(check_image(image))
        arrival = Arrival(name, os.path.basename(disk.path), image_format, outdated=(checksum_file(name),))
        with os_errors(f"open {directory}"), opened_directory(directory, option="image") as opened:
            target = Target(opened, directory, arrival.publish, owner_like(opened), arrival.accept)
            hosts.pull(disk.host, action, *arguments, name, target=target, log=self.log)


__all__ = ["SshTransferDriver"]
