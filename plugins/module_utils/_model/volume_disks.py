# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The disks and filesystems of a domain, as a user declares them in KubeVirt's model
(spec: kubevirt-disks-and-volumes).

``None`` is a value that the declaration lacks. Sizes are in bytes.
"""

from __future__ import annotations

from .._core.records import TYPE_CHECKING, dataclass
from .idmap import IdMap

if TYPE_CHECKING:
    from typing import Union

    #: The device as which a guest gets a volume.
    Device = Union["DiskDevice", "LunDevice", "CdromDevice"]

#: The buses of a disk.
DISK_BUSES = ("virtio", "scsi", "sata", "usb")
#: The states of the tray of a CD-ROM drive.
TRAYS = ("closed", "open")
#: The modes of the host's page cache.
CACHES = ("none", "writeback", "writethrough", "directsync")
#: The modes of QEMU's input and output.
IO_MODES = ("native", "threads")
#: The actions after an error of input or output.
ERROR_POLICIES = ("stop", "report", "ignore", "enospace")
#: The modes of a guest's cache of a filesystem. ``auto`` leaves the cache to virtiofsd.
FILESYSTEM_CACHES = ("auto", "none", "always")
#: The isolations of virtiofsd.
SANDBOXES = ("namespace", "chroot")


@dataclass(frozen=True)
class DiskDevice:
    """An ordinary disk.

    :arg pci_address: the address of the disk in the guest, such as ``0000:81:01.0``.
    """

    bus: str | None = None
    read_only: bool = False
    pci_address: str | None = None


@dataclass(frozen=True)
class LunDevice:
    """A SCSI device of the host whose SCSI commands the guest sends itself.

    :arg reservation: whether the guest can use persistent reservations.
    """

    bus: str | None = None
    read_only: bool = False
    reservation: bool = False


@dataclass(frozen=True)
class CdromDevice:
    """A CD-ROM drive. Without a volume, the drive is empty.

    :arg read_only: QEMU's drives are always read-only. ``False`` is accepted and has no effect.
    """

    bus: str | None = None
    read_only: bool = True
    tray: str = "closed"


@dataclass(frozen=True)
class BlockSize:
    """The sizes of blocks that a guest sees, in bytes."""

    logical: int
    physical: int
    discard_granularity: int | None = None


@dataclass(frozen=True)
class DiskSpec:
    """A disk, which is connected with the volume of the same name.

    :arg boot_order: the place in the order of boot devices, from 1 on.
    :arg block_size: the sizes of blocks. ``match_volume`` takes those of the volume instead.
    :arg tag: a name for the disk in the metadata of a ConfigDrive.
    """

    name: str
    device: Device = DiskDevice()
    serial: str | None = None
    boot_order: int | None = None
    cache: str | None = None
    io: str | None = None
    error_policy: str | None = None
    shareable: bool = False
    dedicated_io_thread: bool = False
    block_size: BlockSize | None = None
    match_volume: bool = False
    tag: str | None = None


@dataclass(frozen=True)
class FilesystemSpec:
    """A virtiofs filesystem, which is connected with the volume of the same name. The name is the mount tag, too.

    Everything but the name is beyond KubeVirt's model. :class:`VirtioFs` has the same fields.

    :arg allow_unmapped: whether the ids of the guest can be the same ids on this host.
    """

    name: str
    read_only: bool = False
    cache: str = "auto"
    queue: int = 1024
    xattr: bool | None = None
    sandbox: str | None = None
    thread_pool: int | None = None
    uid_map: tuple[IdMap, ...] = ()
    gid_map: tuple[IdMap, ...] = ()
    allow_unmapped: bool = False


__all__ = [
    "CACHES",
    "DISK_BUSES",
    "ERROR_POLICIES",
    "FILESYSTEM_CACHES",
    "IO_MODES",
    "SANDBOXES",
    "TRAYS",
    "BlockSize",
    "CdromDevice",
    "DiskDevice",
    "DiskSpec",
    "FilesystemSpec",
    "LunDevice",
]
