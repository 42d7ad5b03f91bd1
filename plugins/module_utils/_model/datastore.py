# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A datastore, for the catalog and for drivers."""

from __future__ import annotations

import os

from .._core.records import dataclass, field

#: The attributes of a datastore that its driver mounts. Newer front-ends have them.
NFS_AUTO = tuple(f"nfs_auto_{name}" for name in ("enable", "host", "path", "opts"))

#: The attribute of a system datastore with the host that caches images (spec: onestor-datastore).
REPLICA_HOST = "replica_host"


@dataclass(frozen=True)
class Datastore:
    """A row of the catalog.

    ``ds_driver`` is ``None`` for a system datastore, ``tm_driver`` for a backup datastore (spec: storage-driver).
    ``shared`` requires that the directory is on a mounted shared file system, and ``marker`` is the UUID of that store.
    """

    id: int
    name: str
    type: str
    ds_driver: str | None
    tm_driver: str | None
    base_path: str
    clusters: tuple[int, ...] = (0,)
    safe_dirs: tuple[str, ...] = ()
    restricted_dirs: tuple[str, ...] = ()
    bridge_list: tuple[str, ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)
    shared: bool = False
    marker: str | None = None

    @property
    def mounts_automatically(self) -> bool:
        """Return whether the driver mounts the datastore. The default of NFS_AUTO_ENABLE is no."""
        return self.attributes.get("nfs_auto_enable", "").strip().lower() == "yes"

    @property
    def replica_host(self) -> str | None:
        """Return the host that caches images for this system datastore, or ``None``."""
        return self.attributes.get(REPLICA_HOST, "").strip() or None

    def as_dict(self) -> dict[str, object]:
        """Return the row as plain data."""
        from .._core.plain import to_plain  # drivers don't need the clusters

        return dict(to_plain(self))

    def directories(self) -> list[str]:
        """Return the directories that must not be registered as images: the datastore's own directory, and the
        directory of all datastores that contains it.
        """
        base_path = os.path.normpath(self.base_path)
        location, name = os.path.split(base_path)
        return [base_path, location] if name == str(self.id) else [base_path]


__all__ = ["NFS_AUTO", "REPLICA_HOST", "Datastore"]
