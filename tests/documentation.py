# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The blocks of code in the Markdown pages that users read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: Pages for users and for developers. Other pages have no blocks, or are data of a test.
PATTERNS = (
    "*.md",
    "docs/**/*.md",
    "docs/**/*.rst",
    "examples/**/*.md",
    "roles/*/README.md",
    "tests/harness/README.md",
    "tests/benchmarks/README.md",
)


@dataclass(frozen=True)
class Block:
    """A block of code in a page.

    ``page`` is the path in the checkout. ``number`` counts the blocks below ``heading``, starting at 0. ``before`` is
    the paragraph above the block.
    """

    page: str
    heading: str
    number: int
    language: str
    text: str
    before: str

    @property
    def key(self) -> tuple[str, str, int]:
        return self.page, self.heading, self.number


def read_blocks() -> list[Block]:
    """Return all blocks, fenced and indented ones, page by page."""
    pages = sorted({path for pattern in PATTERNS for path in ROOT.glob(pattern)})
    return [
        block
        for page in pages
        for block in blocks_of(page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8"))
    ]


def blocks_of(page: str, markdown: str) -> list[Block]:
    """Return the blocks of one page.

    An indented line begins a block after an empty line, unless the empty line ends a list item.
    """
    found: list[Block] = []
    heading, before, paragraph, in_list = "", "", "", False
    lines = markdown.splitlines()
    position = 0

    def add(language: str, text: list[str]) -> None:
        number = sum(block.heading == heading for block in found)
        found.append(Block(page, heading, number, language, "\n".join(text) + "\n", before))

    while position < len(lines):
        line = lines[position]
        fence = re.match(r"( *)(```+|~~~+) *(\S*)", line)
        if fence:
            end = position + 1
            while lines[end].strip() != fence[2]:
                end += 1
            add(fence[3], [text[len(fence[1]) :] for text in lines[position + 1 : end]])
            position = end
        elif line.startswith("    ") and not paragraph and not in_list:
            end = position
            while end < len(lines) and (
                lines[end].startswith("    ")
                or (not lines[end] and lines[end + 1 : end + 2] and lines[end + 1].startswith("    "))
            ):
                end += 1
            add("", [text[4:] for text in lines[position:end]])
            position = end - 1
        elif line.startswith("#"):
            heading, paragraph, before, in_list = line.lstrip("#").strip(), "", "", False
        elif line.strip():
            in_list = bool(re.match(r"\s*([-*]|\d+\.) ", line)) or (in_list and line.startswith(" "))
            paragraph = before = f"{paragraph}\n{line}".strip()
        else:
            paragraph = ""
        position += 1
    return found


def files_of(page: str) -> dict[str, Block]:
    """Return the blocks of a page that are files, by path. The paragraph above such a block begins with the path as
    code.
    """
    found = {}
    for one in read_blocks():
        path = re.match(r"`([\w.-]+(?:/[\w.-]+)+)`", one.before)
        if one.page == page and path:
            found[path[1]] = one
    return found


def block(page: str, heading: str, number: int = 0) -> Block:
    """Return one block, for a test that runs this block.

    The arguments must be literals, because test_documentation.py searches the source of the tests for the calls.

    :raises KeyError: the block is missing.
    """
    return {one.key: one for one in read_blocks()}[page, heading, number]
