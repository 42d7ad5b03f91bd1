# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalog's VM disks: which image is attached to which domain of which host, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._core.records import asdict, dataclass
from .._model.idmap import IdMap
from .columns import MOUNT_READERS, maps_to_text, read_row

if TYPE_CHECKING:
    from .catalog import Catalog


@dataclass(frozen=True)
class VmDisk:
    """A row. Tag, mount point, read_only and maps are those in effect for this domain."""

    image_id: int
    host: str
    domain: str
    mount_tag: str
    mount_point: str
    read_only: bool
    uid_map: tuple[IdMap, ...] | None = None
    gid_map: tuple[IdMap, ...] | None = None

    def __str__(self) -> str:
        return f"the domain {self.domain!r} on the host {self.host!r}"


def find_vm_disks(
    catalog: Catalog, *, image_id: int | None = None, host: str | None = None, domain: str | None = None
) -> list[VmDisk]:
    """The disks of an image, a host, a domain, or any of these together; sorted by image, host and domain."""
    rows = catalog.execute(
        "SELECT * FROM vm_disk WHERE (:image_id IS NULL OR image_id = :image_id) AND (:host IS NULL OR host = :host)"
        " AND (:domain IS NULL OR domain = :domain) ORDER BY image_id, host, domain",
        {"image_id": image_id, "host": host, "domain": domain},
    )
    return [read_row(catalog.path, VmDisk, row, MOUNT_READERS) for row in rows]


def put_vm_disk(catalog: Catalog, disk: VmDisk) -> None:
    """Insert the disk, or replace what is known of it."""
    row = {**asdict(disk), "uid_map": maps_to_text(disk.uid_map), "gid_map": maps_to_text(disk.gid_map)}
    delete_vm_disk(catalog, disk.image_id, disk.host, disk.domain)
    catalog.execute(f"INSERT INTO vm_disk ({', '.join(row)}) VALUES ({', '.join(':' + column for column in row)})", row)


def delete_vm_disk(catalog: Catalog, image_id: int, host: str, domain: str) -> None:
    catalog.execute("DELETE FROM vm_disk WHERE image_id = ? AND host = ? AND domain = ?", [image_id, host, domain])


__all__ = ["VmDisk", "delete_vm_disk", "find_vm_disks", "put_vm_disk"]
