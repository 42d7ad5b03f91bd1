# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A VM in a document of a front-end (spec: storage-driver, "TM Drivers Structure").

The document comes from standard input, or in the answer to a call.
"""

from __future__ import annotations

from ..._core.errors import InvalidInput
from ..._core.records import TYPE_CHECKING
from ..._model.vm import BackupConfig, Vm, VmDisk, VmSnapshot
from .elements import layout, parse_document

if TYPE_CHECKING:
    from typing import IO

    from .elements import Element

#: The elements that a transfer action reads.
VM = layout(
    *("ID", "NAME", "STATE", "LCM_STATE", "DEPLOY_ID"),
    *(f"TEMPLATE/DISK/{name}" for name in ("DISK_ID", "TYPE", "SIZE", "ORIGINAL_SIZE", "FORMAT", "DRIVER")),
    *(f"TEMPLATE/DISK/{name}" for name in ("IMAGE_ID", "DATASTORE_ID", "TM_MAD", "SOURCE", "CLONE", "SAVE")),
    *(f"TEMPLATE/DISK/{name}" for name in ("TARGET", "FS", "SPARSE", "QCOW2_STANDALONE", "READONLY")),
    "TEMPLATE/DISK/RECOVERY_SNAPSHOT_FREQ",
    *(f"SNAPSHOTS/{name}" for name in ("DISK_ID", "SNAPSHOT/ID", "SNAPSHOT/ACTIVE")),
    *(f"HISTORY_RECORDS/HISTORY/{name}" for name in ("HOSTNAME", "DS_ID", "TM_MAD", "VM_MAD", "ACTION")),
    *(f"BACKUPS/BACKUP_CONFIG/{name}" for name in ("FS_FREEZE", "MODE", "LAST_DATASTORE_ID", "LAST_INCREMENT_ID")),
)


def read_vm(stdin: IO[bytes]) -> Vm:
    """Read the VM that an action gets on standard input.

    :raises InvalidInput: the document is too long or isn't XML, or an element is missing or can't be used.
    """
    from .document import STANDARD_INPUT, read_xml

    return parse_vm(read_xml(stdin), STANDARD_INPUT)


def parse_vm(xml: bytes, origin: str) -> Vm:
    """Return the VM of a document with the root element VM.

    :arg origin: the place where the document comes from, for messages.
    :raises InvalidInput: the document isn't XML, or an element is missing or can't be used.
    """
    vm = parse_document(xml, "VM", VM, origin)
    history = "HISTORY_RECORDS/HISTORY"
    records = vm.all(history)
    if not records:
        raise InvalidInput(vm.path_of(history), "", "the document must have this element")
    newest = records[-1]
    snapshots = _group_snapshots(vm)
    disks = [_disk_of(disk, snapshots) for disk in vm.all("TEMPLATE/DISK")]
    _require_distinct(vm.path_of("TEMPLATE/DISK/DISK_ID"), [disk.disk_id for disk in disks])
    return Vm(
        id=vm.read_number("ID"),
        name=vm.require("NAME"),
        state=vm.read_number("STATE"),
        lcm_state=vm.read_number("LCM_STATE"),
        deploy_id=vm.get("DEPLOY_ID") or None,
        host=newest.require("HOSTNAME"),
        system_datastore_id=newest.read_number("DS_ID"),
        tm_mad=newest.require("TM_MAD"),
        vm_mad=newest.require("VM_MAD"),
        previous_datastore_id=records[-2].read_number("DS_ID") if len(records) > 1 else None,
        last_action=newest.read_number("ACTION"),
        disks=tuple(sorted(disks, key=lambda disk: disk.disk_id)),
        backup=BackupConfig(
            fs_freeze=vm.get("BACKUPS/BACKUP_CONFIG/FS_FREEZE") or None,
            mode=vm.get("BACKUPS/BACKUP_CONFIG/MODE") or None,
            last_datastore_id=vm.find_number("BACKUPS/BACKUP_CONFIG/LAST_DATASTORE_ID"),
            last_increment_id=vm.find_number("BACKUPS/BACKUP_CONFIG/LAST_INCREMENT_ID"),
        ),
    )


def _disk_of(disk: Element, snapshots: dict[int, tuple[VmSnapshot, ...]]) -> VmDisk:
    disk_id = disk.read_number("DISK_ID")
    disk.name += f"[DISK_ID={disk_id}]"
    return VmDisk(
        disk_id=disk_id,
        type=disk.require("TYPE").strip().lower(),
        size_mb=disk.read_number("SIZE"),
        # A front-end sets both to the format that the datastore driver returned. DRIVER is the older name.
        format=(disk.get("FORMAT").strip() or disk.get("DRIVER").strip()).lower() or None,
        image_id=disk.find_number("IMAGE_ID"),
        datastore_id=disk.find_number("DATASTORE_ID"),
        tm_mad=disk.get("TM_MAD") or None,
        source=disk.get("SOURCE") or None,
        original_size_mb=disk.find_number("ORIGINAL_SIZE"),
        is_persistent=disk.is_text("CLONE", "no"),
        is_saved=disk.is_text("SAVE", "yes"),
        target=disk.get("TARGET") or None,
        fs=disk.get("FS") or None,
        is_sparse=not disk.is_text("SPARSE", "no"),
        is_read_only=disk.is_text("READONLY", "yes"),
        is_standalone=disk.is_text("QCOW2_STANDALONE", "yes"),
        recovery_snapshot_freq=disk.find_number("RECOVERY_SNAPSHOT_FREQ") or None,
        snapshots=snapshots.get(disk_id, ()),
    )


def _group_snapshots(vm: Element) -> dict[int, tuple[VmSnapshot, ...]]:
    """Return the snapshots of each disk, by ascending ids."""
    found = {}
    groups = vm.all("SNAPSHOTS")
    for group in groups:
        disk_id = group.read_number("DISK_ID")
        group.name += f"[DISK_ID={disk_id}]"
        snapshots = [VmSnapshot(one.read_number("ID"), one.is_text("ACTIVE", "yes")) for one in group.all("SNAPSHOT")]
        _require_distinct(group.path_of("SNAPSHOT/ID"), [snapshot.id for snapshot in snapshots])
        found[disk_id] = tuple(sorted(snapshots, key=lambda snapshot: snapshot.id))
    _require_distinct(vm.path_of("SNAPSHOTS/DISK_ID"), [group.read_number("DISK_ID") for group in groups])
    return found


def _require_distinct(path: str, numbers: list[int]) -> None:
    seen = set()
    for number in numbers:
        if number in seen:
            raise InvalidInput(path, str(number), "an id that no other has is expected")
        seen.add(number)


__all__ = ["parse_vm", "read_vm"]
