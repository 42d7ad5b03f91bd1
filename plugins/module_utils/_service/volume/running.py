# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The devices of a declaration in a running domain: plugged in, unplugged, grown, or the reason for a restart."""

from __future__ import annotations

import copy
import functools
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection, Mapping

from ..._core.plan import Action
from ..._core.records import replace
from ..._libvirt.connection import Domain
from ..._libvirt.devices.disk import LIVE_BUSES
from ..._libvirt.devices.io_threads import count_io_threads
from ..._libvirt.devices.metrics_channel import find_metrics_channel, is_own_channel
from ..._libvirt.devices.pci import has_free_slot
from ..._libvirt.devices.scsi import create_scsi_controller, find_scsi_controller
from ..._libvirt.devices.volume_disk import (
    VolumeDisk,
    create_volume_disk,
    find_volume_disk,
    read_volume_disk,
    volume_disks,
)
from ..._libvirt.devices.volume_record import read_record, record_running
from ..._libvirt.domain_xml import attribute, obtain_child, parse, pretty, set_attribute, to_text
from ..._libvirt.domain_xml import devices as devices_of
from ..._libvirt.edit import UNPLUG_DEADLINE, RunningDevice
from ..._libvirt.running_disk import RunningDisk
from ..._volume.conversion import DomainDevices
from ..domain_restart import RestartPlan
from .files_in_use import paths_of
from .same_data import differences

#: Fields of a drive that change while the domain runs.
_MEDIUM = {"layer", "backing"}


class RunningVolumes:
    """The disks of a running domain, compared with a declaration.

    :arg plan: the plan that gets the actions and the reasons for a restart.
    :arg text: the XML of the running domain.
    """

    def __init__(self, plan: RestartPlan, domain: Domain, text: str) -> None:
        self._plan = plan
        self._domain = domain
        self._root = parse(text)
        #: The files that the running domain loses by the plan.
        self.released: set[str] = set()

    def plan(self, devices: DomainDevices, recorded: Collection[str]) -> None:
        """Plan the changes of the running domain.

        :arg recorded: the names in the record of the definition. Undeclared ones among them are unplugged, and those in
            the record of the running domain, whose guest may not have released a disk in an earlier run.
        """
        recorded = {*recorded, *read_record(self._root).names}
        wanted = {disk.name for disk in devices.disks}
        disks = {disk.name: (element, disk) for element, disk in volume_disks(self._root, wanted.union(recorded))}
        for name, (element, disk) in disks.items():
            if name in recorded and name not in wanted:
                self._unplug(element, disk)
        for disk in devices.disks:
            found = disks.get(disk.name)
            if found is None:
                self._plug(disk, devices)
            else:
                self._compare(disk, *found)
        channel = find_metrics_channel(self._root)
        if devices.has_metrics_port and channel is None:
            self._plan.restart_for("the running domain lacks the port with metrics")
        elif not devices.has_metrics_port and channel is not None and is_own_channel(channel):
            self._plan.restart_for("a running domain keeps the port with metrics")

    def _compare(self, disk: VolumeDisk, element: ET.Element, found: VolumeDisk) -> None:
        changed = set(differences(disk, found)) - {"tray"}  # the guest opens and closes the tray
        if not changed:
            return
        if disk.device == "cdrom" and changed <= _MEDIUM:
            self._change_medium(replace(disk, tray=found.tray), element)
        else:
            self._plan.restart_for(
                f"the running domain has the disk {disk.name!r} with another {', '.join(sorted(changed))}"
            )

    def _change_medium(self, disk: VolumeDisk, element: ET.Element) -> None:
        """Plan another medium in a drive, or none."""
        self.released |= paths_of(element)
        before = copy.deepcopy(element)
        after = create_volume_disk(disk)
        # libvirt refuses another alias, which the drive has if it was adopted while the domain runs.
        set_attribute(obtain_child(after, "alias"), "name", attribute(before, "alias", "name"))
        subject = f"running domain {self._domain.name!r}"
        self._plan.actions.append(
            Action(
                "change medium",
                subject,
                pretty(before),
                pretty(after),
                functools.partial(self._domain.update, to_text(after)),
                functools.partial(self._domain.update, to_text(before)),
            )
        )

    def _plug(self, disk: VolumeDisk, devices: DomainDevices) -> None:
        obstacle = self._obstacle(disk, devices)
        if obstacle is not None:
            self._plan.restart_for(obstacle)
            return
        place = disk.scsi_address
        if place is not None and _find_controller(self._root, str(place.controller)) is None:
            self._plug_controller(str(place.controller), devices.scsi_model or "virtio-scsi")
        plugged = RunningDevice(self._domain, disk.name, functools.partial(find_volume_disk, name=disk.name))
        element = create_volume_disk(replace(disk, boot_order=None))

        def plug() -> None:
            record_running(self._domain, {disk.name})
            plugged.plug(element, lambda found: not _is_other(disk, read_volume_disk(found)))

        self._plan.actions.append(_plug_action(plugged, element, plug))

    def _obstacle(self, disk: VolumeDisk, devices: DomainDevices) -> str | None:
        """Return the reason why a disk can't be plugged in."""
        if disk.device == "cdrom":
            return f"a running domain gets no drive, which {disk.name!r} is"
        if disk.bus not in LIVE_BUSES:
            return (
                f"a running domain gets disks on the buses {' and '.join(LIVE_BUSES)} only, and {disk.name!r} is on "
                f"{disk.bus!r}"
            )
        threads = max([disk.io_thread or 0, *disk.io_threads])
        if threads > count_io_threads(self._root):
            return f"the running domain lacks the thread {threads} for input and output of the disk {disk.name!r}"
        if disk.boot_order is not None:
            return f"a running domain can't boot from the disk {disk.name!r}"
        needs_slot = disk.bus == "virtio" or find_scsi_controller(self._root) is None
        if needs_slot and not has_free_slot(self._root):
            return f"the running domain has no free PCI slot to plug the disk {disk.name!r} into"
        return None

    def _plug_controller(self, index: str, model: str) -> None:
        plugged = RunningDevice(
            self._domain, f"SCSI controller {index}", functools.partial(_find_controller, index=index)
        )
        element = create_scsi_controller(index, model)
        plug = functools.partial(plugged.plug, element, lambda found: found.get("model") == model)
        self._plan.actions.append(_plug_action(plugged, element, plug))
        devices_of(self._root).append(element)  # the next disk finds it

    def _unplug(self, element: ET.Element, disk: VolumeDisk) -> None:
        if disk.device == "cdrom":
            if disk.layer is not None:
                self._change_medium(replace(disk, layer=None, backing=None), element)
            self._plan.restart_for(f"a running domain keeps the drive {disk.name!r}")
        elif disk.bus not in LIVE_BUSES:
            self._plan.restart_for(
                f"a running domain loses disks on the buses {' and '.join(LIVE_BUSES)} only, and {disk.name!r} is on "
                f"{disk.bus!r}"
            )
        else:
            self._plan.actions.append(self._unplug_action(element, disk))

    def _unplug_action(self, element: ET.Element, disk: VolumeDisk) -> Action:
        self.released |= paths_of(element)
        plugged = RunningDevice(self._domain, disk.name, functools.partial(find_volume_disk, name=disk.name))

        def unplug() -> str | None:
            if self._domain.is_halted:
                reason = f"the domain is paused, so that its guest can't release the disk {disk.name!r}"
            elif plugged.unplug():
                return None
            else:
                reason = f"the guest did not release the disk {disk.name!r} within {UNPLUG_DEADLINE} seconds"
            self._plan.restart_for(reason)
            return reason

        return Action("unplug disk", f"running domain {self._domain.name!r}", pretty(element), None, finish=unplug)


