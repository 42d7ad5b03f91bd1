# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalog's datastores."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .._core.arguments import is_integer
from .._core.paths import absolute
from .._model.datastore import Datastore
from .columns import is_text, read_list, read_row, read_texts

if TYPE_CHECKING:
    from .catalog import Catalog

#: Ids below are the defaults', which every catalog has.
FIRST_ID = 100

#: Columns that hold JSON.
ENCODED = ("clusters", "safe_dirs", "restricted_dirs", "bridge_list", "attributes")

READERS: Mapping[str, Callable[[Any], object]] = {
    "base_path": functools.partial(absolute, "base_path"),
    "clusters": functools.partial(read_list, is_integer),
    "attributes": read_texts,
    **dict.fromkeys(("safe_dirs", "restricted_dirs", "bridge_list"), functools.partial(read_list, is_text)),
}


def default_datastores(location: str) -> list[Datastore]:
    """The three that a front-end starts with, in the directory ``location``."""
    return [
        Datastore(0, "system", "system", None, "local", f"{location}/0"),
        Datastore(1, "default", "image", "fs", "local", f"{location}/1"),
        Datastore(2, "files", "file", "fs", "local", f"{location}/2"),
    ]


def all_datastores(catalog: Catalog) -> list[Datastore]:
    """Every datastore, by id."""
    return [_from_row(catalog, row) for row in catalog.execute("SELECT * FROM datastore ORDER BY id")]


def find_datastore(catalog: Catalog, reference: str | int) -> Datastore | None:
    """The datastore with this id, or this name; text of digits only is an id, as no name is."""
    column = "id" if str(reference).isdigit() else "name"
    rows = catalog.execute(f"SELECT * FROM datastore WHERE {column} = ?", [str(reference)])
    return _from_row(catalog, rows[0]) if rows else None


def _from_row(catalog: Catalog, row: Mapping[str, Any]) -> Datastore:
    return read_row(catalog.path, Datastore, row, READERS)


def _to_row(datastore: Datastore) -> dict[str, object]:
    row = datastore.as_dict()
    for column in ENCODED:
        row[column] = json.dumps(row[column])
    return row


def insert_datastore(catalog: Catalog, datastore: Datastore) -> None:
    row = _to_row(datastore)
    catalog.execute(
        f"INSERT INTO datastore ({', '.join(row)}) VALUES ({', '.join(':' + column for column in row)})", row
    )


def update_datastore(catalog: Catalog, datastore: Datastore) -> None:
    row = _to_row(datastore)
    catalog.execute(f"UPDATE datastore SET {', '.join(f'{column} = :{column}' for column in row)} WHERE id = :id", row)


def delete_datastore(catalog: Catalog, datastore_id: int) -> None:
    catalog.execute("DELETE FROM datastore WHERE id = ?", [datastore_id])


__all__ = [
    "FIRST_ID",
    "Datastore",
    "all_datastores",
    "default_datastores",
    "delete_datastore",
    "find_datastore",
    "insert_datastore",
    "update_datastore",
]
