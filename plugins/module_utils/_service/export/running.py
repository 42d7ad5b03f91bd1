# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The device of an export in a running domain: plugged in, or the reason why a restart is needed."""

from __future__ import annotations

import functools
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable

from ..._core.errors import LibvirtFailed
from ..._core.plan import Action
from ..._host.virtiofsd.program import last_words
from ..._host.virtiofsd.submounts import submount_warnings
from ..._libvirt.connection import Domain
from ..._libvirt.devices.cdrom import cdrom_of
from ..._libvirt.devices.filesystem import (
    VirtioFs,
    create_filesystem,
    filesystems,
    find_filesystem,
    read_filesystem,
)
from ..._libvirt.devices.memory import memory_is_shared
from ..._libvirt.devices.pci import has_free_slot
from ..._libvirt.domain_xml import parse, pretty
from ..._libvirt.edit import SAVED_STATE, UNPLUG_DEADLINE, RunningDevice
from ..domain_restart import RestartPlan
from .daemon import has_died, report_daemon
from .domains import shares


def plan_plug(plan: RestartPlan, domain: Domain, device: VirtioFs, seed: str | None) -> None:
    """Plan to plug ``device`` into the domain if it runs, or note why a restart is needed.

    :arg seed: the image that a CD-ROM drive of the domain has to hold.
    """
    text = domain.running_xml()
    if text is None:
        saved = domain.saved_xml()
        old = None if saved is None else find_filesystem(parse(saved), device.tag, device.source)
        if saved is not None and (old is None or device.differences(read_filesystem(old))):
            plan.restart_for(SAVED_STATE)
        return
    running = parse(text)
    if seed is not None and cdrom_of(running, seed) is None:
        plan.restart_for("the running domain has no drive with the seed")
    live = next((found for _element, found in filesystems(running) if found.tag == device.tag), None)
    if live is not None:
        _check_live(plan, domain, running, device, live)
        return
    obstacle = _plug_obstacle(running, device)
    if obstacle is not None:
        plan.restart_for(obstacle)
    else:
        plan.actions.append(_plug_action(domain, device))


def _check_live(plan: RestartPlan, domain: Domain, running: ET.Element, device: VirtioFs, live: VirtioFs) -> None:
    """Compare the device of the running domain with ``device``."""
    plan.warnings.extend(submount_warnings(domain.name, device.source))
    report_daemon(plan, domain.name, running, live)
    differences = device.differences(live)
    if differences:
        plan.restart_for(f"the running domain has the device with another {', '.join(differences)}")


def _plug_obstacle(running: ET.Element, device: VirtioFs) -> str | None:
    """Return the reason why the device can't be plugged in."""
    if any(shares(found, device.source) for _element, found in filesystems(running)):
        return "the running domain still has the directory with another mount tag"
    if not memory_is_shared(running):
        return "the memory of the running domain is not shared, which virtiofs needs"
    if not has_free_slot(running):
        return "the running domain has no free PCI slot to plug the device into"
    return None


def _plug_action(domain: Domain, device: VirtioFs) -> Action:
    element, plugged = create_filesystem(device), _running_device(domain, device)

    def unplug() -> None:
        plugged.unplug()

    return Action(
        "plug virtiofs device",
        f"running domain {domain.name!r}",
        None,
        pretty(element),
        functools.partial(_plug, plugged, device, element),
        unplug,
    )


def _plug(plugged: RunningDevice, device: VirtioFs, element: ET.Element) -> None:
    """Plug the device in.

    :raises LibvirtFailed: libvirt fails or virtiofsd ends at once; the message has the reason that virtiofsd gave.
    """
    domain, start = plugged.domain, time.time()
    try:
        plugged.plug(element, lambda found: not device.differences(read_filesystem(found)))
    except LibvirtFailed as error:
        words = last_words(domain.name, start)
        raise LibvirtFailed(f"{error} virtiofsd logged last: {words}" if words else str(error)) from error
    if has_died(domain, device):
        plugged.unplug()
        raise LibvirtFailed(
            f"The virtiofsd of the device {device.tag!r} ended at once in the domain {domain.name!r}. It logged last: "
            f"{last_words(domain.name, start)}"
        )


def plan_unplug(plan: RestartPlan, domain: Domain, is_unwanted: Callable[[VirtioFs], bool]) -> set[str]:
    """Plan to unplug devices from the domain if it runs, and return the mount tags of these devices.

    A device of the saved state of a domain can't be unplugged and needs a restart.
    """
    saved = domain.saved_xml() if domain.is_persistent else None
    if saved is not None and any(is_unwanted(device) for _element, device in filesystems(parse(saved))):
        plan.restart_for(SAVED_STATE)
    text = domain.running_xml()
    found = [] if text is None else [one for one in filesystems(parse(text)) if is_unwanted(one[1])]
    plan.actions += [_unplug_action(plan, domain, element, device) for element, device in found]
    return {device.tag for _element, device in found}


def _unplug_action(plan: RestartPlan, domain: Domain, element: ET.Element, device: VirtioFs) -> Action:
    plugged = _running_device(domain, device)

    def unplug() -> str | None:
        if domain.is_halted:
            reason = f"the domain is paused, so that its guest can't release the device {device.tag!r}"
        elif plugged.unplug():
            return None
        else:
            why = ", because its virtiofsd has died" if has_died(domain, device) else ""
            reason = f"the guest did not release the device {device.tag!r} within {UNPLUG_DEADLINE} seconds{why}"
        plan.restart_for(reason)
        return reason

    return Action("unplug virtiofs device", f"running domain {domain.name!r}", pretty(element), None, finish=unplug)


def _running_device(domain: Domain, device: VirtioFs) -> RunningDevice:
    return RunningDevice(domain, device.tag, functools.partial(find_filesystem, tag=device.tag, source=device.source))


__all__ = ["plan_plug", "plan_unplug"]
