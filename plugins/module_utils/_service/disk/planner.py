# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The planning of the disks of one VM after the other."""

from __future__ import annotations

from typing import Any

from ..._core import records
from ..._core.errors import Conflict, InvalidInput, NotFound
from ..._image.vm_disk_data import DiskFacts
from ..._model.declared_vm import LEAVING, NEW, DeclaredDisk, DeclaredVm
from .actions import DiskActions, subject
from .devices import DevicePlanner
from .known import KnownVms
from .moving import require_movable
from .new_disks import NewDisks, check_recorded, data_size
from .options import DiskSpec
from .placing import PlacedVm
from .transfers import Transfers
from .world import World


class DiskPlanner:
    """Plan the disks of VMs, whose hosts were looked at."""

    def __init__(
        self,
        known: KnownVms,
        world: World,
        transfers: Transfers,
        new: NewDisks,
        devices: DevicePlanner,
        actions: DiskActions,
    ) -> None:
        self._known = known
        self._world = world
        self._transfers = transfers
        self._new = new
        self._devices = devices
        self._actions = actions
        #: The rows that need a reservation in the catalog before their data is created.
        self.reserved_vms: list[DeclaredVm] = []
        self.reserved_disks: list[DeclaredDisk] = []

    def plan(self, placed: PlacedVm) -> dict[str, Any] | None:
        """Return the VM after the plan, for the result; ``None`` for a VM that is to be absent.

        :raises VmstoreError: the desired state can't be reached.
        """
        vm = placed.after
        if vm is None:
            if placed.spec.absent and placed.before is not None:
                self._remove_vm(placed, placed.before)
            return None
        self._plan_place(placed, vm)
        results = {}
        for spec in placed.spec.disks:
            result = self._plan_disk(placed, vm, spec)
            if result is not None:
                results[spec.disk_id] = result
        for number, disk in self._known.disks(vm.id).items():
            if number in results or any(spec.disk_id == number for spec in placed.spec.disks):
                continue
            if placed.spec.exclusive:
                self._remove_disk(placed, vm, disk)
            elif disk.state != LEAVING:
                results[number] = self._keep(placed, vm, disk)
        return {
            "id": vm.id,
            "name": vm.name,
            "domain": vm.domain,
            "host": vm.host,
            "datastore": self._known.datastore_of(vm).name,
            "directory": self._known.place(vm).path,
            "disks": [results[number] for number in sorted(results)],
        }

    # VMs

    def _plan_place(self, placed: PlacedVm, vm: DeclaredVm) -> None:
        before = placed.before
        if before is None or before.state == NEW:
            if before is None:
                self.reserved_vms.append(vm)
            self._actions.create_vm(vm)
        elif placed.moves:
            self._move(before, vm)
        elif before != vm:
            self._check_domain_change(before)
            self._actions.update_vm(before, vm)

    def _check_domain_change(self, vm: DeclaredVm) -> None:
        attached = [str(disk.disk_id) for disk in self._known.disks(vm.id).values() if disk.target is not None]
        if attached:
            raise Conflict(
                f"domain: the VM {vm.name!r} can't get another domain while {vm.domain!r} has its disks "
                f"{', '.join(attached)}: give these attach with state=absent first."
            )

    def _move(self, before: DeclaredVm, after: DeclaredVm) -> None:
        """Plan a move. The errors are those of :func:`require_movable`."""
        if before.domain != after.domain:
            self._check_domain_change(before)
        require_movable(self._known, self._world, self._transfers, before, after)
        for disk in self._known.disks(after.id).values():
            if disk.target is not None:
                self._actions.leave_host(before, disk)
        self._actions.move_vm(before, after)

    def _remove_vm(self, placed: PlacedVm, vm: DeclaredVm) -> None:
        place = self._known.place(vm)
        if self._world.is_running(place):
            raise Conflict(
                f"The VM {vm.name!r} can't be removed while it runs on the host {vm.host!r}: shut it down first."
            )
        for disk in self._known.disks(vm.id).values():
            self._remove_disk(placed, vm, disk)
        self._actions.remove_vm(vm)

    # Disks

    def _plan_disk(self, placed: PlacedVm, vm: DeclaredVm, spec: DiskSpec) -> dict[str, Any] | None:
        found = self._known.disks(vm.id).get(spec.disk_id)
        if spec.absent:
            if found is not None:
                self._remove_disk(placed, vm, found)
            return None
        if found is None or found.state == NEW:
            return self._create(vm, spec, found)
        if found.state == LEAVING:
            raise Conflict(
                f"disk: the {subject(vm, found)} is being removed: give it state=absent once more, and then create it "
                "again."
            )
        check_recorded(self._known, found, spec)
        return self._update(placed, vm, spec, found)

    def _create(self, vm: DeclaredVm, spec: DiskSpec, reserved: DeclaredDisk | None) -> dict[str, Any]:
        place = self._known.place(vm)
        if reserved is None and self._world.has_file(place, spec.disk_id):
            raise Conflict(
                f"disk: {self._known.place(vm, spec.disk_id)} exists and is no disk of the VM {vm.name!r} in the "
                f"catalog {self._known.path}: move it away, or choose another number."
            )
        self._world.require_datastore(place)
        disk = self._devices.with_device(vm, self._new.row(vm, spec), spec.attach)
        if reserved is None:
            self.reserved_disks.append(disk)
        self._known.put_disk(disk)
        self._take_room(vm, disk)
        self._actions.create_disk(vm, disk)
        result = self._result(vm, disk)
        if disk.target is not None:
            self._actions.attach(vm, None, disk, result)
        return result

    def _take_room(self, vm: DeclaredVm, disk: DeclaredDisk) -> None:
        """Refuse a copy for which the host has no room."""
        image, place = self._known.image_of(disk), self._known.place(vm)
        is_link = disk.persistent and self._transfers.info(image, self._known.datastore_of(vm)).is_shared
        if image is not None and not disk.linked and not is_link:
            self._world.take_room(place, data_size(image, place), f"The {subject(vm, disk)}")

    def _update(self, placed: PlacedVm, vm: DeclaredVm, spec: DiskSpec, found: DeclaredDisk) -> dict[str, Any]:
        facts = self._look(placed, found)
        current = found if facts is None else records.replace(found, size_mb=max(found.size_mb, facts.size >> 20))
        size = current.size_mb if spec.size is None else spec.size
        is_smaller = size < current.size_mb
        if is_smaller and not spec.force:
            accepted = f"the {subject(vm, current)} has {current.size_mb} MiB and doesn't shrink without force"
            raise InvalidInput("size", f"{size}M", accepted)
        wanted = self._devices.with_device(vm, records.replace(current, size_mb=size), spec.attach)
        self._known.put_disk(wanted)
        if facts is None:
            self._recreate(vm, wanted)
            found = wanted
        elif is_smaller or (spec.size is not None and size > found.size_mb):
            sized = records.replace(found, size_mb=size)
            (self._shrink if is_smaller else self._grow)(placed, vm, found, sized, facts)
            found = sized
        result = self._result(vm, wanted, facts)
        if spec.attach is not None or placed.moves:
            self._plan_device(placed, vm, found, records.replace(wanted, size_mb=found.size_mb), facts, result)
        return result

    def _plan_device(
        self,
        placed: PlacedVm,
        vm: DeclaredVm,
        found: DeclaredDisk,
        wanted: DeclaredDisk,
        facts: DiskFacts | None,
        result: dict[str, Any],
    ) -> None:
        if wanted.target is None:
            if found.target is not None or self._devices.has_disk(vm, wanted, facts):
                self._actions.detach(vm, found, wanted, result)
        elif placed.moves or not self._devices.is_attached(vm, wanted, facts, result) or found != wanted:
            is_new = not self._devices.has_disk(vm, wanted, facts)
            self._actions.attach(vm, found, wanted, result, is_new=is_new)

    def _grow(
        self, placed: PlacedVm, vm: DeclaredVm, found: DeclaredDisk, sized: DeclaredDisk, facts: DiskFacts
    ) -> None:
        """Plan to grow a disk. libvirt grows the disk of a running domain. A disk that has grown already is recorded.

        :raises Conflict: another program uses the disk, or the VM moves.
        """
        is_grown = facts.size >> 20 >= sized.size_mb
        is_live = not is_grown and not placed.moves and self._devices.runs_with(vm, sized, facts)
        if not is_grown and not is_live and self._world.is_running(self._known.place(placed.before or vm)):
            raise Conflict(
                f"size: the {subject(vm, sized)} can't grow while a program other than its domain uses the disks of "
                "the VM: shut that down first."
            )
        self._transfers.require(self._known.image_of(sized), self._known.datastore_of(vm), "resize")
        self._actions.grow_disk(vm, found, sized, is_grown=is_grown, is_live=is_live)

    def _shrink(
        self, placed: PlacedVm, vm: DeclaredVm, found: DeclaredDisk, sized: DeclaredDisk, facts: DiskFacts
    ) -> None:
        """Plan to cut the end of a disk, which must hold no data.

        :raises Conflict: a program uses the disk, or the disk has snapshots or is based on another file.
        """
        if self._world.is_running(self._known.place(placed.before or vm)):
            raise Conflict(f"size: the {subject(vm, sized)} can't shrink while the VM runs: shut it down first.")
        if facts.snapshots or len(facts.chain) > 1:
            raise Conflict(f"size: the {subject(vm, sized)} can't shrink, because it has snapshots or is an overlay.")
        self._actions.shrink_disk(vm, found, sized)

    def _recreate(self, vm: DeclaredVm, wanted: DeclaredDisk) -> None:
        """Plan to create a disk again whose data is lost.

        :raises NotFound: the lost data was that of a persistent image, or the disk had snapshots.
        :raises Conflict: the VM runs.
        """
        place = self._known.place(vm, wanted.disk_id)
        if wanted.persistent:
            image = self._known.image_of(wanted)
            raise NotFound(
                f"The {subject(vm, wanted)}, which is the persistent image {image and image.name!r}, is not at {place}"
                ": restore it from a backup, because the image in its datastore may be older."
            )
        if self._known.snapshots(wanted):
            raise NotFound(f"The {subject(vm, wanted)} is not at {place}, and its snapshots are lost with it.")
        if self._world.is_running(self._known.place(vm)):
            raise Conflict(f"The {subject(vm, wanted)} is not at {place} while the VM runs: shut it down first.")
        self._world.require_datastore(self._known.place(vm))
        self._take_room(vm, wanted)
        self._actions.create_disk(vm, wanted, "create lost disk")

    def _keep(self, placed: PlacedVm, vm: DeclaredVm, disk: DeclaredDisk) -> dict[str, Any]:
        """Return a disk that isn't in the list, for the result. A move takes it along, with its device."""
        facts = self._look(placed, disk)
        result = self._result(vm, disk, facts)
        if placed.moves and disk.target is not None:
            self._devices.require_domain(vm)
            self._actions.attach(vm, disk, disk, result)
        return result

    def _remove_disk(self, placed: PlacedVm, vm: DeclaredVm, disk: DeclaredDisk) -> None:
        """Plan to remove a disk. A damaged clone can be removed, too.

        :raises NotFound: the lost data was that of a persistent image.
        :raises Conflict: a program uses the disk, or something else is in the place of a persistent image.
        """
        try:
            facts = self._look(placed, disk)
        except Conflict:
            if disk.persistent:
                raise
            facts = None
        self._devices.check_removable(vm, disk, facts)
        is_plugged = disk.target is not None or self._devices.has_disk(vm, disk, facts)
        if facts is not None and facts.is_used and not is_plugged:
            raise Conflict(
                f"The {subject(vm, disk)} can't be removed while a program such as a running virtual machine uses it: "
                "shut that down first."
            )
        if disk.persistent and facts is None and disk.state not in (NEW, LEAVING):
            image = self._known.image_of(disk)
            raise NotFound(
                f"The {subject(vm, disk)}, which is the persistent image {image and image.name!r}, is not at "
                f"{self._known.place(vm, disk.disk_id)}, so its data can't go back to the datastore."
            )
        is_back = disk.persistent and facts is None
        self._known.put_disk(records.replace(disk, state=LEAVING))
        self._actions.remove_disk(vm, disk, is_plugged=is_plugged, is_back=is_back)

    def _look(self, placed: PlacedVm, disk: DeclaredDisk) -> DiskFacts | None:
        """Return a disk as it is, at the place before a move, or after a move that a killed run made.

        :raises Conflict: something else is in its place.
        """
        places = [self._known.place(vm) for vm in (placed.before, placed.after) if vm is not None]
        found = (self._world.disk(place, disk.disk_id) for place in places)
        return next((facts for facts in found if facts is not None), None)

    def _result(self, vm: DeclaredVm, disk: DeclaredDisk, facts: DiskFacts | None = None) -> dict[str, Any]:
        image = self._known.image_of(disk)
        chain = [image.path] if image is not None and disk.linked else []
        if facts is not None and not facts.is_link:
            chain = list(facts.chain[1:])
        return {
            "vm": vm.id,
            "disk": disk.disk_id,
            "host": vm.host,
            "path": self._known.place(vm, disk.disk_id).path,
            "format": disk.format,
            "size_mb": disk.size_mb,
            "fs": "swap" if disk.type == "swap" else disk.fs,
            "image": image and image.name,
            "persistent": disk.persistent,
            "clone": disk.clone,
            "backing_chain": chain,
            "target": disk.target,
            "bus": disk.bus,
            "read_only": disk.read_only,
            "shareable": disk.shareable,
            "restart_required": False,
            "restart_reasons": [],
        }


__all__ = ["DiskPlanner"]
