# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The planning of the places of VMs, before any host is looked at."""

from __future__ import annotations

import os

from ..._core import records
from ..._core.errors import Conflict, NotFound, UnsupportedAction
from ..._core.records import dataclass
from ..._driver.transfer.registry import transfer_class
from ..._model.datastore import Datastore
from ..._model.declared_vm import LEAVING, NEW, DeclaredVm
from ..._model.names import check_domain
from .known import KnownVms
from .options import VmSpec

#: The system datastore of a VM that gets no other one.
DEFAULT_DATASTORE = 0


@dataclass(frozen=True)
class PlacedVm:
    """A VM with its place before and after the plan.

    :arg before: ``None`` for a VM that doesn't exist.
    :arg after: ``None`` for a VM that is to be absent.
    """

    spec: VmSpec
    before: DeclaredVm | None
    after: DeclaredVm | None

    @property
    def moves(self) -> bool:
        """Return whether the VM gets another host or system datastore."""
        before, after = self.before, self.after
        if before is None or after is None or before.state == NEW:
            return False
        return (before.host, before.datastore_id) != (after.host, after.datastore_id)


def place_vm(known: KnownVms, spec: VmSpec) -> PlacedVm:
    """Return the place of a VM, and record it in ``known``. A value that isn't given stays; a new VM gets the default.

    :raises NotFound: the id of the option ``vm`` belongs to no VM.
    :raises DependencyNotFound: the system datastore is missing.
    :raises Conflict: the VM is being removed, or another VM has its domain.
    :raises UnsupportedAction: the VM can't be in that datastore.
    """
    found = known.find(spec.reference)
    if spec.absent:
        return PlacedVm(spec, found, None)
    if found is None:
        if all(disk.absent for disk in spec.disks) and spec.disks:
            return PlacedVm(spec, None, None)
        return PlacedVm(spec, None, _new(known, spec))
    if found.state == LEAVING:
        raise Conflict(
            f"vm: {found.name!r} is being removed: give the VM state=absent once more, and then create it again."
        )
    datastore = None if spec.datastore is None else _check_system(known.system_datastore(spec.datastore))
    after = records.replace(
        found,
        host=spec.host or found.host,
        domain=spec.domain or found.domain,
        datastore_id=found.datastore_id if datastore is None else datastore.id,
    )
    known.put_vm(after)
    return PlacedVm(spec, found, after)


def _new(known: KnownVms, spec: VmSpec) -> DeclaredVm:
    if spec.reference.isdigit():
        raise NotFound(
            f"vm: there is no VM {spec.reference} in the catalog {known.path}, and a new one, which needs a name, gets "
            "its id by itself."
        )
    if not spec.disks:
        raise NotFound(f"vm: there is no VM {spec.reference!r} in the catalog {known.path}, and a new one needs disks.")
    datastore = known.system_datastore(str(DEFAULT_DATASTORE) if spec.datastore is None else spec.datastore)
    vm = DeclaredVm(
        known.next_id,
        spec.reference,
        check_domain("domain", spec.reference) if spec.domain is None else spec.domain,
        spec.host or os.uname().nodename,
        _check_system(datastore).id,
        NEW,
    )
    known.put_vm(vm)
    return vm


def _check_system(datastore: Datastore) -> Datastore:
    """Return a system datastore whose transfer driver places data on hosts."""
    name = datastore.tm_driver
    if name is not None and not transfer_class(name).info.stores_data:
        raise UnsupportedAction(f"datastore: {datastore.name!r} has the transfer driver {name}, which has no disks.")
    return datastore


__all__ = ["PlacedVm", "place_vm"]
