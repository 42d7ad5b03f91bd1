# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The conditions under which the directory of a VM can move to another host or system datastore."""

from __future__ import annotations

from ..._core.errors import Conflict, NotFound, UnsupportedAction
from ..._model.declared_vm import DeclaredVm
from .actions import subject
from .known import KnownVms
from .transfers import Transfers
from .world import World


def require_movable(known: KnownVms, world: World, transfers: Transfers, before: DeclaredVm, after: DeclaredVm) -> None:
    """Require that a VM can move, and take room for its data.

    :raises Conflict: the VM runs, or its disks are in use; :raises NotFound: the data is on neither host.
    :raises UnsupportedAction: a driver can't move the disks; :raises NoSpace: the new host has too little room.
    """
    old, new = known.place(before), known.place(after)
    if world.is_running(old):
        raise Conflict(
            f"The VM {after.name!r} can't move while it runs on the host {before.host!r}: shut it down there first."
        )
    system, target = known.datastore_of(before), known.datastore_of(after)
    if system.tm_driver != target.tm_driver:
        raise UnsupportedAction(
            f"datastore: the VM {after.name!r} can't move from {system.name!r} with the transfer driver "
            f"{system.tm_driver} to {target.name!r} with {target.tm_driver}; both need the same driver."
        )
    disks = known.disks(after.id).values()
    transfers.require(None, target, "mv")
    for disk in disks:
        transfers.require(known.image_of(disk), target, "mv")
    if disks and not world.vm(old).exists and not world.vm(new).exists:
        raise NotFound(f"The directory of the VM {after.name!r} is not at {old}, so it can't move to {new}.")
    world.require_datastore(new)
    for disk in disks:
        facts = world.disk(old, disk.disk_id)
        if facts is not None and before.host != after.host and not transfers.info(None, target).is_shared:
            world.take_room(new, facts.allocated, f"The {subject(after, disk)}")


__all__ = ["require_movable"]
