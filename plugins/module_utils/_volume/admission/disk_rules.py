# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules for a single disk, as a table. Some of them are libvirt's or QEMU's, and libvirt finds others only when the
domain starts, or never.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ..._core.problems import Problems
from ..._core.records import dataclass
from ..._model.volume_sources import (
    ContainerDisk,
    DataVolume,
    DownwardMetrics,
    EmptyDisk,
    Ephemeral,
    PersistentVolumeClaim,
)
from ..connection import ConnectedDisk, source_option
from ..facts import S390X, DomainFacts
from ..reading.volumes import Unreadable

#: Characters of a serial number: those that libvirt accepts without quotes in QEMU's options.
_SERIAL = re.compile(r"[A-Za-z0-9_.+-]+")
#: Upper bounds of a serial number in bytes, by the bus. A guest sees no more of it: virtio 1.1 (section 5.2.6.1),
#: ATA-8, and the limit of QEMU's SCSI disks, which are the disks on USB, too.
LONGEST_SERIALS = {"virtio": 20, "sata": 20, "scsi": 36, "usb": 36}

#: Upper bound of a boot order: QEMU has a number of 32 bits with a sign.
HIGHEST_BOOT_ORDER = 2**31 - 1

_PCI_ADDRESS = re.compile(r"[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[01][0-9a-fA-F]\.[0-7]")

#: Bounds of the sizes of blocks in bytes: the smallest of any disk, and the largest of QEMU.
SMALLEST_BLOCK, LARGEST_BLOCK = 512, 2 * 1024 * 1024
#: Upper bound of the size of blocks on s390x in bytes.
_LARGEST_BLOCK_S390X = 4096

#: The sources whose data is an overlay or another qcow2 file.
_QCOW2_SOURCES = (ContainerDisk, EmptyDisk, Ephemeral)
#: The modes of the page cache in which QEMU can use native input and output.
DIRECT_CACHES = ("none", "directsync")


@dataclass(frozen=True)
class DiskRule:
    """A rule for a disk.

    :arg name: the short name of the rule.
    :arg place: the option below the disk. ``device`` is the option of the device, such as ``lun``.
    :arg is_broken: returns whether a disk breaks the rule.
    :arg accepted: the accepted values, as the rest of a sentence.
    """

    name: str
    place: str
    is_broken: Callable[[ConnectedDisk, DomainFacts], bool]
    accepted: str


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def _is_bad_block(number: int) -> bool:
    return not (SMALLEST_BLOCK <= number <= LARGEST_BLOCK and _is_power_of_two(number))


def _is_bad_granularity(disk: ConnectedDisk, _facts: DomainFacts) -> bool:
    blocks = disk.spec.block_size
    granularity = None if blocks is None else blocks.discard_granularity
    return (
        blocks is not None
        and granularity is not None
        and blocks.logical > 0
        and (granularity % blocks.logical != 0 or granularity == 0)
    )


def _is_too_long(disk: ConnectedDisk) -> bool:
    return len(disk.spec.serial or "") > LONGEST_SERIALS.get(disk.bus, 0)


def _is_hotpluggable(disk: ConnectedDisk) -> bool:
    return isinstance(disk.source, (PersistentVolumeClaim, DataVolume)) and disk.source.hotpluggable


_BLOCKS = f"a power of 2 from {SMALLEST_BLOCK} to {LARGEST_BLOCK} is expected"
_BUS = "device.bus"

