# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The domains of this host that can write to a file."""

from __future__ import annotations

import contextlib
import functools
import os
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Mapping

from ..._core.errors import LibvirtFailed, NotFound
from ..._core.records import dataclass
from ..._libvirt.connection import Hypervisor
from ..._libvirt.domain_xml import attribute, devices, parse


class WritableDisks:
    """The disks of all domains of a hypervisor that can be written to. They are read once."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor

    @functools.cached_property
    def users(self) -> Mapping[str, Mapping[str, bool]]:
        """Return by path the domains that can write, and whether each of their disks is shareable."""
        found: dict[str, dict[str, bool]] = defaultdict(dict)
        for domain in self._hypervisor.domains():
            with contextlib.suppress(LibvirtFailed, NotFound):  # the domain may have just been removed
                texts = [domain.persistent_xml(secrets=False)] if domain.is_persistent else []
                running = domain.running_xml()
                for text in [*texts, *([] if running is None else [running])]:
                    for path, is_shareable in _writable_disks(parse(text)):
                        known = found[os.path.realpath(path)]
                        known[domain.name] = known.get(domain.name, True) and is_shareable
        return found


@dataclass(frozen=True)
class DiskWriters:
    """The other domains that can write to the disks of a domain.

    :arg domain: the name of the domain.
    """

    disks: WritableDisks
    domain: str

    def of(self, path: str, *, is_shareable: bool) -> tuple[str, ...]:
        """Return the names of the domains with which a domain can't have the disk ``path``, too.

        :arg is_shareable: whether the domain's own disk is shareable. Then others can be, too.
        """
        users = self.disks.users.get(os.path.realpath(path), {})
        others = (name for name, may_share in users.items() if not (is_shareable and may_share))
        return tuple(sorted(name for name in others if name != self.domain))


def _writable_disks(root: ET.Element) -> list[tuple[str, bool]]:
    return [
        (path, element.find("shareable") is not None)
        for element in devices(root).findall("disk")
        if element.find("readonly") is None and element.get("device", "disk") != "cdrom"
        for path in (attribute(element, "source", "file") or attribute(element, "source", "dev"),)
        if path is not None
    ]


__all__ = ["DiskWriters", "WritableDisks"]
