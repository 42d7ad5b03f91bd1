# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A disk of a domain as a declared disk: the options that give the same device again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..._core.problems import Problems
from ..._core.records import dataclass
from ..._libvirt.devices.volume_disk import VolumeDisk
from ..._model.volume_disks import CACHES, ERROR_POLICIES, IO_MODES
from ..._model.volume_sources import DownwardMetrics, VolumeSpec
from ..connection import ConnectedDisk
from ..disk_conversion import DiskContext, convert_disk
from ..facts import DomainFacts, VolumeFacts
from ..reading.disks import read_disk_spec
from ..reading.volumes import read_volume_spec

#: The fields that a conversion has default values for: the option, its values, and the value that QEMU uses where the
#: domain has none (qemu(1): ``-drive``).
_DEFAULTS = (
    ("cache", CACHES, "writeback"),
    ("io", IO_MODES, "threads"),
    ("error_policy", ERROR_POLICIES, "enospace"),
)
#: The size of blocks in bytes that QEMU uses where the domain has none.
_BLOCK = 512


@dataclass(frozen=True)
class FoundVolume:
    """The data of a disk or a filesystem.

    :arg source: the source as plain data, such as ``{"empty_disk": {"capacity": "1Gi"}}``.
    :arg facts: the facts about the data of a disk; ``None`` for a filesystem.
    """

    source: Mapping[str, Any]
    facts: VolumeFacts | None = None


def describe_disk(
    found: VolumeDisk, volume: FoundVolume | None, facts: DomainFacts, *, is_dedicated: bool, tag: str | None = None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return a disk and its volume as plain data. Values that a conversion chooses by default are left out.

    A disk without a value gets the one that QEMU uses then, so that the guest sees no difference.

    :arg volume: ``None`` for an empty drive.
    :arg is_dedicated: whether the disk has a thread of its own.
    :arg tag: the tag of the disk, which the domain itself lacks.
    """
    plain_volume = None if volume is None else {"name": found.name, **volume.source}
    disk = _describe_device(found, _source_of(plain_volume))
    disk.update({"dedicated_io_thread": True} if is_dedicated else {}, **({} if tag is None else {"tag": tag}))
    for option, accepted, fallback in _DEFAULTS:
        # A shareable disk has one mode of the cache only.
        if getattr(_convert(disk, plain_volume, volume, facts, found), option) == getattr(found, option) or (
            option == "cache" and found.shareable
        ):
            continue
        value = getattr(found, option) or (None if found.device == "cdrom" else fallback)
        disk.update({option: value} if value in accepted else {})
    if plain_volume is not None:
        discards = found.discard == "unmap"
        choices: list[dict[str, Any]] = [plain_volume, {**plain_volume, "thick": not discards}]
        for choice in choices:
            if (_convert(disk, choice, volume, facts, found).discard == "unmap") == discards:
                return disk, choice
    return disk, plain_volume


def _source_of(plain_volume: Mapping[str, Any] | None) -> object:
    return None if plain_volume is None else _read_volume(plain_volume).source


def _read_volume(plain_volume: Mapping[str, Any]) -> VolumeSpec:
    found: VolumeSpec = read_volume_spec(Problems(), "", plain_volume)
    return found


def _describe_device(found: VolumeDisk, source: object) -> dict[str, Any]:
    """Return the options that follow from the device alone."""
    device: dict[str, Any] = {"bus": found.bus}
    if found.read_only and found.device != "cdrom" and not isinstance(source, DownwardMetrics):
        device["read_only"] = True
    if found.reservation is not None:
        device["reservation"] = True
    if found.tray == "open":
        device["tray"] = found.tray
    options = {
        "serial": found.serial,
        "boot_order": found.boot_order,
        "shareable": found.shareable or None,
        "block_size": _describe_block_size(found),
    }
    return {"name": found.name, found.device: device, **{name: one for name, one in options.items() if one is not None}}


def _describe_block_size(found: VolumeDisk) -> dict[str, Any] | None:
    granularity = found.discard_granularity
    sizes = (found.logical_block_size, found.physical_block_size)
    if (*sizes, granularity) == (None, None, None):
        return None
    logical = sizes[0] or _BLOCK
    custom = {"logical": logical, "physical": sizes[1] or logical}
    return {"custom": custom if granularity is None else {**custom, "discard_granularity": granularity}}


def _convert(
    disk: Mapping[str, Any],
    plain_volume: Mapping[str, Any] | None,
    volume: FoundVolume | None,
    facts: DomainFacts,
    found: VolumeDisk,
) -> VolumeDisk:
    """Return the device for plain data. Its target and its thread are of no interest here."""
    spec = read_disk_spec(Problems(), "", disk)
    source = None if plain_volume is None else _read_volume(plain_volume)
    connected = ConnectedDisk("", spec, source, found.bus)
    context = DiskContext(facts, {found.name: found.target})
    return convert_disk(Problems(), connected, None if volume is None else volume.facts, context)


__all__ = ["FoundVolume", "describe_disk"]