DISK_RULES = (
    DiskRule(
        "cdrom_bus",
        _BUS,
        lambda disk, facts: disk.kind == "cdrom" and disk.bus == "virtio",
        "a CD-ROM drive is on sata, scsi or usb",
    ),
    DiskRule(
        "lun_bus",
        _BUS,
        lambda disk, facts: disk.kind == "lun" and disk.bus != "scsi",
        "a lun is on scsi, because QEMU passes SCSI commands on that bus only",
    ),
    DiskRule(
        "lun_source",
        "device",
        lambda disk, facts: (
            disk.kind == "lun"
            and not isinstance(disk.source, (PersistentVolumeClaim, DataVolume, Unreadable, type(None)))
        ),
        "a lun has a persistent_volume_claim or a data_volume, because it needs a block device of the host",
    ),
    DiskRule(
        "lun_serial",
        "serial",
        lambda disk, facts: disk.kind == "lun" and disk.spec.serial is not None,
        "a lun has the serial number of its SCSI device, so none can be given",
    ),
    DiskRule(
        "lun_block_size",
        "block_size",
        lambda disk, facts: disk.kind == "lun" and (disk.spec.block_size is not None or disk.spec.match_volume),
        "a lun has the block sizes of its SCSI device, so none can be given",
    ),
    DiskRule(
        "sata_read_only",
        "device.read_only",
        lambda disk, facts: disk.kind == "disk" and disk.bus == "sata" and disk.is_read_only,
        "a disk on sata is always writable in QEMU. A read-only disk is on virtio, scsi or usb",
    ),
    DiskRule(
        "pci_bus",
        "device.pci_address",
        lambda disk, facts: getattr(disk.spec.device, "pci_address", None) is not None and disk.bus != "virtio",
        "only a disk on virtio has a PCI address of its own",
    ),
    DiskRule(
        "pci_address",
        "device.pci_address",
        lambda disk, facts: (
            _PCI_ADDRESS.fullmatch(getattr(disk.spec.device, "pci_address", None) or "0000:00:00.0") is None
        ),
        "an address such as 0000:81:01.0 is expected",
    ),
    DiskRule(
        "boot_order",
        "boot_order",
        lambda disk, facts: disk.spec.boot_order is not None and not 1 <= disk.spec.boot_order <= HIGHEST_BOOT_ORDER,
        f"a number from 1 to {HIGHEST_BOOT_ORDER} is expected",
    ),
    DiskRule(
        "serial",
        "serial",
        lambda disk, facts: _SERIAL.fullmatch(disk.spec.serial or "0") is None,
        "letters, digits and characters of '_.+-' are expected",
    ),
    DiskRule(
        "serial_length",
        "serial",
        lambda disk, facts: _is_too_long(disk),
        "a guest sees at most 20 characters on virtio and sata, and 36 on scsi and usb. No more are expected",
    ),
    DiskRule(
        "shareable_cache",
        "cache",
        lambda disk, facts: disk.spec.shareable and disk.spec.cache not in (None, "none"),
        "a shareable disk has the cache none, because the page cache of a host hides the writes of other guests",
    ),
    DiskRule(
        "shareable_source",
        "shareable",
        lambda disk, facts: disk.spec.shareable and isinstance(disk.source, _QCOW2_SOURCES),
        "the data of this volume is in a qcow2 file, which only one guest can write to",
    ),
    DiskRule(
        "io_cache",
        "io",
        lambda disk, facts: disk.spec.io == "native" and disk.spec.cache not in (None, *DIRECT_CACHES),
        f"native needs the cache {' or '.join(DIRECT_CACHES)}",
    ),
    DiskRule(
        "dedicated_io_thread",
        "dedicated_io_thread",
        lambda disk, facts: disk.spec.dedicated_io_thread and disk.bus != "virtio",
        "only a disk on virtio has a thread of its own",
    ),
    DiskRule(
        "logical_block_size",
        "block_size.logical",
        lambda disk, facts: disk.spec.block_size is not None and _is_bad_block(disk.spec.block_size.logical),
        _BLOCKS,
    ),
    DiskRule(
        "physical_block_size",
        "block_size.physical",
        lambda disk, facts: disk.spec.block_size is not None and _is_bad_block(disk.spec.block_size.physical),
        _BLOCKS,
    ),
    DiskRule(
        "block_size_order",
        "block_size.logical",
        lambda disk, facts: (
            disk.spec.block_size is not None and disk.spec.block_size.logical > disk.spec.block_size.physical
        ),
        "at most the physical size is expected",
    ),
    DiskRule(
        "block_size_sata",
        "block_size.logical",
        lambda disk, facts: (
            disk.spec.block_size is not None and disk.bus == "sata" and disk.spec.block_size.logical != SMALLEST_BLOCK
        ),
        f"{SMALLEST_BLOCK} is expected on sata",
    ),
    DiskRule(
        "block_size_s390x",
        "block_size.physical",
        lambda disk, facts: (
            disk.spec.block_size is not None
            and facts.arch == S390X
            and disk.spec.block_size.physical > _LARGEST_BLOCK_S390X
        ),
        f"at most {_LARGEST_BLOCK_S390X} is expected on s390x",
    ),
    DiskRule(
        "discard_granularity",
        "block_size.discard_granularity",
        _is_bad_granularity,
        "a multiple of the logical size is expected",
    ),
    DiskRule(
        "discard_granularity_support",
        "block_size.discard_granularity",
        lambda disk, facts: (
            disk.spec.block_size is not None
            and disk.spec.block_size.discard_granularity is not None
            and not facts.has_discard_granularity
        ),
        "libvirt on this host is too old for it, so it must be left out",
    ),
    DiskRule(
        "metrics_device",
        "device",
        lambda disk, facts: isinstance(disk.source, DownwardMetrics) and disk.kind != "disk",
        "the readers of downward_metrics expect an ordinary disk",
    ),
    DiskRule(
        "metrics_bus",
        _BUS,
        lambda disk, facts: isinstance(disk.source, DownwardMetrics) and disk.kind == "disk" and disk.bus != "virtio",
        "the readers of downward_metrics expect a disk on virtio",
    ),
    DiskRule(
        "hotplug_bus",
        _BUS,
        lambda disk, facts: _is_hotpluggable(disk) and disk.kind == "disk" and disk.bus not in ("virtio", "scsi"),
        "a hotpluggable disk is on virtio or scsi",
    ),
)


def admit_disk(problems: Problems, disk: ConnectedDisk, facts: DomainFacts) -> None:
    """Add a problem for each rule of :data:`DISK_RULES` that a disk breaks."""
    for rule in DISK_RULES:
        if rule.is_broken(disk, facts):
            problems.add(rule.name, f"{disk.path}.{_option(disk, rule.place)}", _value(disk, rule.place), rule.accepted)


def _option(disk: ConnectedDisk, place: str) -> str:
    return place.replace("device", disk.kind, 1).replace("block_size.", "block_size.custom.")


def _value(disk: ConnectedDisk, place: str) -> object:
    """Return the offending value."""
    special = {_BUS: disk.bus, "device": source_option(disk.source), "device.read_only": True}
    if place in special:
        return special[place]
    if place == "block_size" and disk.spec.match_volume:
        return "match_volume"
    value: object = disk.spec
    for name in place.split("."):
        value = getattr(value, name)
    return value


__all__ = ["DIRECT_CACHES", "DISK_RULES", "LARGEST_BLOCK", "SMALLEST_BLOCK", "DiskRule", "admit_disk"]
