# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of exports, exports(5), read as exportfs(8) reads them. An edit changes no line of other people."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from ..._core.errors import Conflict
from ..._core.files import read_text
from ..._core.records import dataclass

#: The suffix of the files in exports.d that exportfs reads.
SUFFIX = ".exports"

#: Upper bound of the length in bytes of a client with its options: the buffer of exportfs without its NUL.
LONGEST_CLIENT = 511

_SPACE = " \t\n\r\v\f"
_OCTAL = re.compile(r"\\[0-7]{3}")


@dataclass(frozen=True)
class ExportedTo:
    """A client of an export, and the words of its options, those after a hyphen included."""

    client: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Export:
    """An entry of an exports file.

    :arg file: the path of the file.
    :arg line: the number of its first line, from 1 on.
    :arg start, end: the part of the text that the entry takes, in whole lines.
    """

    path: str
    clients: tuple[ExportedTo, ...]
    file: str = ""
    line: int = 0
    start: int = 0
    end: int = 0

    def __str__(self) -> str:
        clients = (f"{one.client}({','.join(one.words)})" for one in self.clients)
        return " ".join(map(escape, (self.path, *clients)))


def escape(field: str) -> str:
    """Return a field with octal escapes for the characters that would end the field or have another meaning in it."""
    return re.sub(r'[\x00-\x20"#\\\x7f]', lambda match: f"\\{ord(match[0]):03o}", field)


def parse(text: str, file: str = "") -> list[Export]:
    """Return the entries of an exports file. Clients that exportfs refuses, such as ``host(rw`` and ``host(rw)x``, are
    left out.

    A path without a client is exported to all clients, as exportfs does.
    """
    data = _as_bytes(text)
    reader = _Reader(data)
    found = []
    while reader.skip(_SPACE):
        start = data.rfind("\n", 0, reader.place) + 1
        path = reader.token()
        clients = tuple(_read_clients(reader))
        end = reader.place + (reader.place < len(data))  # with the end of the line
        # exportfs takes a repeated slash for one.
        found.append(Export(_clean(path), clients, file, data.count("\n", 0, start) + 1, start, end))
    return found


def read_exports(etc: str = "/etc") -> list[Export]:
    """Return the entries of all files that exportfs reads, in the order in which it reads them.

    :raises FileAccessFailed: a file can't be read.
    """
    directory = os.path.join(etc, "exports.d")
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        names = []
    files = [os.path.join(directory, name) for name in names if name.endswith(SUFFIX) and not name.startswith(".")]
    return [
        entry
        for file in (os.path.join(etc, "exports"), *files)
        if os.path.isfile(file)
        for entry in parse(read_text(file), file)
    ]


def replace_entries(text: str, old: Sequence[Export], new: Export | None, file: str = "") -> str:
    """Return ``text`` with its entries ``old`` replaced by ``new``, at the place of the first old entry or at the end.

    Every other line is unchanged, byte for byte.

    :raises Conflict: exportfs would read the changed file otherwise, because another line has no end.
    """
    data = _as_bytes(text)
    line = "" if new is None else _as_bytes(f"{new}\n")
    pieces, place = [], 0
    for number, entry in enumerate(old):
        pieces += [data[place : entry.start], "" if number else line]
        place = entry.end
    pieces.append(data[place:])
    if not old and line:
        pieces.append(("\n" if data and not data.endswith("\n") else "") + line)
    changed = _as_text("".join(pieces))
    replaced = {entry.start for entry in old}
    expected = [(one.path, one.clients) for one in parse(text) if one.start not in replaced]
    if new is not None:
        before_new = sum(one.start < min(replaced, default=len(data)) for one in parse(text))
        expected.insert(before_new, (new.path, new.clients))
    if [(one.path, one.clients) for one in parse(changed)] != expected:
        raise Conflict(
            f"The last line of {file} continues behind its end, by a backslash or an open quotation mark, so that no "
            "line can be added: end that line."
        )
    return changed


def _as_bytes(text: str) -> str:
    """Return a text with one character for each byte, because octal escapes stand for bytes."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _as_text(data: str) -> str:
    """Revert :func:`_as_bytes`."""
    return data.encode("latin-1").decode("utf-8", "surrogateescape")


def _clean(path: str) -> str:
    path = re.sub(r"/+", "/", path)
    return path.rstrip("/") or path


def _read_clients(reader: _Reader) -> Iterator[ExportedTo]:
    """Yield the clients on the rest of a line."""
    defaults: tuple[str, ...] = ()
    is_alone = True
    while reader.skip(" \t\r\v\f") and reader.peek() != "\n":
        token = reader.token()
        if token.startswith("-"):
            defaults += _split(token[1:])
            continue
        is_alone = False
        name, bracket, options = token.partition("(")
        if bracket and options.find(")") != len(options) - 1:
            continue
        yield ExportedTo(name or "*", defaults + _split(options[:-1]))
    if is_alone:
        yield ExportedTo("*", defaults)


def _split(words: str) -> tuple[str, ...]:
    return tuple(word for word in (one.lstrip(" \t") for one in words.split(",")) if word)


class _Reader:
    """The bytes of an exports file (:func:`_as_bytes`), with lines joined at backslashes."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.place = 0

    def peek(self) -> str:
        return self._text[self.place : self.place + 1]

    def skip(self, characters: str) -> bool:
        """Skip some characters, joined lines and a comment up to its line end. Return whether any text is left."""
        while self.place < len(self._text):
            if self._join():
                continue
            if self.peek() == "#":
                end = self._text.find("\n", self.place)
                self.place = len(self._text) if end < 0 else end
            elif self.peek() in characters:
                self.place += 1
            else:
                break
        return self.place < len(self._text)

    def token(self) -> str:
        """Return the characters up to a blank outside quotation marks, unescaped."""
        found = ""
        is_quoted = False
        while self.place < len(self._text):
            if self._join():
                character = " "
            else:
                character = self.peek()
                if not is_quoted and character in _SPACE:
                    break
                self.place += 1
            if character == '"':
                is_quoted = not is_quoted
            elif character == " " and not is_quoted:
                break
            else:
                found = _decode_end(found + character)
        return _as_text(found)

    def _join(self) -> bool:
        """Pass a backslash at the end of a line, with the blanks that begin the next line."""
        if not self._text.startswith("\\\n", self.place):
            return False
        self.place += 2
        while self.peek() in (" ", "\t"):
            self.place += 1
        return True


def _decode_end(found: str) -> str:
    """Decode an octal escape at the end. exportfs also decodes an escape that results from another one."""
    if _OCTAL.fullmatch(found[-4:]) is None or int(found[-3:], 8) > 255:
        return found
    return found[:-4] + chr(int(found[-3:], 8))


__all__ = [
    "LONGEST_CLIENT",
    "SUFFIX",
    "Export",
    "ExportedTo",
    "escape",
    "parse",
    "read_exports",
    "replace_entries",
]
