# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first words of docstrings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("plugins", "script", "tests")

#: Words that begin a paraphrase. A docstring begins with a verb in the imperative or with a noun.
FORBIDDEN = {"of", "what", "where", "whether", "which"}


def read_docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield the first line number and the text of each docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, text


def find_forbidden(source: str) -> list[int]:
    """Return the line numbers of the docstrings that begin with a forbidden word."""
    return [
        line for line, text in read_docstrings(source) if text.split(maxsplit=1)[0].lower().strip(",:;.") in FORBIDDEN
    ]


def test_forbidden_words_are_found() -> None:
    source = '''"""Of a module."""
class Place:
    """
    Which place.
    """
def find():
    """Return what is found."""
async def close():
    """what, when closed"""
def open():
    text = "What is no docstring"
def read():
    """Whatever is found."""
'''
    assert sorted(find_forbidden(source)) == [1, 3, 9]


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    sources = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    assert len(sources) > 300
    found = [f"{path.relative_to(ROOT)}:{line}" for path in sources for line in find_forbidden(path.read_text())]
    assert found == []
