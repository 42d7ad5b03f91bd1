# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The domains of this host that can write to a file."""

from __future__ import annotations

import contextlib
import os
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Mapping

from ..._core.errors import LibvirtFailed, NotFound
from ..._libvirt.connection import Hypervisor
from ..._libvirt.domain_xml import attribute, devices, parse


def read_writers(hypervisor: Hypervisor) -> Mapping[str, Mapping[str, bool]]:
    """Return by path of a file or block device, and by domain that can write to it, whether all of the domain's disks
    with it are shareable.

    :raises LibvirtFailed: libvirt can't list its domains.
    """
    found: dict[str, dict[str, bool]] = defaultdict(dict)
    for domain in hypervisor.domains():
        with contextlib.suppress(LibvirtFailed, NotFound):  # the domain may have just been removed
            texts = [domain.persistent_xml(secrets=False)] if domain.is_persistent else []
            running = domain.running_xml()
            for text in [*texts, *([] if running is None else [running])]:
                for path, is_shareable in _writable_disks(parse(text)):
                    known = found[os.path.realpath(path)]
                    known[domain.name] = known.get(domain.name, True) and is_shareable
    return found


class DiskWriters:
    """The other domains that can write to a disk of a domain.

    :arg writers: what :func:`read_writers` returns.
    :arg domain: the name of the domain itself.
    """

    def __init__(self, writers: Mapping[str, Mapping[str, bool]], domain: str) -> None:
        self._writers = writers
        self._domain = domain

    def of(self, path: str, *, is_shareable: bool) -> tuple[str, ...]:
        """Return the names of the domains with which the domain can't have the disk ``path``, too.

        :arg is_shareable: whether the domain's own disk is shareable. Then others can be, too.
        """
        users = self._writers.get(os.path.realpath(path), {})
        return tuple(
            sorted(
                name for name, may_share in users.items() if name != self._domain and not (is_shareable and may_share)
            )
        )


def _writable_disks(root: ET.Element) -> list[tuple[str, bool]]:
    return [
        (path, element.find("shareable") is not None)
        for element in devices(root).findall("disk")
        if element.find("readonly") is None and element.get("device", "disk") != "cdrom"
        for path in (attribute(element, "source", "file") or attribute(element, "source", "dev"),)
        if path is not None
    ]


__all__ = ["DiskWriters", "read_writers"]
