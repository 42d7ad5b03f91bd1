# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records behave like the standard library's dataclasses: each test runs with both."""

from __future__ import annotations

import ast
import copy
import dataclasses
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core import records
from refusal import refused

PLUGINS = Path(__file__).parents[3] / "plugins"


def classes(module: Any) -> SimpleNamespace:
    """Return the same classes, created by a module."""

    @module.dataclass(frozen=True)
    class Frozen:
        name: str
        size: int = 3
        tags: tuple[str, ...] = ()
        more: dict[str, object] = module.field(default_factory=dict)

    @module.dataclass
    class Mutable:
        name: str
        secret: str = module.field(repr=False)
        found: list[object] = module.field(default_factory=list)
        place: str | None = module.field(default=None, repr=False)

    @module.dataclass(frozen=True)
    class Below(Frozen):
        size: int = 4
        last: str = "z"

    @module.dataclass(frozen=True)
    class Checked:
        low: int
        high: int
        middle: int = module.field(init=False)

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low is above high")
            object.__setattr__(self, "middle", (self.low + self.high) // 2)

    class Plain(Frozen):
        """A subclass without the decorator."""

    return SimpleNamespace(Frozen=Frozen, Mutable=Mutable, Below=Below, Checked=Checked, Plain=Plain)


class Both:
    """The same calls with both modules, and the comparison of their results."""

    def __init__(self) -> None:
        self.made = [(module, classes(module)) for module in (dataclasses, records)]

    def same(self, work: Callable[[SimpleNamespace, Any], object]) -> object:
        """Return the result of ``work``, which must be the same for both modules.

        Errors must have the same class and the same text about the field.
        """
        results = []
        for module, given in self.made:
            try:
                results.append(work(given, module))
            except (AttributeError, TypeError, ValueError) as error:
                # The rest of the text differs between versions of Python.
                results.append(
                    (
                        AttributeError if isinstance(error, AttributeError) else type(error),
                        "name" in str(error),
                        "size" in str(error),
                    )
                )
        assert results[0] == results[1]
        return results[1]


@pytest.fixture
def both() -> Both:
    return Both()


@pytest.mark.parametrize(
    "make",
    [
        lambda c, _m: c.Frozen("a"),
        lambda c, _m: c.Frozen("a", 4, ("x",), {"k": 1}),
        lambda c, _m: c.Frozen(more={"k": [1]}, name="a"),
        lambda c, _m: c.Mutable("a", "hidden", ["x"]),
        lambda c, _m: c.Mutable(secret="hidden", name="a", place="b"),
        lambda c, _m: c.Below("a"),
        lambda c, _m: c.Below("a", 1, (), {}, "y"),
        lambda c, _m: c.Checked(1, high=9),
        lambda c, _m: c.Plain("a"),
    ],
)
def test_instances_are_represented_copied_and_taken_apart_alike(both: Both, make: Callable[[Any, Any], object]) -> None:
    both.same(lambda c, m: repr(make(c, m)))
    both.same(lambda c, m: vars(make(c, m)))
    both.same(lambda c, m: [(one.name, one.type) for one in m.fields(make(c, m))])
    both.same(
        lambda c, m: (make(c, m) == make(c, m), make(c, m) != make(c, m), copy.deepcopy(make(c, m)) == make(c, m))
    )


@pytest.mark.parametrize(
    "wrong",
    [
        lambda c, _m: c.Frozen(),
        lambda c, _m: c.Frozen("a", 1, (), {}, 5),
        lambda c, _m: c.Frozen("a", name="b"),
        lambda c, _m: c.Frozen("a", other=1),
        lambda c, _m: c.Mutable("a"),
        lambda c, _m: c.Checked(1, 2, 3),
        lambda c, _m: c.Checked(3, 2),
        lambda c, m: m.replace(c.Frozen("a"), other=1),
        lambda c, m: m.replace(c.Checked(1, 2), middle=1),
        lambda c, m: m.replace(c.Checked(1, 2), low=3),
        lambda _c, m: m.fields(3),
        lambda c, _m: hash(c.Mutable("a", "b")),
        lambda c, _m: setattr(c.Frozen("a"), "name", "b"),
        lambda c, _m: delattr(c.Frozen("a"), "name"),
        lambda c, _m: setattr(c.Frozen("a"), "other", 1),
        lambda c, _m: setattr(c.Plain("a"), "name", "b"),
        lambda c, _m: setattr(c.Below("a"), "last", "b"),
    ],
)
def test_the_same_is_refused(both: Both, wrong: Callable[[Any, Any], object]) -> None:
    result = both.same(wrong)
    assert isinstance(result, tuple) and issubclass(result[0], Exception), result


def test_a_frozen_instance_stays_as_it_was() -> None:
    for module in (dataclasses, records):
        one = classes(module).Frozen("a")
        with refused(module.FrozenInstanceError, says="cannot assign to field 'name'"):
            one.name = "b"
        with refused(module.FrozenInstanceError, says="cannot delete field 'size'"):
            del one.size
        assert (one.name, one.size) == ("a", 3)


def test_a_class_that_is_not_decorated_may_have_more(both: Both) -> None:
    def work(c: Any, _module: Any) -> object:
        one = c.Plain("a")
        one.other = 5
        return one.other, one == c.Plain("a")

    assert both.same(work) == (5, True)


def test_defaults_are_attributes_of_the_class(both: Both) -> None:
    assert both.same(
        lambda c, _m: [getattr(c.Mutable, name, "none") for name in ("name", "secret", "found", "place")]
    ) == ["none", "none", "none", None]


def test_defaults_are_not_shared(both: Both) -> None:
    def work(c: Any, _module: Any) -> object:
        one, other = c.Mutable("a", ""), c.Mutable("a", "")
        one.found.append(1)
        return other.found, one == other

    assert both.same(work) == ([], False)


def test_equal_needs_the_same_class(both: Both) -> None:
    assert both.same(
        lambda c, _m: (c.Frozen("a", 4) == c.Below("a"), c.Plain("a") == c.Frozen("a"), c.Frozen("a") == "a")
    ) == (False, False, False)


def test_hashes_are_those_of_the_fields(both: Both) -> None:
    # A record with an unhashable field has no hash.
    both.same(lambda c, _m: hash(c.Checked(1, 3)))
    both.same(lambda c, _m: len({c.Checked(1, 3), c.Checked(1, 3), c.Checked(1, 4)}))
    with refused(TypeError, says="unhashable type: 'dict'"):
        hash(classes(records).Frozen("a"))


def test_replace_makes_another_one(both: Both) -> None:
    def work(c: Any, module: Any) -> object:
        one = c.Frozen("a", 4)
        return (
            repr(module.replace(one, name="b")),
            repr(one),
            repr(module.replace(c.Checked(1, 3), high=9)),
            module.replace(c.Plain("a")).__class__ is c.Plain,
        )

    both.same(work)


def test_what_is_one_is_recognized(both: Both) -> None:
    assert both.same(lambda c, m: [m.is_dataclass(one) for one in (c.Frozen, c.Frozen("a"), c.Plain, 3, int)]) == [
        True,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("default", [[], {}, set()])
def test_a_mutable_default_is_refused(default: object) -> None:
    for module in (dataclasses, records):
        with refused(
            ValueError, says=f"mutable default {type(default)} for field found is not allowed: use default_factory"
        ):
            module.dataclass(type("Wrong", (), {"__annotations__": {"found": "object"}, "found": default}))


def test_a_field_without_default_behind_one_with_a_default_is_refused() -> None:
    for module in (dataclasses, records):
        with refused(TypeError, says="non-default argument 'second' follows default argument"):
            module.dataclass(type("Wrong", (), {"__annotations__": {"first": "int", "second": "int"}, "first": 1}))


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_and_not_frozen_do_not_inherit_from_each_other(frozen: bool) -> None:
    for module in (dataclasses, records):
        base = module.dataclass(frozen=frozen)(type("Base", (), {"__annotations__": {"one": "int"}}))
        with refused(TypeError, names=["frozen"]):
            module.dataclass(frozen=not frozen)(type("Below", (base,), {"__annotations__": {}}))


def test_methods_of_the_class_are_kept() -> None:
    for module in (dataclasses, records):

        @module.dataclass(frozen=True)
        class Own:
            name: str

            def __repr__(self) -> str:
                return "own"

            def __eq__(self, other: object) -> bool:
                return True

        assert (repr(Own("a")), Own("a") == Own("b"), hash(Own("a")) == hash(("a",))) == ("own", True, True)


@records.dataclass(frozen=True)
class Sent:
    """A record at module level, where pickle can find the class."""

    name: str
    more: dict[str, int] = records.field(default_factory=dict)


def test_one_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(Sent("a", {"k": 1}))) == Sent("a", {"k": 1})


def imports(module: ast.Module) -> list[str]:
    names: list[str] = []
    for node in ast.walk(module):
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
    return names


def test_no_plugin_imports_the_standard_module() -> None:
    found = [path for path in PLUGINS.rglob("*.py") if "dataclasses" in imports(ast.parse(path.read_text()))]
    # records.py has an import for type checkers. wrapper.py is installed on hosts as a standalone program.
    assert sorted(path.name for path in found) == ["records.py", "wrapper.py"]


def test_type_checkers_see_the_standard_module() -> None:
    """The import for type checkers has the same names as the module at run time."""
    source = Path(sys.modules[records.__name__].__file__ or "").read_text()
    (branch,) = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    (imported,) = branch.body
    assert isinstance(imported, ast.ImportFrom) and isinstance(records, ModuleType)
    assert {alias.name for alias in imported.names} == {*records.__all__} - {"TYPE_CHECKING"}
