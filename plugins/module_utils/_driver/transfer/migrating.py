# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The actions of a live migration that drivers with data on hosts have in common."""

from __future__ import annotations

import os

from ..._core.records import TYPE_CHECKING
from ..._image.vm_disk import DiskRecord
from ..._model.place import Place
from . import hosts
from .base import TransferDriver

if TYPE_CHECKING:
    from typing import Any

    from ..._model.vm import Vm, VmDisk

#: The types of disks that are files to which a VM can write. Other types are read-only, or aren't files.
WRITABLE_TYPES = ("file", "fs", "swap")


class MigratingDriver(TransferDriver):
    """A transfer driver whose VMs can migrate."""

    def _run(self, host: str, action: str, *arguments: Any) -> Any:
        return hosts.run(host, action, *arguments, log=self.log)

    def premigrate(self, source: str, target: Place, vm: int) -> bool:
        if hosts.is_same_host(source, target.host):
            self.log(f"{target} needs no preparation, because the VM {vm} stays on {source}.")
            return False
        if self.info.is_shared:
            self._run(source, "require_shared", target.path, target.host)
            return False
        disks = self._copied(self.facts.vm(vm), target.path)
        arguments = (target.path, target.host, target.path, disks, self.system_driver)
        is_prepared: bool = self._run(source, "prepare_migration", *arguments)
        return is_prepared

    def failmigrate(self, source: str, target: Place, vm: int) -> None:
        if not (self.info.is_shared or hosts.is_same_host(source, target.host)):
            self._run(target.host, "abandon_migration", target.path)

    def postmigrate(self, source: str, target: Place, vm: int) -> None:
        disks = self._copied(self.facts.vm(vm), target.path)
        if not hosts.is_same_host(source, target.host):
            if not self.info.is_shared:
                self._run(source, "finish_migration", target.path, target.host, target.path, disks)
            return
        directory, name = os.path.split(target.path)
        previous = self.facts.previous_datastore(vm)
        origin = f"{os.path.dirname(directory)}/{previous}/{name}"
        if previous is None or origin == target.path:
            self.log(f"{target} stays, because the VM {vm} did not migrate.")
        else:
            self._run(source, "finish_migration", origin, None, target.path, disks)

    def _copied(self, vm: Vm, directory: str) -> list[DiskRecord]:
        """Return the disks in a VM directory whose data libvirt copies."""
        return [
            DiskRecord(
                f"{directory}/disk.{disk.disk_id}",
                disk.require_format(),
                disk.source if self.info.is_shared else None,
            )
            for disk in vm.disks
            if _is_copied(disk)
        ]


def _is_copied(disk: VmDisk) -> bool:
    return disk.type in WRITABLE_TYPES and not disk.is_read_only


__all__ = ["MigratingDriver"]