def _plug_action(plugged: RunningDevice, element: ET.Element, plug: Callable[[], object]) -> Action:
    def unplug() -> None:
        plugged.unplug()

    return Action(
        f"plug {element.tag}",
        f"running domain {plugged.domain.name!r}",
        None,
        pretty(element),
        plug,
        unplug,
    )


def _is_other(disk: VolumeDisk, found: VolumeDisk) -> bool:
    return bool(differences(replace(disk, boot_order=None), found))


def _find_controller(root: ET.Element, index: str) -> ET.Element | None:
    return root.find(f"devices/controller[@type='scsi'][@index='{int(index)}']")


def plan_growth(
    domain: Domain, disk: VolumeDisk, current: int, size: int, running: Mapping[str, VolumeDisk]
) -> Action | None:
    """Return the action with which a guest sees a disk of ``size`` bytes; ``None`` for a disk of that size or larger.

    :arg current: the size of the data on the host, in bytes. The device of a host may have grown by itself.
    :arg running: the disks of the running domain.
    :raises Conflict: the disk would grow, and another program uses the file.
    """
    path = "" if disk.layer is None else disk.layer.path
    if disk.name not in running:
        return None
    grown = RunningDisk(domain, path, running[disk.name].target)
    seen = grown.capacity()
    wanted = max(current, size)
    if seen >= wanted:
        return None
    return Action(
        "grow disk", f"running domain {domain.name!r}", {"size": seen}, {"size": wanted}, lambda: grown.resize(wanted)
    )


__all__ = ["RunningVolumes", "plan_growth"]
