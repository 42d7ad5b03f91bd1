# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Readers of plain data: options of Ansible and parts of a Kubernetes manifest.

A reader returns the value for plain data. It adds a problem and returns :data:`INVALID` for data that isn't accepted.
Several readers use the same :class:`Problems`, so that the user gets all problems at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..._core.errors import print_value
from ..._core.plain import is_integer
from ..._core.problems import Problems
from ..._core.secrets import WITHHELD
from ..quantity import ACCEPTED, read_quantity

#: A function that returns the value for the plain data at a path of the declaration.
Reader = Callable[[Problems, str, object], Any]

#: The result of a reader for data with a problem.
INVALID: Any = type("Invalid", (), {"__repr__": lambda self: "INVALID"})()

#: Upper bound of the characters of an unknown key that are compared with known keys.
_LONGEST_KEY = 64
#: Similarity of an unknown key and the known key that is named instead, from 0 to 1.
_SIMILARITY = 0.6


def camel_case(name: str) -> str:
    """Return KubeVirt's spelling of an option: ``claimName`` for ``claim_name``."""
    first, *others = name.split("_")
    return first + "".join(part.capitalize() for part in others)


class Shape:
    """The keys of a mapping. Each key is accepted in snake_case and in KubeVirt's spelling.

    :arg fields: the reader of each key.
    :arg required: the keys that must be given.
    :arg spelled: KubeVirt's spelling of keys that :func:`camel_case` doesn't return.
    :arg refused: the reason for each key that is known and has no meaning here, in KubeVirt's spelling.
    :arg ignored: the keys that are accepted without effect, in KubeVirt's spelling.
    """

    def __init__(
        self,
        fields: Mapping[str, Reader],
        required: Sequence[str] = (),
        spelled: Mapping[str, Sequence[str]] | None = None,
        refused: Mapping[str, str] | None = None,
        ignored: Sequence[str] = (),
    ) -> None:
        self.fields = fields
        self.required = required
        self.refused = refused or {}
        self.ignored = ignored
        self.names = {name: name for name in fields} | {camel_case(name): name for name in fields}
        for name, spellings in (spelled or {}).items():
            self.names.update(dict.fromkeys(spellings, name))


def read_fields(problems: Problems, path: str, value: object, shape: Shape) -> dict[str, Any]:
    """Return the values of a mapping by the names of their fields. A field without a value, with the value null or with
    a problem is left out. The result is :data:`INVALID` without a required field.
    """
    if not isinstance(value, Mapping):
        problems.add("type", path, _type(value), "a dictionary is expected")
        return INVALID  # type: ignore[no-any-return]
    found: dict[str, Any] = {}
    is_complete = True
    for key, one in value.items():
        name = _name_of(problems, path, key if isinstance(key, str) else print_value(key), one, shape)
        if name is None or one is None:
            continue
        place = join(path, name)
        if name in found:
            problems.add("given_twice", place, str(key), "one spelling of each key is expected")
            continue
        found[name] = shape.fields[name](problems, place, one)
    for name in shape.required:
        if name not in found:
            problems.add("required", join(path, name), None, "it is required")
        is_complete = is_complete and found.get(name) not in (None, INVALID)
    valid = {name: one for name, one in found.items() if one is not INVALID and one is not None}
    return valid if is_complete else INVALID


def join(path: str, name: str) -> str:
    """Return the path of the key ``name`` in the mapping at ``path``."""
    return f"{path}.{name}" if path else name


def _name_of(problems: Problems, path: str, key: str, value: object, shape: Shape) -> str | None:
    """Return the field for a key, and ``None`` for a key without a field."""
    name = shape.names.get(key)
    if name is None and key in shape.refused and value is not None:
        problems.add("refused", join(path, key), _shown(value), shape.refused[key])
    elif name is None and key not in shape.refused and key not in shape.ignored:
        problems.add("unknown", path or "the declaration", key, _nearest(key, shape))
    return name


def _nearest(key: str, shape: Shape) -> str:
    close = difflib.get_close_matches(key[:_LONGEST_KEY], shape.names, 1, _SIMILARITY)
    known = ", ".join(shape.fields) or "nothing"
    return f"this key is unknown. The nearest is {close[0]!r}" if close else f"the known keys are {known}"


def _shown(value: object) -> object:
    """Return a value for a problem: texts and numbers, and only the type of others, because they can hold secrets."""
    return value if isinstance(value, (str, int, float)) else _type(value)


def _type(value: object) -> str:
    return f"<{type(value).__name__}>"


