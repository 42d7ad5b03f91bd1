# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The actions of a plan about disks of VMs.

New data is created before the transaction that records it, and old data is removed afterwards. A removed disk keeps its
row, in the state ``leaving``, until its data is gone: a killed run never loses the place of the data of a persistent
image.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any

from ..._catalog.catalog import Catalog, open_catalog
from ..._catalog.images import IMAGES
from ..._catalog.vms import DISKS, VMS
from ..._core import records
from ..._core.errors import Conflict, VmstoreError
from ..._core.plain import to_plain
from ..._core.plan import Action, Plan, Preparation, nothing
from ..._libvirt.devices.disk import Disk
from ..._model.declared_vm import LEAVING, NEW, READY, DeclaredDisk, DeclaredVm
from ..._model.image import Image
from .known import KnownVms
from .transfers import Transfers

#: Columns that mean nothing to a user, or are the subject of an action.
_HIDDEN = ("vm_id", "disk_id", "image_id", "state", "linked")

#: Runs an operation on a host: see :func:`.world.ask_host`.
Ask = Callable[..., Any]


class DiskActions:
    """The actions of one plan.

    :arg preparations: the preparations of earlier plans of the same run, by their content.
    """

    def __init__(
        self,
        plan: Plan,
        catalog: Catalog,
        known: KnownVms,
        transfers: Transfers,
        preparations: dict[Hashable, Preparation],
        ask: Ask,
    ) -> None:
        self._plan = plan
        self._catalog = catalog
        self._known = known
        self._transfers = transfers
        self._preparations = preparations
        self._ask = ask
        #: The disks that could not be removed, by VM.
        self._kept: dict[int, list[int]] = {}

    # VMs

    def create_vm(self, vm: DeclaredVm) -> None:
        record = functools.partial(VMS.update, self._catalog, records.replace(vm, state=READY))
        self._add("create VM", vm.name, None, self._vm_state(vm), record)

    def update_vm(self, before: DeclaredVm, after: DeclaredVm) -> None:
        record = functools.partial(VMS.update, self._catalog, after)
        self._add("update VM", after.name, self._vm_state(before), self._vm_state(after), record)

    def move_vm(self, before: DeclaredVm, after: DeclaredVm) -> None:
        """Add the action that moves the directory of a VM. Its undo moves the directory back."""

        def prepare() -> Callable[[], object]:
            self._transfers.move(before, after)
            return functools.partial(self._transfers.move, after, before)

        self._add(
            "move VM",
            after.name,
            self._vm_state(before),
            self._vm_state(after),
            functools.partial(VMS.update, self._catalog, after),
            prepare=self._once(("move", before, after), prepare),
        )

    def remove_vm(self, vm: DeclaredVm) -> None:
        """Add the action that removes a VM, after the actions that remove its disks."""

        def finish() -> str | None:
            kept = self._kept.get(vm.id)
            if kept:
                return f"the VM {vm.name!r} still has the disks {', '.join(map(str, kept))}"
            self._transfers.delete_vm(vm)
            self._write(lambda catalog: VMS.delete(catalog, vm.id))
            return None

        record = functools.partial(VMS.update, self._catalog, records.replace(vm, state=LEAVING))
        self._add("remove VM", vm.name, self._vm_state(vm), None, record, finish=finish)

    # Disks

    def create_disk(self, vm: DeclaredVm, disk: DeclaredDisk, name: str = "create disk") -> None:
        """Add the action that creates the data of a disk. Its undo removes the data."""

        def prepare() -> Callable[[], object]:
            self._transfers.create(vm, disk)
            return functools.partial(self._transfers.delete, vm, disk)

        def record() -> None:
            DISKS.update(self._catalog, records.replace(disk, state=READY))
            self._record_growth(disk)

        self._add(
            name,
            subject(vm, disk),
            None,
            self._disk_state(vm, disk),
            record,
            prepare=self._once(("create", self._known.place(vm), disk, self._known.image_of(disk)), prepare),
        )

    def grow_disk(
        self, vm: DeclaredVm, before: DeclaredDisk, after: DeclaredDisk, *, is_grown: bool, is_live: bool
    ) -> None:
        """Add the action that grows a disk. It has no undo, because data larger than its record does no harm.

        :arg is_grown: whether the disk has its size already.
        :arg is_live: whether libvirt grows the disk of a running domain.
        """

        def prepare() -> Callable[[], object]:
            if is_live:
                path = self._known.place(vm, after.disk_id).path
                self._ask(vm.host, "resize", vm.domain, path, after.size_mb << 20)
            else:
                self._transfers.resize(vm, after)
            return nothing

        def record() -> None:
            DISKS.update(self._catalog, after)
            self._record_growth(after)

        key = ("grow", self._known.place(vm), after.disk_id, after.size_mb)
        states = (self._disk_state(vm, before), self._disk_state(vm, after))
        prepared = () if is_grown else self._once(key, prepare)
        self._add("grow disk", subject(vm, after), *states, record, prepare=prepared)

    def shrink_disk(self, vm: DeclaredVm, before: DeclaredDisk, after: DeclaredDisk) -> None:
        """Add the action that cuts the end of a disk. Its undo grows the disk again, because the end held no data."""

        def prepare() -> Callable[[], object]:
            self._transfers.shrink(vm, after)
            return functools.partial(self._transfers.resize, vm, before)

        def record() -> None:
            DISKS.update(self._catalog, after)
            image = self._known.image_of(after)
            if after.persistent and image is not None:
                IMAGES.update(self._catalog, records.replace(image, size_mb=after.size_mb))

        key = ("shrink", self._known.place(vm), after.disk_id, after.size_mb)
        states = (self._disk_state(vm, before), self._disk_state(vm, after))
        self._add("shrink disk", subject(vm, after), *states, record, prepare=self._once(key, prepare))

    def remove_disk(self, vm: DeclaredVm, disk: DeclaredDisk, *, is_plugged: bool, is_back: bool) -> None:
        """Add the action that removes a disk. The data of a persistent image goes back to its datastore.

        :arg is_plugged: whether a domain has the disk.
        :arg is_back: whether the data went back in an earlier run.
        """
        transfer = self._transfers.give_back if disk.persistent and disk.state != NEW else self._transfers.delete

        def finish() -> None:
            try:
                if is_plugged:
                    self._unplug(vm, disk)
                if not is_back:
                    transfer(vm, disk)
                self._write(lambda catalog: DISKS.delete(catalog, vm.id, disk.disk_id))
            except VmstoreError:
                self._kept.setdefault(vm.id, []).append(disk.disk_id)
                raise

        record = functools.partial(DISKS.update, self._catalog, records.replace(disk, state=LEAVING))
        name = "return disk to its image" if disk.persistent else "remove disk"
        self._add(name, subject(vm, disk), self._disk_state(vm, disk), None, record, finish=finish)

    def _unplug(self, vm: DeclaredVm, disk: DeclaredDisk) -> None:
        """Take a disk from the domain before its data is removed.

        :raises Conflict: the running domain keeps the disk.
        """
        path = self._known.place(vm, disk.disk_id).path
        reasons = self._ask(vm.host, "detach", vm.domain, path).restart_reasons
        if reasons:
            raise Conflict(
                f"The {subject(vm, disk)} is not removed yet, because the domain {vm.domain!r} still has it "
                f"({'; '.join(reasons)}): shut the domain down and run it again."
            )

    # Attachments

    def attach(
        self,
        vm: DeclaredVm,
        before: DeclaredDisk | None,
        after: DeclaredDisk,
        result: dict[str, Any],
        *,
        is_new: bool = True,
    ) -> None:
        """Add the action that plugs a disk into the domain.

        :arg before: ``None`` for a disk of the same plan, which is recorded with its device.
        :arg result: gets the reasons for a restart.
        :arg is_new: whether the domain lacks the disk.
        """
        device = self.device(vm, after)

        def finish() -> None:
            _report(result, self._ask(vm.host, "attach", vm.domain, device).restart_reasons)

        self._add(
            "attach disk" if is_new else "change attachment of disk",
            subject(vm, after),
            None if before is None or is_new else _device_state(vm, before),
            _device_state(vm, after),
            nothing if before in (None, after) else functools.partial(DISKS.update, self._catalog, after),
            finish=finish,
        )

    def detach(self, vm: DeclaredVm, before: DeclaredDisk, after: DeclaredDisk, result: dict[str, Any]) -> None:
        """Add the action that unplugs a disk from the domain."""

        def finish() -> None:
            path = self._known.place(vm, after.disk_id).path
            _report(result, self._ask(vm.host, "detach", vm.domain, path).restart_reasons)

        record = nothing if before == after else functools.partial(DISKS.update, self._catalog, after)
        self._add("detach disk", subject(vm, after), _device_state(vm, before), None, record, finish=finish)

    def leave_host(self, before: DeclaredVm, disk: DeclaredDisk) -> None:
        """Add the action that takes a disk out of the domain of the host that the VM leaves."""

        def finish() -> None:
            path = self._known.place(before, disk.disk_id).path
            self._ask(before.host, "detach", before.domain, path)

        self._add("detach disk", subject(before, disk), _device_state(before, disk), None, nothing, finish=finish)

    def device(self, vm: DeclaredVm, disk: DeclaredDisk) -> Disk:
        """Return the device of an attached disk."""
        return Disk(
            source=self._known.place(vm, disk.disk_id).path,
            format=disk.format,
            target=disk.target,
            bus=disk.bus or "",
            device="cdrom" if disk.type == "cdrom" else "disk",
            read_only=disk.read_only,
            shareable=disk.shareable,
        )

    def _add(
        self,
        name: str,
        subject: str,
        before: object,
        after: object,
        record: Callable[[], object],
        *,
        prepare: tuple[Preparation, ...] = (),
        finish: Callable[[], str | None] = nothing,
    ) -> None:
        self._plan.actions.append(Action(name, subject, before, after, record, prepare=prepare, finish=finish))

    def _once(self, key: Hashable, prepare: Preparation) -> tuple[Preparation, ...]:
        """Return the preparation of this content. A plan that is made again has the same preparations."""
        return (self._preparations.setdefault(key, prepare),)

    def _record_growth(self, disk: DeclaredDisk) -> None:
        """Record the size of a persistent image that grew as a disk."""
        image = self._known.image_of(disk)
        if disk.persistent and image is not None and image.size_mb < disk.size_mb:
            grown: Image = records.replace(image, size_mb=disk.size_mb)
            IMAGES.update(self._catalog, grown)

    def _write(self, change: Callable[[Catalog], object]) -> None:
        """Change the catalog after the transaction of the plan."""
        with open_catalog(self._known.path, create=False) as catalog, catalog.transaction():
            change(catalog)

    def _vm_state(self, vm: DeclaredVm) -> dict[str, object]:
        return {"host": vm.host, "datastore": self._known.datastore_of(vm).name, "domain": vm.domain}

    def _disk_state(self, vm: DeclaredVm, disk: DeclaredDisk) -> dict[str, object]:
        image = self._known.image_of(disk)
        columns = {name: value for name, value in to_plain(disk).items() if name not in _HIDDEN}
        return {
            "path": str(self._known.place(vm, disk.disk_id)),
            "image": image and image.name,
            "clone": disk.clone,
            **columns,
        }


def subject(vm: DeclaredVm, disk: DeclaredDisk) -> str:
    """Return the name of a disk for messages."""
    return f"disk {disk.disk_id} of VM {vm.name!r}"


def _device_state(vm: DeclaredVm, disk: DeclaredDisk) -> dict[str, object]:
    return {
        "host": vm.host,
        "domain": vm.domain,
        "target": disk.target,
        "bus": disk.bus,
        "read_only": disk.read_only,
        "shareable": disk.shareable,
    }


def _report(result: dict[str, Any], reasons: tuple[str, ...]) -> None:
    result["restart_required"], result["restart_reasons"] = bool(reasons), list(reasons)


__all__ = ["Ask", "DiskActions", "subject"]
