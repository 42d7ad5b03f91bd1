# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The locks of VMs on the front-end. One run at a time works on the disks of a VM."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from collections.abc import Iterable, Iterator

from ..._catalog.catalog import Catalog, locate_catalog
from ..._catalog.vms import VMS
from ..._core.locks import locked

#: Suffix of the lock file for work on the disks of VMs. Each VM has a byte in it.
LOCK_SUFFIX = ".vms.lock"

#: Time to wait for another run with the same VM, in seconds. That run may copy a disk.
LOCK_DEADLINE = 3600.0


@contextlib.contextmanager
def locked_vms(path: str, catalog: Catalog, references: Iterable[str]) -> Iterator[None]:
    """Hold the locks of VMs for the length of a block.

    :arg path: path of the catalog, beside which the lock file is.
    :arg references: names or ids of the VMs, which may be missing.
    :raises LockTimeout: another run works on one of the VMs for too long.
    """
    place = locate_catalog(path)
    name_of = {str(vm.id): vm.name for vm in VMS.rows(catalog)}
    names = {name_of.get(reference, reference) for reference in references}
    places = sorted({int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big") for name in names})

    def lock(descriptor: int, how: int) -> None:
        for number in places:
            fcntl.lockf(descriptor, how, 1, number)

    with locked(place.path + LOCK_SUFFIX, deadline=LOCK_DEADLINE, style=lock, identity=place.owner):
        yield


__all__ = ["locked_vms"]
