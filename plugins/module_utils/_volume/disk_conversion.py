# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The conversion of a declared disk to a device, with the facts about its volume."""

from __future__ import annotations

from collections.abc import Mapping

from .._core.problems import Problems
from .._core.records import dataclass, field
from .._libvirt.devices.volume_disk import MANAGED, ScsiAddress, VolumeDisk
from .._model.volume_disks import BlockSize, CdromDevice, DiskDevice, LunDevice
from .._model.volume_sources import (
    ContainerDisk,
    DataVolume,
    DownwardMetrics,
    EmptyDisk,
    Ephemeral,
    PersistentVolumeClaim,
)
from .admission.disk_rules import DIRECT_CACHES, SMALLEST_BLOCK
from .connection import ConnectedDisk
from .facts import DomainFacts, VolumeFacts
from .io_threads import IoThreads

#: Sources whose file this collection creates, so that no other data is in it that must stay allocated.
_ALWAYS_THIN = (ContainerDisk, EmptyDisk, Ephemeral)
#: Sources that are discarded from in a CD-ROM drive, too, as in KubeVirt.
_DISCARDED_CDROMS = (*_ALWAYS_THIN, PersistentVolumeClaim, DataVolume)


@dataclass(frozen=True)
class DiskContext:
    """The properties of a domain that its disks depend on.

    :arg targets: the target names by the name of a disk.
    :arg places: the places on the SCSI controller by the name of a disk.
    :arg virtio_model: the model of a disk on virtio; ``None`` leaves it to libvirt.
    :arg queues: the number of queues of a disk on virtio; ``None`` leaves it to QEMU.
    """

    facts: DomainFacts
    targets: Mapping[str, str]
    places: Mapping[str, ScsiAddress] = field(default_factory=dict)
    io_threads: IoThreads = IoThreads()
    virtio_model: str | None = None
    queues: int | None = None


def convert_disk(
    problems: Problems, disk: ConnectedDisk, volume: VolumeFacts | None, context: DiskContext
) -> VolumeDisk:
    """Return the device for a disk, and add a problem for each property that is impossible with its volume.

    :arg volume: ``None`` for a CD-ROM drive without a volume.
    """
    spec, device = disk.spec, disk.spec.device
    is_virtio = disk.kind == "disk" and disk.bus == "virtio"
    if volume is not None:
        _check_volume(problems, disk, volume)
    cache = _cache(problems, disk, volume)
    blocks = _block_size(problems, disk, volume, context.facts)
    return VolumeDisk(
        name=disk.name,
        target=context.targets[disk.name],
        bus=disk.bus,
        device=disk.kind,
        layer=None if volume is None else volume.layer,
        backing=None if volume is None else volume.backing,
        is_alone=volume is not None and volume.is_alone,
        model=context.virtio_model if is_virtio else None,
        cache=cache,
        error_policy=spec.error_policy or "stop",
        io=_io(problems, disk, volume, cache),
        discard=_discard(disk, volume),
        queues=context.queues if is_virtio else None,
        io_thread=context.io_threads.threads.get(disk.name),
        io_threads=context.io_threads.pool if is_virtio else (),
        reservation=_reservation(disk, context.facts),
        tray=device.tray if isinstance(device, CdromDevice) else None,
        serial=spec.serial,
        read_only=disk.is_read_only or isinstance(disk.source, DownwardMetrics),
        shareable=spec.shareable,
        logical_block_size=None if blocks is None else blocks.logical,
        physical_block_size=None if blocks is None else blocks.physical,
        discard_granularity=None if blocks is None else blocks.discard_granularity,
        boot_order=spec.boot_order,
        pci_address=device.pci_address if isinstance(device, DiskDevice) else None,
        scsi_address=context.places.get(disk.name),
    )


def _check_volume(problems: Problems, disk: ConnectedDisk, volume: VolumeFacts) -> None:
    if disk.kind == "lun" and not volume.layer.is_block:
        problems.add(
            "lun_block", f"{disk.path}.lun", volume.layer.path, "a volume on a block device of the host is expected"
        )
    if disk.spec.shareable and volume.layer.format != "raw":
        problems.add(
            "shareable_format",
            f"{disk.path}.shareable",
            volume.layer.format,
            "data in the format raw is expected, because only one guest can write to another format",
        )
    if volume.writers and not disk.is_read_only:
        problems.add(
            "volume_in_use",
            f"{disk.path}.shareable",
            disk.spec.shareable,
            f"other domains write to the same data ({', '.join(volume.writers)}). shareable: true is expected in all "
            "of them, or another volume",
        )


def _cache(problems: Problems, disk: ConnectedDisk, volume: VolumeFacts | None) -> str | None:
    """Return the mode of the page cache. By default, the page cache isn't used if the file systems allow that."""
    if volume is None:
        return None
    cache = disk.spec.cache or ("none" if disk.spec.shareable else None)
    if cache is None:
        return "none" if volume.has_direct_io else "writethrough"
    if cache in DIRECT_CACHES and not volume.has_direct_io:
        problems.add(
            "direct_io",
            f"{disk.path}.cache",
            cache,
            f"the file system of {volume.layer.path} has no direct input and output, which this mode needs. "
            "writethrough or writeback is expected",
        )
    return cache


def _io(problems: Problems, disk: ConnectedDisk, volume: VolumeFacts | None, cache: str | None) -> str | None:
    """Return the mode of input and output. Native mode is the default where no write can wait for an allocation."""
    if disk.spec.io is not None:
        if disk.spec.io == "native" and disk.spec.cache is None and volume is not None and cache not in DIRECT_CACHES:
            problems.add(
                "io_cache_default",
                f"{disk.path}.io",
                disk.spec.io,
                f"the file system of {volume.layer.path} has no direct input and output, which native needs. threads "
                "is expected",
            )
        return disk.spec.io
    if volume is not None and cache == "none" and (volume.layer.is_block or volume.is_allocated):
        return "native"
    return None


def _discard(disk: ConnectedDisk, volume: VolumeFacts | None) -> str | None:
    source = disk.source
    if volume is None or disk.volume is None or isinstance(source, DownwardMetrics):
        return None
    if disk.kind == "cdrom" and not isinstance(source, _DISCARDED_CDROMS):
        return None
    is_thick = disk.volume.thick
    if is_thick is None:
        is_thick = volume.is_thick and not isinstance(source, _ALWAYS_THIN)
    return None if is_thick else "unmap"


def _reservation(disk: ConnectedDisk, facts: DomainFacts) -> str | None:
    device = disk.spec.device
    if isinstance(device, LunDevice) and device.reservation:
        return facts.reservation_socket or MANAGED
    return None


def _block_size(
    problems: Problems, disk: ConnectedDisk, volume: VolumeFacts | None, facts: DomainFacts
) -> BlockSize | None:
    """Return the declared sizes of blocks, or those of the volume if they are requested."""
    if not disk.spec.match_volume or volume is None:
        return disk.spec.block_size
    found, path = volume.block_size, f"{disk.path}.block_size.match_volume"
    if found is None:
        problems.add("block_size_unknown", path, True, f"the block sizes of {volume.layer.path} are unknown")
        return None
    if disk.bus == "sata" and found.logical != SMALLEST_BLOCK:
        accepted = f"{volume.layer.path} has blocks of {found.logical} bytes, and sata has {SMALLEST_BLOCK}"
        problems.add("match_volume_sata", path, True, accepted)
    return BlockSize(
        found.logical, found.physical, found.discard_granularity if facts.has_discard_granularity else None
    )


__all__ = ["DiskContext", "convert_disk"]
