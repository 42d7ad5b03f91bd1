# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalog's images."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .._core.paths import absolute
from .._core.records import asdict, dataclass
from .._model.idmap import IdMap
from .columns import MOUNT_READERS, maps_to_text, read_row

if TYPE_CHECKING:
    from .catalog import Catalog


def _no_name(_id: int) -> None:
    return None


@dataclass(frozen=True)
class CloneSource:
    """The image that a clone was made of. It may have another name since, or be removed.

    :arg id: ``None`` in a catalog of an earlier version, where only the name was kept, and the image was renamed or
        removed since.
    :arg name: the name of the time when the clone was made.
    """

    id: int | None
    name: str


def clone_origin(source: Image) -> str:
    """Return the origin of a clone of ``source``.

    The id finds the source under a new name. The name finds what was made anew under it.
    """
    return f"image:{source.id}:{source.name}"


def clone_source(origin: str | None) -> CloneSource | None:
    """Read what :func:`clone_origin` returned. An image that isn't a clone has none."""
    found = re.fullmatch("image:([0-9]{0,19}):(.*)", origin or "")
    return found and CloneSource(int(found[1]) if found[1] else None, found[2])


@dataclass(frozen=True)
class Image:
    """A row.

    ``path`` is the resolved directory of an image of type ``filesystem``, else the file that holds the data.
    ``size_mb`` is what the directory held when the image was registered, else the virtual size; in MiB, rounded up.
    Only images of type ``filesystem`` are mounted: the others have no tag.

    :arg format: of the data: ``raw``, ``qcow2`` or another of qemu's names; ``dir`` for a directory.
    :arg fs: the file system that was made in an empty image.
    :arg origin: what the data was made of: a path, a URL without its secrets, or what :func:`clone_origin` returns.
    :arg origin_checksum: ``<algorithm>:<hexadecimal digits>`` of what was at the origin, as it was asked for.
    :arg checksum: the same of the data as it is stored, where it was recorded.
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
        """The row as plain data: maps are lists of dicts, and the origin of a clone is ``image:`` and a name.

        :arg name_of: the name that an image has today, by its id. Without one, it is the name of the time when the
            clone was made.
        """
        row = dict(vars(self))
        source = clone_source(self.origin)
        if source is not None:
            row["origin"] = f"image:{(None if source.id is None else name_of(source.id)) or source.name}"
        for column in ("uid_map", "gid_map"):
            row[column] = None if row[column] is None else [one.as_dict() for one in row[column]]
        return row


def _unless_null(reader: Callable[[Any], object], value: Any) -> object:
    return None if value is None else reader(value)


READERS: Mapping[str, Callable[[Any], object]] = {
    "path": functools.partial(absolute, "path"),
    **{column: functools.partial(_unless_null, reader) for column, reader in MOUNT_READERS.items()},
}


def find_images(catalog: Catalog, *, datastore_id: int | None = None) -> list[Image]:
    """Every image, or those of one datastore, by id."""
    rows = catalog.execute(
        "SELECT * FROM image WHERE :id IS NULL OR datastore_id = :id ORDER BY id", {"id": datastore_id}
    )
    return [_from_row(catalog, row) for row in rows]


def find_image(catalog: Catalog, reference: str | int) -> Image | None:
    """The image with this id, or this name; text of digits only is an id, as no name is."""
    column = "id" if str(reference).isdigit() else "name"
    rows = catalog.execute(f"SELECT * FROM image WHERE {column} = ?", [str(reference)])
    return _from_row(catalog, rows[0]) if rows else None


def image_name(catalog: Catalog, image_id: int) -> str | None:
    """The name of the image with this id."""
    rows = catalog.execute("SELECT name FROM image WHERE id = ?", [image_id])
    return str(rows[0]["name"]) if rows else None


def _from_row(catalog: Catalog, row: Mapping[str, Any]) -> Image:
    return read_row(catalog.path, Image, row, READERS)


def _to_row(image: Image) -> dict[str, Any]:
    return {**asdict(image), "uid_map": maps_to_text(image.uid_map), "gid_map": maps_to_text(image.gid_map)}


def insert_image(catalog: Catalog, image: Image) -> None:
    row = _to_row(image)
    catalog.execute(f"INSERT INTO image ({', '.join(row)}) VALUES ({', '.join(':' + column for column in row)})", row)


def update_image(catalog: Catalog, image: Image) -> None:
    row = _to_row(image)
    catalog.execute(f"UPDATE image SET {', '.join(f'{column} = :{column}' for column in row)} WHERE id = :id", row)


def delete_image(catalog: Catalog, image_id: int) -> None:
    catalog.execute("DELETE FROM image WHERE id = ?", [image_id])


__all__ = [
    "CloneSource",
    "Image",
    "clone_origin",
    "clone_source",
    "delete_image",
    "find_image",
    "find_images",
    "image_name",
    "insert_image",
    "update_image",
]
