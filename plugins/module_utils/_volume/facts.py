# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Facts about a domain, its host and its volumes, on which the devices depend. The declaration lacks them."""

from __future__ import annotations

from collections.abc import Mapping

from .._core.records import dataclass, field
from .._libvirt.devices.volume_disk import DiskLayer
from .._model.volume_disks import BlockSize

#: The architecture of s390x in libvirt.
S390X = "s390x"


@dataclass(frozen=True)
class DomainFacts:
    """Facts about a domain and its host. "Others" are devices without an alias of this collection.

    :arg arch: the architecture as libvirt has it, such as ``x86_64`` or ``aarch64``.
    :arg machine: the machine type, such as ``pc-q35-7.2``.
    :arg vcpus: the number of the domain's virtual processors.
    :arg targets: the target names of this collection's disks, by the name of the disk. They stay.
    :arg other_targets: the target names of others.
    :arg other_boot_orders: the boot orders of others, each with a name for the device.
    :arg other_serials: the serial numbers of others, each with a name for the device.
    :arg other_tags: the mount tags of others, each with a name for the device.
    :arg other_scsi_units: the units of others on the SCSI controller.
    :arg other_io_threads: the highest number of a thread for input and output that others use; 0 for none.
    :arg scsi_controller: the index of the SCSI controller for disks.
    :arg pinned_cpus: the host's processors that the virtual processors run on; empty if they run on any.
    :arg pool_cpus: further processors of the host for the policy ``supplementalPool``.
    :arg emulator_cpus: the host's processors for the emulator; empty if the emulator isn't isolated.
    :arg reservation_socket: the socket of the host's own helper for persistent reservations; ``None`` lets libvirt run
        a helper.
    :arg has_disk_io_threads: whether libvirt and QEMU support several threads for a disk.
    :arg has_discard_granularity: whether libvirt supports the granularity of discarded blocks.
    """

    arch: str = "x86_64"
    machine: str = "q35"
    vcpus: int = 1
    targets: Mapping[str, str] = field(default_factory=dict)
    other_targets: frozenset[str] = frozenset()
    other_boot_orders: Mapping[int, str] = field(default_factory=dict)
    other_serials: Mapping[str, str] = field(default_factory=dict)
    other_tags: Mapping[str, str] = field(default_factory=dict)
    other_scsi_units: frozenset[int] = frozenset()
    other_io_threads: int = 0
    scsi_controller: int = 0
    pinned_cpus: tuple[int, ...] = ()
    pool_cpus: tuple[int, ...] = ()
    emulator_cpus: tuple[int, ...] = ()
    reservation_socket: str | None = None
    has_disk_io_threads: bool = True
    has_discard_granularity: bool = True

    @property
    def has_pci_express(self) -> bool:
        """Return whether the domain's virtio devices are on PCI Express."""
        return self.arch != S390X and ("q35" in self.machine or self.machine.startswith("virt"))


@dataclass(frozen=True)
class VolumeFacts:
    """Facts about the data of a volume.

    :arg layer: the file or block device of the disk.
    :arg backing: the data that an overlay is based on.
    :arg is_alone: whether the data has no backing file, whatever its header names.
    :arg is_thick: whether the data is recorded as allocated completely.
    :arg has_direct_io: whether the file systems of all files of the chain support direct input and output.
    :arg is_allocated: whether the data is allocated completely now.
    :arg block_size: the detected sizes of blocks, for ``match_volume``.
    :arg writers: other domains that can write to the data, and whose disk isn't shareable.
    """

    layer: DiskLayer
    backing: DiskLayer | None = None
    is_alone: bool = False
    is_thick: bool = False
    has_direct_io: bool = True
    is_allocated: bool = False
    block_size: BlockSize | None = None
    writers: tuple[str, ...] = ()


__all__ = ["S390X", "DomainFacts", "VolumeFacts"]
