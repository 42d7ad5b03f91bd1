# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An attachment: the use of an image by a domain of a host."""

from __future__ import annotations

from .._core.records import dataclass
from .idmap import IdMap


@dataclass(frozen=True)
class Attachment:
    """A row of the catalog. Tag, mount point, read_only and maps are those in effect for this domain."""

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


__all__ = ["Attachment"]
