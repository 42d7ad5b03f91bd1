# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The virtiofsd of a running export: its faults and their remedies."""

from __future__ import annotations

import shlex
import xml.etree.ElementTree as ET

from ..._host.virtiofsd.process import DEAD, OTHER_DIRECTORY, STOPPED, DaemonState, daemon_state
from ..._libvirt.connection import Domain
from ..._libvirt.devices.filesystem import VirtioFs, find_filesystem
from ..._libvirt.domain_xml import attribute, parse
from ..domain_restart import RestartPlan


def find_state(domain: str, running: ET.Element, device: VirtioFs) -> DaemonState | None:
    """Return the state of the daemon of ``device``.

    :arg running: the XML of the running domain, which holds the device.
    :return: ``None`` where the state can't be found out, and for a daemon that libvirt hasn't started.
    """
    number = running.get("id", "")
    element = find_filesystem(running, device.tag, device.source)
    if element is None or element.find("alias") is None or not device.source or not number.isdecimal():
        return None
    return daemon_state(int(number), domain, attribute(element, "alias", "name") or "", device.source)


def has_died(domain: Domain, device: VirtioFs) -> bool:
    """Return whether the running domain has lost the daemon of ``device``."""
    text = domain.running_xml()
    state = None if text is None else find_state(domain.name, parse(text), device)
    return state is not None and state.value == DEAD


def report_daemon(plan: RestartPlan, domain: str, running: ET.Element, device: VirtioFs) -> None:
    """Add to ``plan`` the faults of the daemon of ``device``, as warnings and as reasons for a restart."""
    state = find_state(domain, running, device)
    if state is None:
        return
    name, tag = shlex.quote(domain), device.tag
    if state.value == DEAD:
        plan.restart_for(
            f"the virtiofsd of the device {tag!r} has died, and only a start of the domain starts another one"
        )
        plan.warnings.append(
            f"The virtiofsd of the device {tag!r} in the domain {domain!r} has died, so the guest hangs where it uses "
            f"{device.source!r}. Stop and start the domain: 'virsh shutdown {name}', or 'virsh destroy {name}' where "
            f"the guest hangs too much for that, then 'virsh start {name}'."
        )
    elif state.value == OTHER_DIRECTORY:
        plan.restart_for(f"the device {tag!r} serves another directory than the one that is at {device.source!r} now")
        # The guest must not be moved to the bare mount point of a file system that is missing.
        plan.restart = None
        plan.warnings.append(
            f"The domain {domain!r} still uses the directory that was at {device.source!r} when its virtiofsd started. "
            "Since then a file system was mounted or unmounted there, or the directory was replaced, and this host "
            "doesn't see what the guest writes. Stop and start the domain once the right directory is there. No option "
            "of this module does that."
        )
    elif state.value == STOPPED:
        pids = " ".join(map(str, state.pids))
        plan.warnings.append(
            f"The virtiofsd of the device {tag!r} in the domain {domain!r} was stopped by a signal, so the guest hangs "
            f"where it uses {device.source!r}. 'kill -CONT {pids}' lets it go on."
        )


__all__ = ["find_state", "has_died", "report_daemon"]