def record(shape: Shape, create: Callable[..., Any]) -> Reader:
    """Return a reader of a mapping that passes the fields to ``create``."""

    def read(problems: Problems, path: str, value: object) -> Any:
        found = read_fields(problems, path, value, shape)
        return INVALID if found is INVALID else create(**found)

    return read


def items(reader: Reader) -> Reader:
    """Return a reader of a list. Elements with problems are left out."""

    def read(problems: Problems, path: str, value: object) -> Any:
        if not isinstance(value, (list, tuple)):
            problems.add("type", path, _type(value), "a list is expected")
            return INVALID
        found = [reader(problems, f"{path}[{place}]", one) for place, one in enumerate(value)]
        return tuple(one for one in found if one is not INVALID)

    return read


def mapping(reader: Reader) -> Reader:
    """Return a reader of a dictionary whose keys are names. Values with problems are left out."""

    def read(problems: Problems, path: str, value: object) -> Any:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            problems.add("type", path, _type(value), "a dictionary with texts as keys is expected")
            return INVALID
        found = {key: reader(problems, f"{path}[{key!r}]", one) for key, one in value.items()}
        return {key: one for key, one in found.items() if one is not INVALID}

    return read


def text(problems: Problems, path: str, value: object) -> Any:
    """Return a text. It isn't empty and can be printed."""
    if isinstance(value, str) and value and value.isprintable():
        return value
    problems.add("type", path, _shown(value), "a text is expected, not empty and without control characters")
    return INVALID


def any_text(problems: Problems, path: str, value: object) -> Any:
    """Return a text of any characters."""
    if isinstance(value, str) and _is_unicode(value):
        return value
    problems.add("type", path, _type(value), "a text is expected")
    return INVALID


def secret_text(problems: Problems, path: str, value: object) -> Any:
    """Return the bytes of a text that can be a secret."""
    if isinstance(value, str) and _is_unicode(value):
        return value.encode()
    problems.add("type", path, WITHHELD, "a text is expected")
    return INVALID


def _is_unicode(text: str) -> bool:
    """Return whether a text has only characters. JSON can have halves of characters (surrogates)."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def secret_line(problems: Problems, path: str, value: object) -> Any:
    """Return a text as :func:`text` does. The text can be a secret."""
    if isinstance(value, str) and value and value.isprintable():
        return value
    problems.add("type", path, WITHHELD, "a text of one line is expected")
    return INVALID


def optional_text(problems: Problems, path: str, value: object) -> Any:
    """Return a text as :func:`text` does. An empty text is no text, as in Kubernetes."""
    return None if value == "" else text(problems, path, value)


def flag(problems: Problems, path: str, value: object) -> Any:
    """Return true or false."""
    if isinstance(value, bool):
        return value
    problems.add("type", path, _shown(value), "true or false is expected")
    return INVALID


def whole_number(problems: Problems, path: str, value: object) -> Any:
    """Return a whole number of at most 64 bits."""
    if is_integer(value) and -(2**63) <= value < 2**63:  # type: ignore[operator]  # it is a number
        return value
    problems.add("type", path, _shown(value), "a whole number is expected")
    return INVALID


def quantity(problems: Problems, path: str, value: object) -> Any:
    """Return the bytes of a quantity."""
    found = read_quantity(value)
    if found is None:
        problems.add("quantity", path, _shown(value), ACCEPTED)
        return INVALID
    return found


def choice(*values: str, rule: str, can_be_empty: bool = True) -> Reader:
    """Return a reader of one of ``values``.

    :arg can_be_empty: whether an empty text is no text, as in Kubernetes.
    """

    def read(problems: Problems, path: str, value: object) -> Any:
        if value == "" and can_be_empty:
            return None
        if value in values:
            return value
        problems.add(rule, path, _shown(value), f"one of {', '.join(values)} is expected")
        return INVALID

    return read


def present(problems: Problems, path: str, value: object) -> Any:
    """Return whether a feature is switched on: by an empty dictionary as in KubeVirt, or by a flag."""
    if isinstance(value, Mapping):
        enabled = read_fields(problems, path, value, _FEATURE)
        return INVALID if enabled is INVALID else enabled.get("enabled", True)
    return flag(problems, path, value)


#: KubeVirt's ``FeatureState``.
_FEATURE = Shape({"enabled": flag})


__all__ = [
    "INVALID",
    "Reader",
    "Shape",
    "any_text",
    "camel_case",
    "choice",
    "flag",
    "items",
    "join",
    "mapping",
    "optional_text",
    "present",
    "quantity",
    "read_fields",
    "record",
    "secret_line",
    "secret_text",
    "text",
    "whole_number",
]
