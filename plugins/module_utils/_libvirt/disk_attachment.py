# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plans that attach a disk to a domain or detach it: in the definition, and in the running domain where libvirt can."""

from __future__ import annotations

import copy
import functools
import xml.etree.ElementTree as ET
from collections.abc import Callable

from .._core.errors import Conflict, TimedOut
from .._core.plan import Action
from .._core.records import dataclass, field, replace
from .connection import Domain
from .devices.disk import (
    LIVE_BUSES,
    Disk,
    check_disk,
    choose_target,
    create_disk,
    file_names,
    find_disk,
    read_disk,
    targets,
    write_disk,
)
from .devices.pci import has_free_slot
from .devices.scsi import choose_scsi_address, choose_scsi_index, create_scsi_controller, find_scsi_controller
from .domain_xml import parse, pretty
from .edit import SAVED_STATE, UNPLUG_DEADLINE, DefinitionEdit, RunningDevice
from .running_disk import find_running_disk


@dataclass
class DiskPlan:
    """The actions that attach or detach a disk.

    :arg disk: the disk with its target; ``None`` for a disk that the domain lacks.
    :arg restart_reasons: reasons for which the running domain keeps its disks as they are, until the next start.
    """

    disk: Disk | None = None
    actions: list[Action] = field(default_factory=list)
    restart_reasons: list[str] = field(default_factory=list)


class _Roots:
    """The XML of a domain: ``edit`` with its definition, and ``running``. A transient domain has no definition, and
    one that is off isn't running.
    """

    def __init__(self, domain: Domain) -> None:
        text = domain.running_xml()
        self.domain = domain
        self.edit = DefinitionEdit(domain) if domain.is_persistent else None
        self.running = None if text is None else parse(text)
        defined = None if self.edit is None else self.edit.root
        self.all = [root for root in (defined, self.running) if root is not None]

    def find(self, names: frozenset[str]) -> ET.Element | None:
        """Return the element of a disk, preferably in the definition."""
        return next((found for root in self.all if (found := find_disk(root, names)) is not None), None)


def plan_attachment(domain: Domain, disk: Disk) -> DiskPlan:
    """Plan that the domain has ``disk``: in its definition, and at once if it runs and the bus allows it.

    :arg disk: without a target, the disk keeps the target that it has, or gets a free one.
    :raises InvalidInput: libvirt or QEMU doesn't support such a disk.
    :raises Conflict: another disk has the target, or the domain has no place for one more disk.
    """
    check_disk(disk)
    roots, names = _Roots(domain), file_names(disk.source)
    disk = _with_target(disk, roots, names)
    plan = DiskPlan(disk)
    place = _choose_place(disk, roots, names)
    if roots.edit is not None:
        _define(plan, roots.edit, disk, names, place)
    if roots.running is not None:
        _plan_plug(plan, domain, roots.running, disk, names, place)
        if roots.edit is None and plan.restart_reasons:
            raise Conflict(
                f"The domain {domain.name!r} can't get the disk {disk.source!r}: it is transient, so nothing is kept "
                f"for its next start, and {plan.restart_reasons[0]}."
            )
    elif (saved := domain.saved_xml()) is not None and _is_other(disk, find_disk(parse(saved), names)):
        plan.restart_reasons.append(SAVED_STATE)
    return plan


def _with_target(disk: Disk, roots: _Roots, names: frozenset[str]) -> Disk:
    """Return the disk with a target.

    :raises Conflict: another disk has the target.
    """
    found = roots.find(names)
    current = None if found is None else read_disk(found)
    if disk.target is None:
        is_kept = current is not None and current.bus == disk.bus
        return replace(disk, target=current.target if current and is_kept else choose_target(disk.bus, *roots.all))
    for root in roots.all:
        mine = find_disk(root, names)
        source = targets(root).get(disk.target)
        if source is not None and (mine is None or read_disk(mine).target != disk.target):
            raise Conflict(
                f"target: {disk.target!r} belongs to {source!r} in the domain {roots.domain.name!r}; "
                f"{choose_target(disk.bus, *roots.all)!r} is free."
            )
    return disk


def _choose_place(disk: Disk, roots: _Roots, names: frozenset[str]) -> ET.Element | None:
    """Return the address of a new disk on SCSI; ``None`` where libvirt chooses the address.

    The definition and the running domain get the same one, so that the guest sees no change after a restart.
    """
    if disk.bus != "scsi":
        return None
    found = roots.find(names)
    if found is not None and read_disk(found).bus == "scsi" and (address := found.find("address")) is not None:
        return copy.deepcopy(address)
    indexes = [index for root in reversed(roots.all) if (index := find_scsi_controller(root)) is not None]
    return choose_scsi_address(indexes[0] if indexes else choose_scsi_index(*roots.all), *roots.all)


def _new_element(disk: Disk, place: ET.Element | None) -> ET.Element:
    element = create_disk(disk)
    if place is not None:
        element.append(copy.deepcopy(place))
    return element


def _define(plan: DiskPlan, edit: DefinitionEdit, disk: Disk, names: frozenset[str], place: ET.Element | None) -> None:
    """Plan that the definition has the disk."""
    element, verb = find_disk(edit.root, names), "change"
    if element is not None and {"target", "bus", "device"} & set(disk.differences(read_disk(element))):
        edit.remove_device(element)
        element = None
    elif element is None:
        verb = "add"
    if element is None:
        edit.add_device(_new_element(disk, place))
    else:
        write_disk(element, disk)
        edit.allow_additions(element)
    if place is not None and _lacks_controller(edit.root, place):
        edit.add_device(create_scsi_controller(place.get("controller", "0")))
    if edit.is_change:
        plan.actions.append(_definition_action(f"{verb} disk", edit))


