# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A VM and its disks, as transfer drivers need them (spec: storage-driver, "TM Drivers Structure").

A VM comes from the document of a front-end, or from the catalog. A field is ``None`` if the VM lacks the value, so no
field is an empty text.
"""

from __future__ import annotations

from .._core.errors import InvalidInput, NotFound
from .._core.records import dataclass

#: States of a VM's life cycle that change what an action does (LCM_STATE of a front-end).
#: A disk is saved as an image while the VM runs.
HOTPLUG_SAVEAS = 26
#: A snapshot of a disk is deleted while the VM runs.
DISK_SNAPSHOT_DELETE = 59
#: The VM moves to another host, because its host is gone. There is no access to the old host.
PROLOG_MIGRATE_UNKNOWN = 60
PROLOG_MIGRATE_UNKNOWN_FAILURE = 61
#: The hypervisor resizes a disk while the VM runs.
DISK_RESIZE = 62
#: The VM is backed up while it runs.
BACKUP = 69

#: States in which the old host of the VM is gone.
HOST_IS_GONE = (PROLOG_MIGRATE_UNKNOWN, PROLOG_MIGRATE_UNKNOWN_FAILURE)

#: The action of a history record by which a VM is deleted and created again (ACTION of a front-end).
RECREATE = 14


@dataclass(frozen=True)
class VmSnapshot:
    """A snapshot of a disk.

    :arg is_active: whether the disk continues from this snapshot. At most one snapshot of a disk is active.
    """

    id: int
    is_active: bool


@dataclass(frozen=True)
class VmDisk:
    """A disk of a VM. Sizes are in MiB.

    :arg disk_id: the number in the name ``disk.<id>``.
    :arg type: the type in lower case: ``file``, ``cdrom``, ``block`` or ``filesystem`` for an image, ``fs`` or ``swap``
        for a volatile disk.
    :arg format: the recorded format in lower case, such as ``raw`` or ``qcow2``. The data is never probed.
    :arg datastore_id: the datastore of the image; the system datastore for a volatile disk.
    :arg tm_mad: the transfer driver of that datastore.
    :arg source: the image's source, as its datastore driver returned it.
    :arg size_mb: the desired virtual size of the disk.
    :arg original_size_mb: the virtual size of the image.
    :arg is_persistent: whether the disk is the image itself, and not a copy of it (CLONE=NO).
    :arg is_saved: whether the disk goes back to the image datastore when the VM ends (SAVE=YES). The disk of a CD-ROM
        image is persistent but isn't saved, because several VMs can have the image.
    :arg is_read_only: whether the VM can't write to the disk.
    :arg is_standalone: whether a qcow2 disk is a full copy, and not an overlay of the image.
    :arg recovery_snapshot_freq: seconds between two recovery snapshots.
    :arg snapshots: the snapshots of the disk, by ascending ids.
    """

    disk_id: int
    type: str
    size_mb: int
    format: str | None = None
    image_id: int | None = None
    datastore_id: int | None = None
    tm_mad: str | None = None
    source: str | None = None
    original_size_mb: int | None = None
    is_persistent: bool = False
    is_saved: bool = False
    target: str | None = None
    fs: str | None = None
    is_sparse: bool = True
    is_read_only: bool = False
    is_standalone: bool = False
    recovery_snapshot_freq: int | None = None
    snapshots: tuple[VmSnapshot, ...] = ()

    def require_format(self) -> str:
        """Return the recorded format.

        :raises InvalidInput: the disk has none.
        """
        return self._require("FORMAT", self.format)

    def require_source(self) -> str:
        """Return the source of the disk's image.

        :raises InvalidInput: the disk has none.
        """
        return self._require("SOURCE", self.source)

    def _require(self, name: str, value: str | None) -> str:
        if value is None:
            raise InvalidInput(f"{name} of the disk {self.disk_id}", None, "this action needs it")
        return value


@dataclass(frozen=True)
class BackupConfig:
    """The configuration of a VM's backups.

    :arg fs_freeze: how the guest's file systems are frozen: ``NONE``, ``AGENT`` or ``SUSPEND``.
    :arg mode: ``FULL`` or ``INCREMENT``.
    :arg last_datastore_id: the backup datastore of the last backup.
    :arg last_increment_id: the number of the last increment.
    """

    fs_freeze: str | None = None
    mode: str | None = None
    last_datastore_id: int | None = None
    last_increment_id: int | None = None


@dataclass(frozen=True)
class Vm:
    """A VM with its newest history record. During a migration, this is the record of the destination.

    :arg deploy_id: the domain's name or UUID in libvirt; ``None`` for a VM that hasn't been deployed.
    :arg host: the name of the host.
    :arg system_datastore_id: the datastore with the VM's directory. ``tm_mad`` is its transfer driver.
    :arg vm_mad: the driver of the hypervisor, such as ``kvm``.
    :arg previous_datastore_id: the system datastore of the history record before.
    :arg last_action: the action of the history record, such as :data:`RECREATE`.
    :arg disks: the disks, by ascending ids. The context is no such disk.
    """

    id: int
    name: str
    state: int
    lcm_state: int
    host: str
    system_datastore_id: int
    tm_mad: str
    vm_mad: str
    previous_datastore_id: int | None = None
    last_action: int = 0
    deploy_id: str | None = None
    disks: tuple[VmDisk, ...] = ()
    backup: BackupConfig = BackupConfig()

    @property
    def is_host_gone(self) -> bool:
        """Return whether the VM moves from a host that is gone."""
        return self.lcm_state in HOST_IS_GONE

    def disk(self, disk_id: int) -> VmDisk:
        """Return the disk of an id.

        :raises NotFound: the VM has no such disk.
        """
        for disk in self.disks:
            if disk.disk_id == disk_id:
                return disk
        known = ", ".join(str(disk.disk_id) for disk in self.disks) or "none"
        raise NotFound(f"The VM {self.id} has no disk {disk_id} (known disks: {known}).")


@dataclass(frozen=True)
class Host:
    """A host on which VMs run.

    :arg replica_storage_ip: the address of the host in the storage network (spec: onestor-datastore,
        "REPLICA_STORAGE_IP").
    """

    name: str
    replica_storage_ip: str | None = None


__all__ = [
    "BACKUP",
    "DISK_RESIZE",
    "DISK_SNAPSHOT_DELETE",
    "HOST_IS_GONE",
    "HOTPLUG_SAVEAS",
    "PROLOG_MIGRATE_UNKNOWN",
    "PROLOG_MIGRATE_UNKNOWN_FAILURE",
    "RECREATE",
    "BackupConfig",
    "Host",
    "Vm",
    "VmDisk",
    "VmSnapshot",
]
