# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The devices of disks in the domains of VMs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..._core import records
from ..._core.errors import Conflict, DependencyMissing, DependencyNotFound
from ..._driver.transfer.vm_host import DomainDisk, DomainState
from ..._image.vm_disk_data import DiskFacts
from ..._libvirt.devices.disk import BUSES, LIVE_BUSES, check_disk
from ..._libvirt.devices.disk import Disk as Device
from ..._model.declared_vm import DeclaredDisk, DeclaredVm
from .known import KnownVms
from .options import AttachSpec
from .world import World

#: The letters of target names, in their order.
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class DevicePlanner:
    """Plan devices, and compare them with the domains.

    :arg report: is called with the error about a missing domain. In check mode, it returns.
    """

    def __init__(self, known: KnownVms, world: World, report: Callable[[DependencyMissing], object]) -> None:
        self._known = known
        self._world = world
        self._report = report

    def with_device(self, vm: DeclaredVm, disk: DeclaredDisk, spec: AttachSpec | None) -> DeclaredDisk:
        """Return a disk with its desired device. A value that isn't given stays; a new device gets the default.

        :raises DependencyMissing: the domain, or libvirt, is missing.
        :raises Conflict: another disk has the target; :raises InvalidInput: QEMU supports no such disk.
        """
        if spec is None:
            return disk
        if spec.absent:
            return records.replace(disk, target=None, bus=None, read_only=False, shareable=False)
        image = self._known.image_of(disk)
        is_cdrom = disk.type == "cdrom"
        bus = spec.bus or disk.bus or ("sata" if is_cdrom else "virtio")
        target = spec.target or (disk.target if bus == disk.bus else None)
        is_read_only = disk.read_only if disk.target else is_cdrom or (image is not None and image.read_only)
        wanted = records.replace(
            disk,
            bus=bus,
            target=target or f"{BUSES[bus]}a",
            read_only=is_read_only if spec.read_only is None else spec.read_only,
            shareable=disk.shareable if spec.shareable is None else spec.shareable,
        )
        check_disk(
            Device(
                self._known.place(vm, disk.disk_id).path,
                disk.format,
                wanted.target,
                bus,
                "cdrom" if is_cdrom else "disk",
                wanted.read_only,
                wanted.shareable,
            )
        )
        used = self._used(vm, disk, self.require_domain(vm))
        if target is None:
            return records.replace(wanted, target=_first_free(bus, used))
        if target in used:
            raise Conflict(f"target: {target!r} of the domain {vm.domain!r} belongs to {used[target]}.")
        return wanted

    def require_domain(self, vm: DeclaredVm) -> DomainState | None:
        """Return the domain of a VM; ``None`` in check mode without it.

        :raises DependencyMissing: the domain, or libvirt, is missing.
        """
        try:
            found = self._world.domain(self._known.place(vm))
            if found is None:
                raise DependencyNotFound(
                    f"domain: libvirt on the host {vm.host} has no domain {vm.domain!r}: define it first, or leave "
                    "attach out."
                )
        except DependencyMissing as error:
            self._report(error)
            return None
        return found

    def is_attached(self, vm: DeclaredVm, disk: DeclaredDisk, facts: DiskFacts | None, result: dict[str, Any]) -> bool:
        """Return whether the domain has a disk as desired.

        :arg result: gets the reason for a restart.
        """
        domain = self.require_domain(vm)
        if domain is None:
            return True
        found = self._find(domain, vm, disk, facts)
        defined = [one for one in found if not one.is_running]
        if domain.is_persistent and not any(_is_same(one, disk) for one in defined):
            return False
        if not domain.is_running or any(one.is_running and _is_same(one, disk) for one in found):
            return True
        if disk.bus in LIVE_BUSES and not any(one.is_running for one in found):
            return False
        result["restart_required"] = True
        result["restart_reasons"] = [
            f"the running domain {vm.domain!r} gets the disk as it is defined at its next start"
        ]
        return True

    def has_disk(self, vm: DeclaredVm, disk: DeclaredDisk, facts: DiskFacts | None) -> bool:
        """Return whether the domain has a disk."""
        domain = self._world.vm(self._known.place(vm)).domain
        return domain is not None and bool(self._find(domain, vm, disk, facts))

    def runs_with(self, vm: DeclaredVm, disk: DeclaredDisk, facts: DiskFacts | None) -> bool:
        """Return whether the running domain has a disk."""
        domain = self._world.vm(self._known.place(vm)).domain
        return domain is not None and any(one.is_running for one in self._find(domain, vm, disk, facts))

    def check_removable(self, vm: DeclaredVm, disk: DeclaredDisk, facts: DiskFacts | None) -> None:
        """Refuse to remove a disk that the running domain can't lose.

        :raises Conflict: the disk is on another bus.
        """
        domain = self._world.vm(self._known.place(vm)).domain
        found = [] if domain is None else self._find(domain, vm, disk, facts)
        buses = sorted({one.bus for one in found if one.is_running and one.bus not in LIVE_BUSES})
        if buses:
            raise Conflict(
                f"The disk {disk.disk_id} of VM {vm.name!r} can't be removed while the domain {vm.domain!r} runs, "
                f"which loses disks on {' and '.join(LIVE_BUSES)} only, and this one is on {buses[0]}: "
                "shut it down first."
            )

    def _find(
        self, domain: DomainState, vm: DeclaredVm, disk: DeclaredDisk, facts: DiskFacts | None
    ) -> list[DomainDisk]:
        """Return the devices of a disk, in the definition and in the running domain.

        After a snapshot, a device has another file of the disk. The image below is no file of the disk.
        """
        place = self._known.place(vm)
        path = self._known.place(vm, disk.disk_id).path
        chain = () if facts is None else facts.chain
        own = {path, *chain[:1], *(file for file in chain if file.startswith(f"{place.path}/"))}
        return [one for one in domain.disks if not own.isdisjoint(one.files)]

    def _used(self, vm: DeclaredVm, disk: DeclaredDisk, domain: DomainState | None) -> dict[str, str]:
        """Return the targets of other disks, each with its owner."""
        path = self._known.place(vm, disk.disk_id).path
        used = {}
        for one in () if domain is None else domain.disks:
            if path not in one.files and one.target != disk.target:
                used[one.target] = one.files[0] if one.files else "another device"
        for other in self._known.disks(vm.id).values():
            if other.disk_id != disk.disk_id and other.target is not None:
                used[other.target] = f"the disk {other.disk_id}"
        return used


def _is_same(found: DomainDisk, wanted: DeclaredDisk) -> bool:
    return (found.target, found.bus, found.read_only, found.shareable) == (
        wanted.target,
        wanted.bus,
        wanted.read_only,
        wanted.shareable,
    )


def _first_free(bus: str, used: dict[str, str]) -> str:
    """Return the first name of a bus that no disk has.

    :raises Conflict: every name is in use.
    """
    prefix = BUSES[bus]
    for first in ("", *_LETTERS):
        for last in _LETTERS:
            if f"{prefix}{first}{last}" not in used:
                return f"{prefix}{first}{last}"
    raise Conflict(f"target: the domain has no free name for one more disk on the bus {bus!r}.")


__all__ = ["DevicePlanner"]
