# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalog's images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._core.paths import absolute
from .._model.image import Image
from .columns import MOUNT_READERS, MOUNT_WRITERS
from .table import Table

if TYPE_CHECKING:
    from .catalog import Catalog


def _unless_null(reader: Callable[[Any], object], value: Any) -> object:
    return None if value is None else reader(value)


#: Only images of type filesystem are mounted.
_OPTIONAL_READERS = {column: functools.partial(_unless_null, reader) for column, reader in MOUNT_READERS.items()}

IMAGES = Table(
    "image",
    Image,
    readers={"path": functools.partial(absolute, "path"), **_OPTIONAL_READERS},
    writers=MOUNT_WRITERS,
)


def image_name(catalog: Catalog, image_id: int) -> str | None:
    """Return the name of the image with this id."""
    rows = catalog.execute("SELECT name FROM image WHERE id = ?", [image_id])
    return str(rows[0]["name"]) if rows else None


__all__ = ["IMAGES", "image_name"]
