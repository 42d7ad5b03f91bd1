# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The reading of disks and filesystems from plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..._core.problems import Problems
from ..._model.idmap import IdMap
from ..._model.volume_disks import (
    CACHES,
    DISK_BUSES,
    ERROR_POLICIES,
    FILESYSTEM_CACHES,
    IO_MODES,
    SANDBOXES,
    TRAYS,
    BlockSize,
    CdromDevice,
    DiskDevice,
    DiskSpec,
    FilesystemSpec,
    LunDevice,
)
from .readers import (
    INVALID,
    Shape,
    choice,
    flag,
    items,
    optional_text,
    present,
    quantity,
    read_fields,
    record,
    text,
    whole_number,
)

_BUS = choice(*DISK_BUSES, rule="bus")

#: Another spelling of ``read_only``: KubeVirt's API has ``readonly``, its guide has ``readOnly``.
READ_ONLY = {"read_only": ["readonly"]}

#: The devices as which a guest gets a volume, by their keys.
_DEVICES = {
    "disk": record(
        Shape({"bus": _BUS, "read_only": flag, "pci_address": optional_text}, spelled=READ_ONLY), DiskDevice
    ),
    "lun": record(Shape({"bus": _BUS, "read_only": flag, "reservation": flag}, spelled=READ_ONLY), LunDevice),
    "cdrom": record(
        Shape({"bus": _BUS, "read_only": flag, "tray": choice(*TRAYS, rule="tray")}, spelled=READ_ONLY), CdromDevice
    ),
}

_CUSTOM_BLOCK_SIZE = record(
    Shape(
        {"logical": quantity, "physical": quantity, "discard_granularity": quantity}, required=("logical", "physical")
    ),
    BlockSize,
)
_BLOCK_SIZE = Shape({"custom": _CUSTOM_BLOCK_SIZE, "match_volume": present})


def _block_size(problems: Problems, path: str, value: object) -> Any:
    """Return the fields of a disk for ``block_size``."""
    found = read_fields(problems, path, value, _BLOCK_SIZE)
    if found is INVALID:
        return INVALID
    if "custom" in found and found.get("match_volume"):
        problems.add("block_size", path, "custom and match_volume", "one of the two is expected")
        return INVALID
    return {"block_size": found.get("custom"), "match_volume": found.get("match_volume", False)}


_DISK = Shape(
    {
        "name": text,
        **_DEVICES,
        "serial": optional_text,
        "boot_order": whole_number,
        "cache": choice(*CACHES, rule="cache"),
        "io": choice(*IO_MODES, rule="io"),
        # KubeVirt refuses an empty policy.
        "error_policy": choice(*ERROR_POLICIES, rule="error_policy", can_be_empty=False),
        "shareable": flag,
        "dedicated_io_thread": flag,
        "block_size": _block_size,
        "tag": optional_text,
    },
    required=("name",),
    spelled={"dedicated_io_thread": ["dedicatedIOThread"]},
    refused={
        "changedBlockTracking": "it serves the backup of a KubeVirt cluster only, so it must be left out",
        "changed_block_tracking": "it serves the backup of a KubeVirt cluster only, so it must be left out",
        "floppy": "KubeVirt has removed it. disk, lun or cdrom is expected",
    },
)


def read_disk_spec(problems: Problems, path: str, value: object) -> Any:
    """Return the :class:`DiskSpec` for plain data."""
    # A null device is a device with default values: the guide has such disks.
    found = read_fields(problems, path, value, _DISK)
    if found is INVALID:
        return INVALID
    devices = {kind: found.pop(kind) for kind in _DEVICES if kind in found}
    if len(devices) > 1:
        problems.add("device", path, " and ".join(devices), "one of disk, lun and cdrom is expected")
    device = next(iter(devices.values()), _default_device(value))
    return DiskSpec(device=device, **{**found, **found.pop("block_size", {})})


def _default_device(value: object) -> DiskDevice | LunDevice | CdromDevice:
    """Return the device for a disk without one. An invalid device is replaced by one of the same kind, so that its
    problem causes no others.
    """
    if isinstance(value, Mapping):
        if value.get("lun") is not None:
            return LunDevice()
        if value.get("cdrom") is not None:
            return CdromDevice()
    return DiskDevice()


def _id_map(start: int = 0, target: int = 0, count: int = 65536) -> IdMap:
    return IdMap(start, target, count)


_ID_MAPS = items(
    record(Shape({"start": whole_number, "target": whole_number, "count": whole_number}, required=("target",)), _id_map)
)

#: The options of ``virtiofs``, which is empty in KubeVirt.
_VIRTIOFS = Shape(
    {
        "read_only": flag,
        "cache": choice(*FILESYSTEM_CACHES, rule="filesystem_cache"),
        "queue": whole_number,
        "xattr": flag,
        "sandbox": choice(*SANDBOXES, rule="sandbox"),
        "thread_pool": whole_number,
        "uid_map": _ID_MAPS,
        "gid_map": _ID_MAPS,
        "allow_unmapped": flag,
    },
    spelled=READ_ONLY,
)


def _virtiofs(problems: Problems, path: str, value: object) -> Any:
    return read_fields(problems, path, value, _VIRTIOFS)


_FILESYSTEM = Shape({"name": text, "virtiofs": _virtiofs}, required=("name", "virtiofs"))


def read_filesystem_spec(problems: Problems, path: str, value: object) -> Any:
    """Return the :class:`FilesystemSpec` for plain data."""
    found = read_fields(problems, path, value, _FILESYSTEM)
    if found is INVALID:
        return INVALID
    options = {name: one for name, one in found["virtiofs"].items() if one is not None}
    return FilesystemSpec(name=found["name"], **options)


__all__ = ["READ_ONLY", "read_disk_spec", "read_filesystem_spec"]
