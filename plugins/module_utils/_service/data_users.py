# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who uses the data of images in fact, whatever the catalog knows: programs that have it open, and domains of this host's libvirt."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from .._core.errors import LibvirtFailed
from .._driver.base import DatastoreDriver

#: Sockets of libvirtd and of virtqemud. Where there is neither, this host runs no domains.
SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")


class DataUsers:
    """Each libvirt and datastore is asked once."""

    def __init__(self) -> None:
        self._domains: Mapping[str, Sequence[str]] | None = None

    def running(self, driver: DatastoreDriver, source: str) -> list[str]:
        """Programs that have the data ``source`` of the driver's datastore open now.

        :raises VmstoreError: the datastore doesn't answer.
        """
        return list(driver.users(source))

    def all(self, driver: DatastoreDriver, source: str) -> list[str]:
        """As :meth:`running`, and the domains that would open it when they start."""
        if self._domains is None:
            self._domains = _domains()
        own = os.path.realpath(source)
        domains = {domain for path, names in self._domains.items() if path == own or path.startswith(f"{own}.snap/") for domain in names}
        return [*(f"the domain {domain!r} of this host's libvirt" for domain in sorted(domains)), *self.running(driver, source)]


def _domains() -> Mapping[str, Sequence[str]]:
    if not any(map(os.path.exists, SOCKETS)):
        return {}
    from .._libvirt.connection import DEFAULT_URI
    from .._libvirt.domain_disks import files_of_domains

    try:
        return files_of_domains(DEFAULT_URI)
    except LibvirtFailed:  # the front-end needs no libvirt, and its user may not be allowed to ask
        return {}


__all__ = ["DataUsers"]
