# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Checks of data against the part of JSON Schema that the schema of scenarios uses, with errors for people."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

from .errors import SimulatedDatastoreError

SCHEMA = Path(__file__).with_name("scenario.schema.json")
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def check(data: Any, schema: dict[str, Any] | None = None, where: str = "scenario") -> None:
    """Raise :class:`SimulatedDatastoreError` for the first violation of *schema* in *data* (default: that of
    scenarios).
    """
    root = json.loads(SCHEMA.read_text(encoding="utf-8"))
    _check(data, schema or root, root, where)


def _check(data: Any, schema: dict[str, Any], root: dict[str, Any], where: str) -> None:
    schema = _resolve(data, schema, root)
    if "enum" in schema and data not in schema["enum"]:
        raise SimulatedDatastoreError(
            f"{where}: {data!r} isn't one of {', '.join(map(str, schema['enum']))}{_near(data, schema['enum'])}."
        )
    if "type" in schema:
        _check_type(data, schema["type"], where)
    if "minimum" in schema and isinstance(data, (int, float)) and data < schema["minimum"]:
        raise SimulatedDatastoreError(f"{where}: {data!r} is less than {schema['minimum']}.")
    if isinstance(data, dict):
        _check_object(data, schema, root, where)
    elif isinstance(data, list):
        _check_array(data, schema, root, where)


def _resolve(data: Any, schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """Return the schema for *data* behind references and alternatives."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        # The first schema of the data's type, otherwise the last one, whose error is useful.
        schema = next((each for each in schema["anyOf"] if isinstance(data, _TYPES[each["type"]])), schema["anyOf"][-1])
    return schema


def _check_type(data: Any, types: str | list[str], where: str) -> None:
    names = [types] if isinstance(types, str) else types
    # In Python a boolean is a number.
    if not any(isinstance(data, _TYPES[name]) and (name == "boolean" or not isinstance(data, bool)) for name in names):
        raise SimulatedDatastoreError(f"{where}: {data!r} isn't of type {' or '.join(names)}.")


def _check_array(data: list[Any], schema: dict[str, Any], root: dict[str, Any], where: str) -> None:
    if len(data) < schema.get("minItems", 0):
        raise SimulatedDatastoreError(f"{where}: an empty list, at least {schema['minItems']} is needed.")
    for number, item in enumerate(data):
        _check(item, schema.get("items", {}), root, f"{where}[{number}]")


def _check_object(data: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], where: str) -> None:
    properties = schema.get("properties", {})
    for key, value in data.items():
        if key in properties:
            _check(value, properties[key], root, f"{where}.{key}")
        elif schema.get("additionalProperties") is False:
            raise SimulatedDatastoreError(
                f"{where}: there is no key {key!r}{_near(key, properties)}, accepted are {', '.join(properties)}."
            )
    for key in schema.get("required", ()):
        if key not in data:
            raise SimulatedDatastoreError(f"{where}: the key {key!r} is missing.")


def _near(value: Any, accepted: Any) -> str:
    near = difflib.get_close_matches(str(value), [str(each) for each in accepted], 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


__all__ = ["SCHEMA", "check"]
