# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An image of the catalog (spec: storage-driver, virtiofs-datastore)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .._core.plain import to_plain
from .._core.records import dataclass
from .idmap import IdMap


def _no_name(_id: int) -> None:
    return None


@dataclass(frozen=True)
class CloneSource:
    """The image that a clone was made of. Since then, the image may have been renamed or removed.

    :arg id: ``None`` in a catalog of an earlier version, which recorded only the name, if the image was renamed or
        removed.
    :arg name: the name of the image when the clone was made.
    """

    id: int | None
    name: str


def clone_origin(source: Image) -> str:
    """Return the origin of a clone of ``source``.

    The id identifies a source that was renamed. The name identifies a source that was created again.
    """
    return f"image:{source.id}:{source.name}"


def clone_source(origin: str | None) -> CloneSource | None:
    """Return the image that :func:`clone_origin` described; ``None`` for an image that isn't a clone."""
    found = re.fullmatch("image:([0-9]{0,19}):(.*)", origin or "")
    return found and CloneSource(int(found[1]) if found[1] else None, found[2])


@dataclass(frozen=True)
class Image:
    """A row of the catalog.

    ``path`` is the resolved directory of an image of type ``filesystem``, else the file with the data. ``size_mb`` is
    the size of the directory when the image was registered, else the virtual size; in MiB, rounded up. Only images of
    type ``filesystem`` are mounted, so the others have no tag.

    :arg format: format of the data: ``raw``, ``qcow2`` or another of qemu's names; ``dir`` for a directory.
    :arg fs: the file system that was created in an empty image.
    :arg origin: the origin of the data: a path, a URL without its secrets, or the text that :func:`clone_origin`
        returns.
    :arg origin_checksum: ``<algorithm>:<hexadecimal digits>`` of the origin, if the user gave a checksum.
    :arg checksum: the checksum of the stored data, if it was recorded.
    """

    id: int
    name: str
    datastore_id: int
    type: str
    path: str
    size_mb: int
    persistent: bool
    read_only: bool
    mount_tag: str | None = None
    mount_point: str | None = None
    uid_map: tuple[IdMap, ...] | None = None
    gid_map: tuple[IdMap, ...] | None = None
    format: str = "dir"
    fs: str | None = None
    origin: str | None = None
    origin_checksum: str | None = None
    checksum: str | None = None

    def as_dict(self, name_of: Callable[[int], str | None] = _no_name) -> dict[str, Any]:
        """Return the row as plain data, in which the origin of a clone is ``image:`` and a name.

        :arg name_of: returns the present name of an image by its id. Without this function, the name is that of the
            time when the clone was made.
        """
        row = dict(to_plain(self))
        source = clone_source(self.origin)
        if source is not None:
            row["origin"] = f"image:{(None if source.id is None else name_of(source.id)) or source.name}"
        return row


__all__ = ["CloneSource", "Image", "clone_origin", "clone_source"]
