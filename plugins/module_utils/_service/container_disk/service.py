# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The desired state of the cache of container disks on this host."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from ..._core.errors import Conflict
from ..._core.plan import Action, Plan
from ..._image.container.cache import ContainerDiskCache, DiskRequest, Outlook
from ..._image.container.in_use import find_users
from ..._image.container.prune import Pruning, Removal, remove, remove_name
from ..._image.container.store import CachedDisk, DiskStore
from ..service import Service
from .facts import as_result
from .options import parse_options


class ContainerDiskCacheService(Service):
    """Plan one disk of a cache, and the removal of unused disks."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.desired = parse_options(options)
        self.store = DiskStore(self.desired.directory)
        #: The checksum of the present disk, which no pruning removes.
        self._wanted: set[str] = set()

    def plan(self) -> Plan:
        plan = Plan()
        self.store.check_directory()
        if self.desired.request is not None:
            (self._plan_absent if self.desired.is_absent else self._plan_present)(plan, self.desired.request)
        if self.desired.max_age is not None or self.desired.max_size is not None:
            if plan.actions and self.will_run:
                plan.further = functools.partial(self._plan_pruning, plan)
            else:
                plan.actions += self._plan_pruning(plan)
        return plan

    def _plan_present(self, plan: Plan, request: DiskRequest) -> None:
        cache = ContainerDiskCache(self.store, self.log)
        outlook = cache.look(request)
        result = {"image": request.image.name, **as_result(self.store, outlook.disk), "digest": outlook.digest}
        plan.result["container_disk"] = result
        self._wanted = set() if outlook.disk is None else {outlook.disk.checksum}

        def obtain() -> None:
            result.update(as_result(self.store, cache.obtain(request, outlook)))

        name = _name_of_change(outlook)
        if name is None:
            if self.will_run:
                plan.afterwards.append(obtain)  # the time of the last use is no change
            return
        before = None if outlook.previous is None else {"digest": outlook.previous.digest}
        plan.actions.append(Action(name, request.image.name, before, {"digest": outlook.digest}, obtain))

    def _plan_absent(self, plan: Plan, request: DiskRequest) -> None:
        name = request.image.name
        records = self.store.read_records()
        found = [one for one in records if name in one.names and self._is_meant(one)]
        removed = [one for one in found if one.names == (name,)]
        for disk in found:
            before = {"digest": disk.digest, "names": list(disk.names)}
            if disk not in removed:
                after = {**before, "names": [one for one in disk.names if one != name]}
                forget = functools.partial(remove_name, self.store, disk, name)
                plan.actions.append(Action("remove name of container disk", name, before, after, forget))
                continue
            self._require_unused(disk, [one for one in records if one not in removed])
            drop = functools.partial(remove, self.store, Removal(disk, disk.checksum))
            plan.actions.append(Action("remove container disk", name, before, None, finish=drop))

    def _is_meant(self, disk: CachedDisk) -> bool:
        """Return whether a record is of the variant that the options name. Without them, all variants are meant."""
        request = self.desired.request
        return request is not None and (
            request.architecture in (None, disk.architecture) and request.path in (None, disk.path)
        )

    def _require_unused(self, disk: CachedDisk, kept: Sequence[CachedDisk]) -> None:
        """Refuse to remove a disk that is used, unless another record keeps it.

        :raises Conflict: naming the users.
        """
        if any(one.checksum == disk.checksum for one in kept):
            return
        users = self._users().get(disk.checksum)
        if users:
            raise Conflict(
                f"The container disk {disk.names[0]} is not removed, because {', '.join(users)} has it: remove that "
                "disk of the domain first."
            )

    @functools.cached_property
    def _found_users(self) -> Mapping[str, Sequence[str]]:
        return find_users(self.store.disks)

    def _users(self) -> Mapping[str, Sequence[str]]:
        """Return the users of the disks by checksum. Without any disk, the domains aren't read."""
        return self._found_users if self.store.list_disks() else {}

    def _plan_pruning(self, plan: Plan) -> list[Action]:
        pruning = Pruning(self.store, {*self._users(), *self._wanted})
        removals = pruning.choose(self.desired.max_age, self.desired.max_size)
        size, most = pruning.size_without(removals), self.desired.max_size
        if most is not None and size > most:
            plan.warnings.append(
                f"The cache {self.store.directory} keeps {size >> 20} MiB, because its disks are in use or were used "
                "within the last hour."
            )
        return [
            Action(
                "prune container disk",
                one.checksum if one.disk is None or not one.disk.names else one.disk.names[0],
                None if one.disk is None else {"digest": one.disk.digest, "names": list(one.disk.names)},
                None,
                finish=functools.partial(remove, self.store, one, pruning.latest),
            )
            for one in removals
        ]


def _name_of_change(outlook: Outlook) -> str | None:
    """Return the name of the change that obtaining a disk makes, or ``None`` without a change."""
    if outlook.disk is None:
        return "pull container disk"
    if outlook.is_loose:
        return "protect container disk"
    return "name container disk" if outlook.is_moved else None


__all__ = ["ContainerDiskCacheService"]
