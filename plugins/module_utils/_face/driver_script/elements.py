# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Elements of an untrusted XML document.

A document type is refused, so there are no entities. Only elements that some action reads are kept. An action fails
unless each element that it requires exists exactly once.
"""

from __future__ import annotations

from xml.parsers import expat

from ..._core.digits import is_decimal
from ..._core.errors import InvalidInput
from ..._core.records import TYPE_CHECKING

if TYPE_CHECKING:
    #: Names of elements that are kept, each with the names in it. An element without names in it has a text.
    Layout = dict[str, "Layout"]

#: Upper bound of a document in bytes.
LONGEST = 64 << 20

#: Upper bound of the elements that are kept of a document.
MOST_ELEMENTS = 1 << 18


def layout(*paths: str) -> Layout:
    """Return the layout of a document, from the paths of the elements with a text."""
    found: Layout = {}
    for path in paths:
        inner = found
        for name in path.split("/"):
            inner = inner.setdefault(name, {})
    return found


class Element:
    """An element of a document, with the elements in it that an action reads.

    :arg name: the name of the element, for messages.
    """

    __slots__ = ("_inner", "_outer", "name", "text")

    def __init__(self, name: str, outer: Element | None = None) -> None:
        self.name = name
        self.text = ""
        self._outer = outer
        self._inner: dict[str, list[Element]] | None = None

    def add(self, name: str) -> Element:
        """Add an element at the end, and return it."""
        inner = Element(name, self)
        if self._inner is None:
            self._inner = {}
        self._inner.setdefault(name, []).append(inner)
        return inner

    @property
    def path(self) -> str:
        """Return the path of the element, for messages."""
        return self._outer.path_of(self.name) if self._outer else self.name

    def path_of(self, path: str) -> str:
        """Return the path of an element in this element, for messages."""
        return f"{self.path}/{path}" if self.path else path

    def all(self, path: str) -> list[Element]:
        """Return all elements with a path, in the order of the document."""
        found = [self]
        for name in path.split("/"):
            found = [inner for one in found for inner in (one._inner or {}).get(name, ())]
        return found

    def one(self, path: str) -> Element | None:
        """Return the element with a path, or ``None`` if it is missing.

        :raises InvalidInput: the element is repeated.
        """
        found = self.all(path)
        if len(found) > 1:
            raise InvalidInput(self.path_of(path), found[1].text, "the document must have this element only once")
        return found[0] if found else None

    def get(self, path: str) -> str:
        """Return the text of an element unchanged, or ``""`` if the element is missing.

        :raises InvalidInput: the element is repeated.
        """
        found = self.one(path)
        return found.text if found else ""

    def require(self, path: str) -> str:
        """Return the text of an element.

        :raises InvalidInput: the element is missing, empty, or repeated.
        """
        text = self.get(path)
        if not text:
            raise InvalidInput(self.path_of(path), text, "the document must have this element")
        return text

    def read_number(self, path: str) -> int:
        """Return the number in an element.

        :raises InvalidInput: the text isn't a whole number from 0 on.
        """
        text = self.require(path).strip()
        if not is_decimal(text, 18):
            raise InvalidInput(self.path_of(path), text, "a whole number is expected")
        return int(text)

    def find_number(self, path: str) -> int | None:
        """Return the number in an element. Return ``None`` if the element is missing or empty, or has the number -1,
        which a front-end writes for nothing.

        :raises InvalidInput: the text isn't a whole number.
        """
        return None if self.get(path).strip() in ("", "-1") else self.read_number(path)

    def read_choice(self, path: str, accepted: tuple[str, ...]) -> str:
        """Return the entry of ``accepted`` whose index is the number in an element.

        :raises InvalidInput: the number is out of range.
        """
        number = self.read_number(path)
        if number >= len(accepted):
            raise InvalidInput(self.path_of(path), str(number), f"a number from 0 to {len(accepted) - 1} is expected")
        return accepted[number]

    def is_text(self, path: str, text: str) -> bool:
        """Return whether an element has a text, apart from case and blanks around it."""
        return self.get(path).strip().lower() == text


def parse_document(xml: bytes, root: str, known: Layout, origin: str) -> Element:
    """Return the root element of a document.

    :arg known: the elements to keep, below the root.
    :arg origin: the place where the document comes from, for messages.
    :raises InvalidInput: the document isn't XML, has another root, a document type, or too many elements.
    """
    element = Element(root)
    parse_into(element, xml, root, known, origin)
    return element


def parse_into(
    element: Element, xml: bytes, root: str, known: Layout, origin: str, expected: str = "an XML document"
) -> None:
    """Add the elements of a document to ``element``, like :func:`parse_document`.

    :arg expected: the accepted data, for messages.
    """
    builder = _Builder(element, root, known, origin)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = builder.refuse_doctype
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.add_text
    try:
        parser.Parse(xml, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise InvalidInput(origin, shorten(xml), f"{expected} is expected ({error})") from error


class _Builder:
    """The handlers of a parser."""

    def __init__(self, element: Element, root: str, known: Layout, origin: str) -> None:
        self._root = (element, known)
        self._name = root
        self._origin = origin
        #: The open elements that are kept, each with the names that are kept in it.
        self._open: list[tuple[Element, Layout]] = []
        #: Number of open elements that aren't kept. So deep elements use no memory.
        self._skipped = 0
        self._kept = 0
        self._text: list[str] = []

    def refuse_doctype(self, name: str, *_rest: object) -> None:
        raise InvalidInput(self._origin, f"<!DOCTYPE {name}", "a document without a document type is expected")

    def start(self, name: str, _attributes: dict[str, str]) -> None:
        if not self._open:
            if name != self._name:
                raise InvalidInput(
                    self._origin, f"<{name}>", f"a document with the root element {self._name} is expected"
                )
            self._open.append(self._root)
            return
        element, known = self._open[-1]
        if not known:
            raise InvalidInput(element.path, f"<{name}>", "text is expected")
        if self._skipped or name not in known:
            self._skipped += 1
            return
        self._kept += 1
        if self._kept > MOST_ELEMENTS:
            raise InvalidInput(self._origin, f"<{name}>", f"at most {MOST_ELEMENTS} elements with facts are expected")
        self._open.append((element.add(name), known[name]))
        self._text.clear()

    def end(self, _name: str) -> None:
        if self._skipped:
            self._skipped -= 1
            return
        element, known = self._open.pop()
        if not known:
            element.text = "".join(self._text)

    def add_text(self, data: str) -> None:
        if self._open and not self._open[-1][1]:
            self._text.append(data)


def escape(text: str) -> str:
    """Return ``text`` as the content of an XML element (XML 1.0, 2.4).

    ``xml.sax.saxutils`` has the same function, but loads HTTP and TLS.
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def shorten(data: bytes) -> str:
    """Return enough of the data to recognise it. The rest is left out, because a template may hold a password."""
    return data[:16].decode(errors="replace")


__all__ = ["LONGEST", "Element", "escape", "layout", "parse_document", "parse_into", "shorten"]
