# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A table of the catalog, whose rows are dataclasses of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .._core.plain import to_plain
from .._core.records import fields
from .columns import read_flag, read_row

if TYPE_CHECKING:
    from .catalog import Catalog

Row = TypeVar("Row")


class Table(Generic[Row]):
    """A table of the catalog: reads and writes its rows.

    :arg name: name of the table in the schema.
    :arg row: the dataclass of the rows. Fields are columns of the same name.
    :arg key: the columns that identify a row; rows are sorted by them.
    :arg readers: by column, a function that converts the column's value to that of the field, as for :func:`read_row`.
    :arg writers: by column, a function that converts the plain data of the field to the column's value.
    """

    def __init__(
        self,
        name: str,
        row: type[Row],
        *,
        key: tuple[str, ...] = ("id",),
        readers: Mapping[str, Callable[[Any], object]],
        writers: Mapping[str, Callable[[Any], object]],
    ) -> None:
        self.name = name
        self._row = row
        self._key = key
        flags = [field.name for field in fields(row) if field.type == "bool"]  # type: ignore[arg-type]  # any record
        self._readers = {**dict.fromkeys(flags, read_flag), **readers}
        self._writers = writers
        self._is_key = " AND ".join(f"{column} = :{column}" for column in key)

    def rows(self, catalog: Catalog, **values: object) -> list[Row]:
        """Return the rows with these values in their columns, sorted by key. ``None`` stands for any value.

        :raises CatalogFailed: a row holds a value that this collection never writes.
        """
        given = {column: value for column, value in values.items() if value is not None}
        condition = " AND ".join(f"{column} = :{column}" for column in given) or "true"
        statement = f"SELECT * FROM {self.name} WHERE {condition} ORDER BY {', '.join(self._key)}"
        return [
            read_row(catalog.path, self._row, dict(row), self._readers) for row in catalog.execute(statement, given)
        ]

    def find(self, catalog: Catalog, reference: str | int) -> Row | None:
        """Return the row with this id or this name. Text of digits only is an id, because no name has digits only.

        :raises CatalogFailed: a row holds a value that this collection never writes.
        """
        column = "id" if str(reference).isdigit() else "name"
        found = self.rows(catalog, **{column: str(reference)})
        return found[0] if found else None

    def insert(self, catalog: Catalog, row: Row) -> None:
        values = self._values(row)
        columns = ", ".join(values)
        catalog.execute(
            f"INSERT INTO {self.name} ({columns}) VALUES ({', '.join(f':{one}' for one in values)})", values
        )

    def update(self, catalog: Catalog, row: Row) -> None:
        """Replace the row that has the key of ``row``."""
        values = self._values(row)
        changes = ", ".join(f"{column} = :{column}" for column in values)
        catalog.execute(f"UPDATE {self.name} SET {changes} WHERE {self._is_key}", values)

    def put(self, catalog: Catalog, row: Row) -> None:
        """Insert the row, or replace the one with its key."""
        self.delete(catalog, *(getattr(row, column) for column in self._key))
        self.insert(catalog, row)

    def delete(self, catalog: Catalog, *key: object) -> None:
        catalog.execute(f"DELETE FROM {self.name} WHERE {self._is_key}", dict(zip(self._key, key)))

    def _values(self, row: Row) -> dict[str, object]:
        return {
            column: self._writers[column](value) if column in self._writers else value
            for column, value in to_plain(row).items()
        }


__all__ = ["Table"]
