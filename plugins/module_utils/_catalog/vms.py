# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalog's VMs, their disks and the snapshots of these."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._core.records import dataclass
from .._model.declared_vm import STATES, DeclaredDisk, DeclaredSnapshot, DeclaredVm
from .._model.names import check_domain, check_host, check_name
from .table import Table

if TYPE_CHECKING:
    from .catalog import Catalog


def _read_choice(accepted: Sequence[str], value: str) -> str:
    if value not in accepted:
        raise ValueError(value)
    return value


VMS = Table(
    "vm",
    DeclaredVm,
    readers={
        "name": functools.partial(check_name, "name"),
        "domain": functools.partial(check_domain, "domain"),
        "host": functools.partial(check_host, "host"),
        "state": functools.partial(_read_choice, STATES),
    },
    writers={},
)

DISKS = Table(
    "disk",
    DeclaredDisk,
    key=("vm_id", "disk_id"),
    readers={
        "type": functools.partial(_read_choice, ("file", "cdrom", "fs", "swap")),
        "format": functools.partial(_read_choice, ("raw", "qcow2")),
        "state": functools.partial(_read_choice, STATES),
    },
    writers={},
)

DISK_SNAPSHOTS = Table("disk_snapshot", DeclaredSnapshot, key=("vm_id", "disk_id", "id"), readers={}, writers={})


@dataclass(frozen=True)
class DiskOfImage:
    """A disk of an image, with its VM."""

    image_id: int
    disk: DeclaredDisk
    vm: DeclaredVm

    def __str__(self) -> str:
        return f"the disk {self.disk.disk_id} of {self.vm}"

    def as_dict(self) -> dict[str, object]:
        """Return plain data, for a module's result."""
        disk = self.disk
        return {"vm": self.vm.name, "host": self.vm.host, "disk": disk.disk_id, "clone": disk.clone}


def disks_of(catalog: Catalog, image_id: int | None = None) -> list[DiskOfImage]:
    """Return the disks of one image, or of all images."""
    disks = [disk for disk in DISKS.rows(catalog, image_id=image_id) if disk.image_id is not None]
    vms = {vm.id: vm for vm in VMS.rows(catalog)} if disks else {}
    return [DiskOfImage(disk.image_id, disk, vms[disk.vm_id]) for disk in disks if disk.image_id is not None]


__all__ = ["DISKS", "DISK_SNAPSHOTS", "VMS", "DiskOfImage", "disks_of"]
