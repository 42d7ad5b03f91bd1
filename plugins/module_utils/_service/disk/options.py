# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The desired disks of a VM: the options, checked one by one, before any access to the catalog or a host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..._core.arguments import ArgumentSpec
from ..._core.errors import InvalidInput
from ..._core.records import dataclass
from ..._core.units import read_size
from ..._image.datablock import LARGEST_MB
from ..._model.names import check_domain, check_host, check_name
from ..catalog import CATALOG_OPTIONS

#: Buses of an attached disk. A running domain accepts a disk on the first two.
BUSES = ("virtio", "scsi", "sata")

#: Upper bound of the number of a disk. The name of a disk's file has at most as many digits.
LARGEST_DISK_ID = 999_999_999

ATTACH_OPTION: Mapping[str, Any] = {
    "type": "dict",
    "options": {
        "target": {"type": "str"},
        "bus": {"type": "str", "choices": list(BUSES)},
        "read_only": {"type": "bool"},
        "shareable": {"type": "bool"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    },
}

#: Options of one disk, without its state.
ONE_DISK: Mapping[str, Mapping[str, Any]] = {
    "disk": {"type": "int"},
    "image": {"type": "str"},
    "size": {"type": "str"},
    "format": {"type": "str", "choices": ["raw", "qcow2"]},
    "fs": {"type": "str"},
    "clone": {"type": "str", "choices": ["linked", "full"]},
    "force": {"type": "bool"},
    "attach": ATTACH_OPTION,
}

STATE: Mapping[str, Any] = {"type": "str", "choices": ["present", "absent"], "default": "present"}

#: Options of one VM, which can have the options of one disk instead of a list.
VM_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "vm": {"type": "str"},
    "domain": {"type": "str"},
    "host": {"type": "str"},
    "datastore": {"type": "str"},
    "disks": {"type": "list", "elements": "dict", "options": {**ONE_DISK, "state": STATE}},
    "exclusive": {"type": "bool", "default": False},
    **ONE_DISK,
    "state": STATE,
}

VM_DISK_SPEC = ArgumentSpec(
    {**VM_OPTIONS, "vms": {"type": "list", "elements": "dict", "options": VM_OPTIONS}},
    required_one_of=[["vm", "vms"]],
    mutually_exclusive=[["vms", name] for name in VM_OPTIONS if "default" not in VM_OPTIONS[name]],
    repeated=["disks", "vms"],
).merge(CATALOG_OPTIONS)


@dataclass(frozen=True)
class AttachSpec:
    """The desired device of a disk in the VM's domain. ``None`` is a value that isn't given.

    :arg absent: whether the domain must not have the disk.
    """

    target: str | None = None
    bus: str | None = None
    read_only: bool | None = None
    shareable: bool | None = None
    absent: bool = False


@dataclass(frozen=True)
class DiskSpec:
    """The desired state of a disk. ``None`` is a value that isn't given.

    :arg disk_id: the number in the name of the disk's file.
    :arg size: the virtual size in MiB.
    :arg fs: the file system of a new empty disk; ``swap`` for swap space.
    :arg linked: whether a new disk is an overlay of its image.
    :arg force: whether the disk may shrink.
    """

    disk_id: int
    image: str | None = None
    size: int | None = None
    format: str | None = None
    fs: str | None = None
    linked: bool | None = None
    force: bool = False
    attach: AttachSpec | None = None
    absent: bool = False


@dataclass(frozen=True)
class VmSpec:
    """The desired state of a VM's disks. ``None`` is a value that isn't given.

    :arg reference: name or id of the VM.
    :arg exclusive: whether disks that aren't in the list are removed.
    :arg absent: whether the VM, and with it all its disks, is removed.
    """

    reference: str
    domain: str | None = None
    host: str | None = None
    datastore: str | None = None
    disks: tuple[DiskSpec, ...] = ()
    exclusive: bool = False
    absent: bool = False


