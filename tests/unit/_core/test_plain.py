# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records and plain data."""

from __future__ import annotations

import json

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.plain import (
    Mismatch,
    from_plain,
    read_plain,
    to_plain,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.records import dataclass, field


@dataclass(frozen=True)
class Part:
    name: str
    size: int = 0


@dataclass(frozen=True)
class Whole:
    name: str
    is_good: bool
    size: int
    parts: tuple[Part, ...] = ()
    limit: int | None = None
    labels: dict[str, str] = field(default_factory=dict)
    best: Part | None = None


WHOLE = Whole("x", True, 3, (Part("a"), Part("b", 2)), None, {"k": "v"}, Part("c"))
PLAIN = {
    "name": "x",
    "is_good": True,
    "size": 3,
    "parts": [{"name": "a", "size": 0}, {"name": "b", "size": 2}],
    "limit": None,
    "labels": {"k": "v"},
    "best": {"name": "c", "size": 0},
}


def test_there_and_back_through_json() -> None:
    assert to_plain(WHOLE) == PLAIN
    assert from_plain(Whole, json.loads(json.dumps(to_plain(WHOLE)))) == WHOLE


def test_plain_data_is_a_copy() -> None:
    labels = {"k": "v"}
    plain = to_plain({"all": [Whole("x", False, 1, labels=labels)], "set": frozenset([1])})
    labels["k"] = "w"
    assert plain["all"][0]["labels"] == {"k": "v"}
    assert plain["set"] == [1]


@pytest.mark.parametrize(
    ("name", "value", "path"),
    [
        ("name", None, "name"),
        ("name", 3, "name"),
        ("is_good", 1, "is_good"),
        ("size", True, "size"),
        ("size", 3.0, "size"),
        ("size", 2**63, "size"),
        ("size", -(2**63) - 1, "size"),
        ("limit", "3", "limit"),
        ("parts", None, "parts"),
        ("parts", {"name": "a", "size": 0}, "parts"),
        ("parts", ["a"], "parts"),
        ("parts", [{"name": "a", "size": "0"}], "parts.size"),
        ("parts", [{"name": "a"}], "parts.size"),
        ("parts", [{"name": "a", "size": 0, "is": "Whole"}], "parts.is"),
        ("labels", {"k": 3}, "labels"),
        ("labels", [["k", "v"]], "labels"),
        ("best", {"name": 3, "size": 0}, "best.name"),
        ("other", 1, "other"),
    ],
)
def test_other_data_is_refused(name: str, value: object, path: str) -> None:
    with pytest.raises(Mismatch) as raised:
        from_plain(Whole, {**PLAIN, name: value})
    assert raised.value.path == path


@pytest.mark.parametrize("data", [None, 3, "x", [], [PLAIN]])
def test_what_is_no_object_is_no_record(data: object) -> None:
    with pytest.raises(Mismatch) as raised:
        from_plain(Whole, data)
    assert (raised.value.path, raised.value.value) == ("", data)


def test_a_missing_field_is_refused_also_where_the_record_has_a_default() -> None:
    with pytest.raises(Mismatch) as raised:
        from_plain(Part, {"name": "a"})
    assert raised.value.path == "size"


def test_a_reader_takes_the_place_of_the_annotation() -> None:
    assert from_plain(Part, {"name": ["a"], "size": 1}, {"name": "".join}) == Part("a", 1)


@pytest.mark.parametrize(
    ("annotation", "value", "found"),
    [
        ("None", None, None),
        ("int | str | None", "x", "x"),
        ("int | str | None", 3, 3),
        ("int | str | None", None, None),
        ("tuple[Part, ...] | None", [{"name": "a", "size": 1}], (Part("a", 1),)),
        ("tuple[str | None, ...]", ["a", None], ("a", None)),
        ("Part", {"name": "a", "size": 1}, Part("a", 1)),
    ],
)
def test_values_by_their_annotations(annotation: str, value: object, found: object) -> None:
    assert read_plain(value, annotation, {"Part": Part}) == found


@pytest.mark.parametrize(
    ("annotation", "value"),
    [("None", 0), ("int | str | None", 3.5), ("Whole", {}), ("Part", Part("a")), ("list", []), ("Part", "Part")],
)
def test_values_of_other_types_and_unknown_records_are_refused(annotation: str, value: object) -> None:
    with pytest.raises(Mismatch):
        read_plain(value, annotation, {"Part": Part, "list": list})
