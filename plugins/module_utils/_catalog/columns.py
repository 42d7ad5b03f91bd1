# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The conversion of the catalog's rows to records.

The file is untrusted, and SQLite's columns hold any type. So every value is checked.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from .._core.errors import CatalogFailed, InvalidInput
from .._core.paths import absolute
from .._core.plain import from_plain
from .._model.idmap import IdMap, id_maps_from_data
from .._model.mount_names import check_mount_tag

Row = TypeVar("Row")


def is_text(value: object) -> bool:
    return isinstance(value, str)


def read_flag(value: Any) -> bool:
    """Return the flag in a column, because SQLite has no type for flags.

    :raises ValueError: the value is neither 0 nor 1.
    """
    if value not in (0, 1):
        raise ValueError(value)
    return bool(value)


def read_row(path: str, cls: type[Row], row: Mapping[str, Any], readers: Mapping[str, Callable[[Any], object]]) -> Row:
    """Return a row of the catalog at ``path`` as the record ``cls``.

    :arg readers: as for :func:`from_plain`; they raise ``ValueError``, ``TypeError`` or ``InvalidInput``.
    :raises CatalogFailed: the row holds a value that this collection never writes.
    """
    try:
        return from_plain(cls, row, readers)
    except (InvalidInput, LookupError, RecursionError, TypeError, ValueError) as error:
        message = (
            f"The catalog {path} can't be used: a row of its table {cls.__name__} holds what granary.vmstore never "
            "writes, so restore it from a backup."
        )
        raise CatalogFailed(message) from error


def read_list(accepts: Callable[[Any], bool], text: str) -> tuple[Any, ...]:
    """Return the JSON list in a column.

    :raises ValueError: the value isn't a list, or ``accepts`` refuses a value in the list.
    """
    value = json.loads(text)
    if not isinstance(value, list) or not all(map(accepts, value)):
        raise ValueError(text)
    return tuple(value)


def read_texts(text: str) -> dict[str, str]:
    """Return the JSON object in a column, whose values are texts.

    :raises ValueError: the value is anything else.
    """
    value = json.loads(text)
    if not isinstance(value, dict) or not all(map(is_text, value.values())):
        raise ValueError(text)
    return value


def _write_maps(maps: object) -> str | None:
    """Return id maps for a column; ``None`` means that no maps are given, unlike an empty list."""
    return None if maps is None else json.dumps(maps)


def _read_maps(option: str, text: str | None) -> tuple[IdMap, ...] | None:
    return None if text is None else id_maps_from_data(option, json.loads(text))


#: Readers of the columns that describe a mount, in an image's row and in an attachment's row.
MOUNT_READERS: Mapping[str, Callable[[Any], object]] = {
    "mount_tag": functools.partial(check_mount_tag, "mount_tag"),
    "mount_point": functools.partial(absolute, "mount_point"),
    "uid_map": functools.partial(_read_maps, "uid_map"),
    "gid_map": functools.partial(_read_maps, "gid_map"),
}

MOUNT_WRITERS: Mapping[str, Callable[[Any], object]] = dict.fromkeys(("uid_map", "gid_map"), _write_maps)


__all__ = ["MOUNT_READERS", "MOUNT_WRITERS", "is_text", "read_flag", "read_list", "read_row", "read_texts"]