def _definition_action(name: str, edit: DefinitionEdit) -> Action:
    before, after = edit.differing_elements()
    return Action(name, f"domain {edit.domain.name!r}", before, after, edit.apply, edit.undo)


def _lacks_controller(root: ET.Element, place: ET.Element) -> bool:
    return _find_controller(root, place.get("controller", "0")) is None


def _find_controller(root: ET.Element, index: str) -> ET.Element | None:
    return root.find(f"devices/controller[@type='scsi'][@index='{int(index)}']")


def _is_other(disk: Disk, element: ET.Element | None) -> bool:
    return element is None or bool(disk.differences(read_disk(element)))


def _plan_plug(
    plan: DiskPlan,
    domain: Domain,
    running: ET.Element,
    disk: Disk,
    names: frozenset[str],
    place: ET.Element | None,
) -> None:
    """Plan to plug the disk into the running domain, or note why a restart is needed."""
    element = find_disk(running, names)
    if element is not None:
        differences = disk.differences(read_disk(element))
        if differences:
            plan.restart_reasons.append(f"the running domain has the disk with another {', '.join(differences)}")
        return
    needs_controller = place is not None and _lacks_controller(running, place)
    if disk.bus not in LIVE_BUSES:
        plan.restart_reasons.append(_not_live(disk, "gets"))
    elif (disk.bus == "virtio" or needs_controller) and not has_free_slot(running):
        plan.restart_reasons.append("the running domain has no free PCI slot to plug the disk into")
    else:
        if place is not None and needs_controller:
            plan.actions.append(_plug_controller(domain, place.get("controller", "0")))
        plugged = RunningDevice(domain, disk.target or "", functools.partial(find_disk, names=names))
        plan.actions.append(_plug(plugged, _new_element(disk, place), lambda found: not _is_other(disk, found)))


def _not_live(disk: Disk, verb: str) -> str:
    return (
        f"a running domain {verb} disks on the buses {' and '.join(LIVE_BUSES)} only, and this one is on {disk.bus!r}"
    )


def _plug_controller(domain: Domain, index: str) -> Action:
    plugged = RunningDevice(domain, f"SCSI controller {index}", functools.partial(_find_controller, index=index))
    return _plug(plugged, create_scsi_controller(index), lambda found: found.get("model") == "virtio-scsi")


def _plug(plugged: RunningDevice, element: ET.Element, is_as_requested: Callable[[ET.Element], bool]) -> Action:
    def unplug() -> None:
        plugged.unplug()

    return Action(
        f"plug {element.tag}",
        f"running domain {plugged.domain.name!r}",
        None,
        pretty(element),
        functools.partial(plugged.plug, element, is_as_requested),
        unplug,
    )


def plan_detachment(domain: Domain, path: str) -> DiskPlan:
    """Plan that the domain has no disk with the file ``path``: unplug it from the running domain first, and then
    remove it from the definition.

    When the actions have run, the file isn't open any more, unless the plan has reasons for a restart.
    """
    roots, names = _Roots(domain), file_names(path)
    found = roots.find(names)
    plan = DiskPlan(None if found is None else read_disk(found))
    element = None if roots.running is None else find_disk(roots.running, names)
    if element is not None:
        disk = read_disk(element)
        if disk.bus in LIVE_BUSES:
            plan.actions.append(_unplug_action(domain, path, names, disk, element))
        elif roots.edit is not None:
            plan.restart_reasons.append(_not_live(disk, "loses"))
        else:
            raise Conflict(
                f"The domain {domain.name!r} has the disk {disk.target!r} on the bus {disk.bus!r} and is transient: it "
                "keeps the disk until it is shut off."
            )
    element = None if roots.edit is None else find_disk(roots.edit.root, names)
    if roots.edit is not None and element is not None:
        roots.edit.remove_device(element)
        plan.actions.append(_definition_action("remove disk", roots.edit))
    saved = domain.saved_xml() if roots.running is None else None
    if saved is not None and find_disk(parse(saved), names) is not None:
        plan.restart_reasons.append(SAVED_STATE)
    return plan


def _unplug_action(domain: Domain, path: str, names: frozenset[str], disk: Disk, element: ET.Element) -> Action:
    plugged = RunningDevice(domain, disk.target or "", functools.partial(find_disk, names=names))
    before = _without_state(element)

    def unplug() -> None:
        if plugged.element() is None:
            return
        find_running_disk(domain, path).check_idle()
        if domain.is_halted:
            raise Conflict(
                f"The guest of the domain {domain.name!r} can't release the disk {disk.target!r}, because the domain "
                "is paused: resume it, or shut it off."
            )
        if not plugged.unplug():
            raise TimedOut(
                f"The guest of the domain {domain.name!r} did not release the disk {disk.target!r} within "
                f"{UNPLUG_DEADLINE} seconds: run it again once the guest has booted, or shut the domain off."
            )

    def plug_again() -> None:
        if plugged.element() is None:
            plugged.plug(before, lambda found: not _is_other(disk, found))

    return Action("unplug disk", f"running domain {domain.name!r}", pretty(before), None, unplug, plug_again)


def _without_state(element: ET.Element) -> ET.Element:
    """Return a disk of a running domain without the elements that libvirt adds to it at its start."""
    clean = copy.deepcopy(element)
    for tag in ("backingStore", "alias"):
        for child in clean.findall(tag):
            clean.remove(child)
    for source in clean.findall("source"):
        source.attrib.pop("index", None)
    return clean


__all__ = ["DiskPlan", "plan_attachment", "plan_detachment"]
