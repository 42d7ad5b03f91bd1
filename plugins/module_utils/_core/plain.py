# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one conversion between records (:mod:`.records`) and plain data, which JSON, YAML and SQL can hold: texts,
numbers, flags, null, lists and dictionaries.

Plain data may come from anybody. What becomes of it is decided by the annotations of the record that is expected, never
by the data.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType

from .records import TYPE_CHECKING, fields, is_dataclass

if TYPE_CHECKING:
    from typing import Any, TypeVar

    Record = TypeVar("Record")

#: Numbers that every reader of the data can hold: SQLite's and libvirt's have 64 bits.
_NUMBERS = range(-(2**63), 2**63)


def to_plain(value: Any) -> Any:
    """Return plain data: a record is a dictionary of its fields, tuples and sets are lists. All of it is copied, but
    for values that are neither plain nor a record.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: to_plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {key: to_plain(one) for key, one in value.items()}
    return value


class Mismatch(ValueError):
    """A value isn't what its annotation says.

    :arg path: the names that lead to the value: ``mounts.tag``; empty where the record itself is something else.
    """

    def __init__(self, path: str, value: object) -> None:
        super().__init__(f"{path or 'the data'}: {value!r}")
        self.path = path
        self.value = value


def from_plain(
    cls: type[Record], data: object, readers: Mapping[str, Callable[[Any], object]] = MappingProxyType({})
) -> Record:
    """Return the record that :func:`to_plain` made ``data`` of. Annotations of its fields are as :func:`read_plain`
    takes them, with records that the module of ``cls`` knows.

    :arg readers: by field, what turns plain data into the field's value instead. What it raises passes.
    :raises Mismatch: a field is missing or unknown, or a value isn't of the field's type.
    """
    known = {one.name: str(one.type) for one in fields(cls)}  # type: ignore[arg-type]  # any record
    if not isinstance(data, Mapping):
        raise Mismatch("", data)
    for name in data:
        if name not in known:
            raise Mismatch(str(name), data[name])
    kinds = vars(sys.modules[cls.__module__])
    values = {}
    for name, annotation in known.items():
        if name not in data:
            raise Mismatch(name, None)
        try:
            read = readers.get(name)
            values[name] = read(data[name]) if read else read_plain(data[name], annotation, kinds)
        except Mismatch as error:
            raise Mismatch(f"{name}.{error.path}".rstrip("."), error.value) from error
    return cls(**values)


def read_plain(value: Any, annotation: str, kinds: Mapping[str, Any]) -> Any:
    """Return what plain data stands for.

    :arg annotation: ``str``, ``int`` (of at most 64 bits), ``bool``, ``None``, the name of a record,
        ``tuple[..., ...]`` or ``dict[str, ...]`` of these, or several of all these with ``|`` between them.
    :arg kinds: the records by name.
    :raises Mismatch: the value isn't of that type.
    """
    if annotation.startswith("tuple[") and annotation.endswith(", ...]"):
        return _read_tuple(value, annotation[len("tuple[") : -len(", ...]")], kinds)
    if annotation.startswith("dict[str, ") and annotation.endswith("]"):
        return _read_dict(value, annotation[len("dict[str, ") : -1], kinds)
    first, *others = annotation.split(" | ")
    if others:
        try:
            return read_plain(value, first, kinds)
        except Mismatch:
            if others == ["None"] and value is not None:
                raise  # which tells more
            return read_plain(value, " | ".join(others), kinds)
    if annotation in _PLAIN:
        if not _PLAIN[annotation](value):
            raise Mismatch("", value)
        return value
    kind = kinds.get(annotation)
    if not is_dataclass(kind):
        raise Mismatch("", value)
    return from_plain(kind, value)  # type: ignore[arg-type]  # a class, as annotations name classes


def _read_tuple(value: Any, annotation: str, kinds: Mapping[str, Any]) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise Mismatch("", value)
    return tuple(read_plain(one, annotation, kinds) for one in value)


def _read_dict(value: Any, annotation: str, kinds: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise Mismatch("", value)
    return {key: read_plain(one, annotation, kinds) for key, one in value.items()}


def is_integer(value: object) -> bool:
    """Return whether a value is a whole number, and not ``true`` or ``false``, which are numbers to Python."""
    return isinstance(value, int) and not isinstance(value, bool)


#: Types of plain data.
_PLAIN: Mapping[str, Callable[[object], bool]] = {
    "None": lambda value: value is None,
    "int": lambda value: is_integer(value) and value in _NUMBERS,
    "bool": lambda value: isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
}


__all__ = ["Mismatch", "from_plain", "is_integer", "read_plain", "to_plain"]
