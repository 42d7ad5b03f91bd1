# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's layers: imports point downwards only, no circle of modules, and one file that imports Ansible."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

UTILS = Path(__file__).resolve().parents[2] / "plugins" / "module_utils"

#: Layers from the bottom to the top. Packages of the same level don't import each other.
LAYERS = (
    {"_core"},
    {"_model"},
    {"_host", "_libvirt", "_catalog"},
    {"_remote"},
    {"_image"},
    {"_volume"},
    {"_driver"},
    {"_service"},
    {"_face"},
)
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}
MODULES = {path.relative_to(UTILS).with_suffix("").as_posix().replace("/", "."): path for path in UTILS.rglob("*.py")}


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield every node, except for those that only type checkers see."""
    for child in ast.iter_child_nodes(tree):
        if is_for_type_checkers(child):
            yield from (node for other in child.orelse for node in [other, *nodes(other)])
        else:
            yield child
            yield from nodes(child)


def find_imports(name: str, tree: ast.AST) -> set[str]:
    """Return the modules of the engine that a module imports."""
    found = set()
    for node in nodes(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ".".join([*name.split(".")[: -node.level], *([node.module] if node.module else [])])
            found |= {base} & MODULES.keys()
            found |= {f"{base}.{one.name}" for one in node.names} & MODULES.keys()
    return found


def trees() -> dict[str, ast.Module]:
    return {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def test_every_module_is_in_a_layer() -> None:
    assert {name.split(".")[0] for name in MODULES} == LEVEL.keys()


def test_imports_point_downwards() -> None:
    wrong = []
    for name, tree in trees().items():
        package = name.split(".")[0]
        for other in find_imports(name, tree):
            below = other.split(".")[0]
            if package != below and LEVEL[below] >= LEVEL[package]:
                wrong.append(f"{name} imports {other}")
    assert sorted(wrong) == []


def test_no_circles() -> None:
    try:
        graphlib.TopologicalSorter({name: find_imports(name, tree) for name, tree in trees().items()}).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_one_file_knows_ansible() -> None:
    """A new version of ansible-core can break no other file."""
    knowing = set()
    for name, tree in trees().items():
        for node in ast.walk(tree):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [one.name for one in node.names] if isinstance(node, ast.Import) else []
            knowing |= {name for one in names if one.split(".")[0] == "ansible"}
    assert knowing == {"_face.ansible"}
