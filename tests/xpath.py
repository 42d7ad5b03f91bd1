# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of XPath 1.0 that tests use, on the trees of the standard library: paths of names, attributes, ``text()``,
``*``, ``count()``, and predicates with ``=``, ``!=``, ``and``, ``or``, ``not()`` and positions.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import TYPE_CHECKING

#: The parts of an expression: texts, numbers, operators and names.
_TOKEN = re.compile(r"\s*('[^']*'|\"[^\"]*\"|\d+|!=|\.\.|//|[/@\[\]()=*.]|[\w:-]+)")

if TYPE_CHECKING:
    Node = ET.Element | str
    Value = list[Node] | str | float | bool


def select(root: ET.Element, expression: str) -> Value:
    """Return the value of an expression: a list of elements and texts of attributes, a text, a number or a flag.

    :raises ValueError: the expression has a part that isn't supported.
    """
    parser = _Parser(expression)
    value = parser.expression([root], root, 1)
    if parser.place != len(parser.tokens):
        raise ValueError(f"{expression}: {parser.tokens[parser.place :]} is not supported")
    return value


def text_of(value: Value) -> str | None:
    """Return the text of a value. A list has the text of its first node, an empty list ``None``."""
    if isinstance(value, list):
        if not value:
            return None
        return value[0] if isinstance(value[0], str) else "".join(value[0].itertext())
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else value


class _Parser:
    """A parser that evaluates an expression while it reads it."""

    def __init__(self, expression: str) -> None:
        self.tokens: list[str] = []
        self.place = 0
        position = 0
        while expression[position:].strip():
            match = _TOKEN.match(expression, position)
            if match is None:
                raise ValueError(f"{expression}: {expression[position:]!r} is not supported")
            self.tokens.append(match[1])
            position = match.end()

    def next(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self, *expected: str) -> str:
        token = self.next()
        if expected and token not in expected:
            raise ValueError(f"{' or '.join(expected)} is expected instead of {token!r}")
        self.place += 1
        return token

    def expression(self, nodes: list[Node], root: ET.Element, position: int) -> Value:
        value = self.conjunction(nodes, root, position)
        while self.next() == "or":
            self.take()
            other = self.conjunction(nodes, root, position)
            value = _truth(value) or _truth(other)
        return value

    def conjunction(self, nodes: list[Node], root: ET.Element, position: int) -> Value:
        value = self.comparison(nodes, root, position)
        while self.next() == "and":
            self.take()
            other = self.comparison(nodes, root, position)
            value = _truth(value) and _truth(other)
        return value

    def comparison(self, nodes: list[Node], root: ET.Element, position: int) -> Value:
        value = self.operand(nodes, root, position)
        if self.next() in ("=", "!="):
            operator = self.take()
            other = self.operand(nodes, root, position)
            pairs = [(one, two) for one in _texts(value) for two in _texts(other)]
            return any((one == two) == (operator == "=") for one, two in pairs)
        return value

    def operand(self, nodes: list[Node], root: ET.Element, position: int) -> Value:
        token = self.next()
        if token[:1] in ("'", '"') and token:
            return self.take()[1:-1]
        if token.isdigit():
            return float(self.take())
        if token == "(":
            return self.enclosed(nodes, root, position)
        if self.tokens[self.place + 1 : self.place + 2] == ["("] and token != "text":
            return self.call(self.take("count", "not", "position", "string", "boolean"), nodes, root, position)
        return self.path(nodes, root)

    def enclosed(self, nodes: list[Node], root: ET.Element, position: int) -> Value:
        self.take("(")
        value = self.expression(nodes, root, position) if self.next() != ")" else ""
        self.take(")")
        return value

    def call(self, name: str, nodes: list[Node], root: ET.Element, position: int) -> Value:
        value = self.enclosed(nodes, root, position)
        if name == "count":
            assert isinstance(value, list)
            return float(len(value))
        if name == "position":
            return float(position)
        if name == "string":
            return text_of(value) or ""
        return not _truth(value) if name == "not" else _truth(value)

    def path(self, nodes: list[Node], root: ET.Element) -> list[Node]:
        if self.next() in ("/", "//"):
            top = ET.Element("")
            top.append(root)
            nodes = [top]
            self.step_axis(nodes, root)
            found = self.found
        else:
            found = self.step(nodes, root, False)
        while self.next() in ("/", "//"):
            self.step_axis(found, root)
            found = self.found
        return found

    def step_axis(self, nodes: list[Node], root: ET.Element) -> None:
        self.found = self.step(nodes, root, self.take("/", "//") == "//")

    def step(self, nodes: list[Node], root: ET.Element, is_deep: bool) -> list[Node]:
        token = self.take()
        if token == "@":
            token += self.take()
        elif token == "text":
            self.take("(")
            self.take(")")
            token = "text()"
        groups = [list(_children(node, token, is_deep)) for node in nodes]
        while self.next() == "[":
            start = self.place
            groups = [self.filter(group, root, start) for group in groups]
            if not groups or not any(groups):
                self.place = start
                self.skip_predicate()
        return [node for group in groups for node in group]

    def filter(self, group: list[Node], root: ET.Element, start: int) -> list[Node]:
        kept = []
        for position, node in enumerate(group, start=1):
            self.place = start
            self.take("[")
            value = self.expression([node], root, position)
            self.take("]")
            if value == position if isinstance(value, float) else _truth(value):
                kept.append(node)
        return kept

    def skip_predicate(self) -> None:
        depth = 0
        while True:
            token = self.take()
            depth += (token == "[") - (token == "]")
            if depth == 0:
                return


def _children(node: Node, token: str, is_deep: bool) -> Iterator[Node]:
    if isinstance(node, str):
        return
    for one in node.iter() if is_deep else [node]:
        if token.startswith("@"):
            yield from one.attrib.values() if token == "@*" else [one.get(token[1:], "")] * (token[1:] in one.attrib)
        elif token == "text()":
            yield from [one.text] if one.text else []
        elif token == ".":
            yield one
        else:
            yield from (child for child in one if token in ("*", child.tag))


def _truth(value: Value) -> bool:
    return bool(value)


def _texts(value: Value) -> list[str]:
    if isinstance(value, list):
        return [text_of([node]) or "" for node in value]
    return [text_of(value) or ""]


__all__ = ["select", "text_of"]
