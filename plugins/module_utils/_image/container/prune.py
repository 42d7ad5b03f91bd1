# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The removal of container disks that nobody uses."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from ..._core.records import dataclass, replace
from .store import CachedDisk, DiskStore

#: The time after its last use in which a disk stays in any case in seconds, because a domain may be about to get it.
GRACE = 3600


@dataclass(frozen=True)
class Removal:
    """The removal of a record, and of its disk unless another record has the same disk.

    :arg disk: the record, or ``None`` for a disk without a record.
    :arg checksum: the checksum of the disk.
    """

    disk: CachedDisk | None
    checksum: str


class Pruning:
    """A choice of the disks to remove.

    :arg store: the cache.
    :arg users: the checksums of the disks that a domain or a program uses.
    """

    def __init__(self, store: DiskStore, users: Collection[str]) -> None:
        self._store = store
        self._users = users
        #: The latest time of the last use of a disk that may be removed, in seconds since the epoch.
        self.latest = time.time() - GRACE
        self._last_use = {disk: store.last_use(disk) for disk in store.read_records()}

    def choose(self, max_age: float | None, max_size: int | None) -> list[Removal]:
        """Return the removals, beginning with the disk that was used first. Disks without a record are removed, too.

        :arg max_age: seconds since the last use.
        :arg max_size: upper bound of the storage of all disks in bytes.
        """
        present = self._store.list_disks()
        known = {disk.checksum for disk in self._last_use}
        orphans = [Removal(None, one) for one in present if one not in {*known, *self._users}]
        kept = sorted(self._last_use, key=lambda disk: self._last_use[disk])
        removed = [disk for disk in kept if disk.checksum not in present]
        if max_age is not None:
            oldest = self.latest + GRACE - max_age
            removed += [disk for disk in kept if self._is_unused(disk) and self._last_use[disk] < oldest]
        kept = [disk for disk in kept if disk not in removed]
        while max_size is not None and self._size(kept) > max_size:
            unused = next(filter(self._is_unused, kept), None)
            if unused is None:
                break
            kept.remove(unused)
            removed.append(unused)
        return orphans + [Removal(disk, disk.checksum) for disk in removed]

    def size_without(self, removals: Sequence[Removal]) -> int:
        """Return the storage of the disks that stay in bytes."""
        removed = {one.disk for one in removals}
        return self._size([disk for disk in self._last_use if disk not in removed])

    def _size(self, disks: Sequence[CachedDisk]) -> int:
        return sum(map(self._store.stored_size, {disk.checksum for disk in disks}))

    def _is_unused(self, disk: CachedDisk) -> bool:
        return disk.checksum not in self._users and self._last_use[disk] < self.latest


def remove(store: DiskStore, removal: Removal, latest: float | None = None) -> str | None:
    """Remove a disk, and return the reason if it stays.

    :arg latest: see :class:`Pruning`; ``None`` without a bound.
    :raises FileAccessFailed: the disk can't be removed; :raises LockTimeout: another program changes the cache.
    """
    with store.changing():
        records = store.read_records()
        for one in records:
            if removal.disk is not None and one.key == removal.disk.key:
                if latest is not None and store.last_use(one) > latest:
                    return "another program has just used it"
                store.remove(one)
        if all(one.checksum != removal.checksum or one == removal.disk for one in records):
            store.remove_disk(removal.checksum)
    return None


def remove_name(store: DiskStore, disk: CachedDisk, name: str) -> None:
    """Remove one of several names of an image.

    :raises FileAccessFailed: the record can't be changed; :raises LockTimeout: another program changes the cache.
    """
    with store.changing():
        for one in store.read_records():
            if one.key == disk.key:
                kept = tuple(other for other in one.names if other != name)
                store.write(replace(one, names=kept), store.last_use(one))


__all__ = ["GRACE", "Pruning", "Removal", "remove", "remove_name"]
