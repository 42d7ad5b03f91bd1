# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The domains of this host and their virtiofs devices."""

from __future__ import annotations

import os

from ..._core.errors import NotFound, UnsupportedAction
from ..._core.records import dataclass
from ..._libvirt.connection import Domain, Hypervisor
from ..._libvirt.devices.filesystem import VirtioFs, filesystems
from ..._libvirt.domain_xml import parse


@dataclass(frozen=True)
class HostDomains:
    """The domain that gets an export, and the other domains of the host.

    :arg foreign: the devices of the other domains, each with the name of its domain.
    """

    domain: Domain
    names: set[str]
    own: list[VirtioFs]
    foreign: list[tuple[str, VirtioFs]]

    def is_shared(self, source: str) -> bool:
        """Return whether a domain of the host has the directory ``source``."""
        return any(shares(device, source) for device in [*self.own, *(device for _name, device in self.foreign)])


def read_domains(hypervisor: Hypervisor, reference: str) -> HostDomains:
    """Return the domains of the host around the one with the name or UUID ``reference``.

    :raises DependencyNotFound: there is no such domain; :raises UnsupportedAction: the domain is transient.
    """
    domain = hypervisor.domain(reference)
    if not domain.is_persistent:
        raise UnsupportedAction(
            f"The domain {domain.name!r} is transient: it has no definition that an export could be added to."
        )
    others = [other for other in hypervisor.domains() if other.uuid != domain.uuid]
    return HostDomains(
        domain,
        {domain.name, *(other.name for other in others)},
        devices_of(domain),
        [(other.name, device) for other in others for device in devices_of(other)],
    )


def devices_of(domain: Domain) -> list[VirtioFs]:
    """Return the devices in the definition of a domain and in the running domain; none when the domain vanishes."""
    try:
        texts = [domain.persistent_xml() if domain.is_persistent else None, domain.running_xml()]
    except NotFound:
        return []
    return [device for text in texts if text for _element, device in filesystems(parse(text))]


def shares(device: VirtioFs, source: str) -> bool:
    """Return whether ``device`` shares the directory ``source``."""
    return os.path.normpath(device.source) == source


__all__ = ["HostDomains", "devices_of", "read_domains", "shares"]
