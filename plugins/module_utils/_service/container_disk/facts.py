# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The results of the modules about the cache of container disks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from ..._core.paths import absolute
from ..._image.container.in_use import find_users
from ..._image.container.reference import parse_reference
from ..._image.container.store import CachedDisk, DiskStore

#: The keys of a disk in a result.
_KEYS = ("file", "format", "virtual_size", "size", "digest", "checksum", "architecture", "path", "names")


def as_result(store: DiskStore, disk: CachedDisk | None) -> dict[str, object]:
    """Return a disk as a part of a module's result. The values of a disk that isn't pulled yet are null."""
    if disk is None:
        return dict.fromkeys(_KEYS)
    return {
        "file": store.file(disk.checksum),
        "format": disk.format,
        "virtual_size": disk.virtual_size,
        "size": disk.size,
        "digest": disk.digest,
        "checksum": f"sha256:{disk.checksum}",
        "architecture": disk.architecture,
        "path": disk.disk,
        "names": sorted(disk.names),
    }


def read_container_disks(options: Mapping[str, Any]) -> Mapping[str, object]:
    """Return the result of the module ``container_disk_cache_info``.

    :raises VmstoreError: the cache or the domains can't be read.
    """
    store = DiskStore(absolute("directory", options["directory"]))
    name = None if options["image"] is None else parse_reference(options["image"]).name
    records = store.read_records()
    users = find_users(store.disks) if records else {}
    disks = [
        {
            **as_result(store, one),
            "pulled": _as_time(one.pulled),
            "last_use": _as_time(store.last_use(one)),
            "users": list(users.get(one.checksum, ())),
        }
        for one in records
        if name is None or name in one.names
    ]
    stored = {one.checksum: store.stored_size(one.checksum) for one in records}
    return {"container_disks": disks, "size": sum(stored.values())}


def _as_time(seconds: float) -> str:
    """Return a time in ISO 8601."""
    return datetime.fromtimestamp(int(seconds), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


__all__ = ["as_result", "read_container_disks"]