def parse_vm(options: Mapping[str, Any]) -> VmSpec:
    """Return the desired state that the options of one VM describe.

    :raises InvalidInput: a value is invalid, or two values exclude each other.
    """
    reference = options["vm"]
    if reference is None:
        raise InvalidInput("vm", None, "the name or the id of a VM is expected")
    if not reference.isdigit():
        check_name("vm", reference)
    disks = _read_disks(options)
    absent = options["state"] == "absent" and not disks
    if options["exclusive"] and options["disks"] is None:
        raise InvalidInput("exclusive", True, "it goes with disks, the list of all disks that the VM keeps")
    return VmSpec(
        reference=reference,
        domain=None if options["domain"] is None else check_domain("domain", options["domain"]),
        host=None if options["host"] is None else check_host("host", options["host"]),
        datastore=options["datastore"],
        disks=disks,
        exclusive=options["exclusive"],
        absent=absent,
    )


def _read_disks(options: Mapping[str, Any]) -> tuple[DiskSpec, ...]:
    given = [name for name in ONE_DISK if options[name] is not None]
    if options["disks"] is None:
        if not given:
            return ()
        if options["state"] == "absent" and options["disk"] is None:
            accepted = "a single disk is removed by its number, which is given as disk; without any option of a disk, "
            raise InvalidInput(given[0], options[given[0]], accepted + "state=absent removes the whole VM")
        return (_read_disk(0, options),)
    if given:
        raise InvalidInput(given[0], options[given[0]], "with disks, it is given for each disk of that list")
    if options["state"] == "absent":
        accepted = "with disks, each disk of that list has its own state; without disks, the whole VM is removed"
        raise InvalidInput("state", "absent", accepted)
    disks = tuple(_read_disk(number, one) for number, one in enumerate(options["disks"]))
    _check_numbers(disks)
    return disks


def _check_numbers(disks: Sequence[DiskSpec]) -> None:
    known: set[int] = set()
    for disk in disks:
        if disk.disk_id in known:
            accepted = "each disk of the list needs another number; the default is its position, beginning at 0"
            raise InvalidInput("disk", disk.disk_id, accepted)
        known.add(disk.disk_id)


def _read_disk(position: int, options: Mapping[str, Any]) -> DiskSpec:
    """Return one disk. Its number is its position in the list by default."""
    disk_id = position if options["disk"] is None else options["disk"]
    if not 0 <= disk_id <= LARGEST_DISK_ID:
        raise InvalidInput("disk", disk_id, f"a number from 0 to {LARGEST_DISK_ID} is expected")
    if options["state"] == "absent":
        return DiskSpec(disk_id, absent=True)
    size = None if options["size"] is None else read_size("size", options["size"])
    if size is not None and not 1 <= size <= LARGEST_MB:
        raise InvalidInput("size", options["size"], f"1 MiB to {LARGEST_MB} MiB are expected")
    _check_kind(options)
    return DiskSpec(
        disk_id=disk_id,
        image=options["image"],
        size=size,
        format=options["format"],
        fs=options["fs"],
        linked=None if options["clone"] is None else options["clone"] == "linked",
        force=bool(options["force"]),
        attach=_read_attach(options["attach"]),
    )


def _check_kind(options: Mapping[str, Any]) -> None:
    """Refuse an option that doesn't go with a disk of an image, or with an empty disk.

    :raises InvalidInput: naming the option.
    """
    if options["image"] is not None:
        for name in ("format", "fs"):
            if options[name] is not None:
                raise InvalidInput(name, options[name], "a disk of an image has the data and the format of the image")
    elif options["clone"] is not None:
        raise InvalidInput("clone", options["clone"], "it goes with image")
    if options["fs"] == "swap" and options["format"] == "qcow2":
        raise InvalidInput("format", "qcow2", "swap space is raw")


def _read_attach(given: Mapping[str, Any] | None) -> AttachSpec | None:
    if given is None:
        return None
    absent = given["state"] == "absent"
    values = {name: given[name] for name in ("target", "bus", "read_only", "shareable") if given[name] is not None}
    if absent and values:
        name = next(iter(values))
        raise InvalidInput(f"attach.{name}", values[name], "a disk with attach.state=absent has no device")
    return AttachSpec(**values, absent=absent)


__all__ = [
    "BUSES",
    "VM_DISK_SPEC",
    "VM_OPTIONS",
    "AttachSpec",
    "DiskSpec",
    "VmSpec",
    "parse_vm",
]
