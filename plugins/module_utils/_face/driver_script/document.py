# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The document that a front-end sends to an action: base64 of XML (spec: storage-driver, "Decoded Example").

The document is untrusted. A document type is refused, so there are no entities. Only elements that some action reads
are kept. An action fails unless each element that it requires exists exactly once.
"""

from __future__ import annotations

import binascii
from xml.parsers import expat

from ..._core.digits import is_decimal
from ..._core.errors import InvalidInput
from ..._core.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import IO

#: Upper bound of the XML in bytes.
LONGEST = 64 << 20

#: Upper bound of a document whose base64 is kept, in bytes. A variable of the environment can hold a little more
#: (execve(2)).
LONGEST_KEPT = 120 << 10

#: The digits of base64 (RFC 4648, 4).
ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

#: Size of one piece in bytes.
PIECE = 1 << 20

ROOT = "DS_DRIVER_ACTION_DATA"

#: Paths of all elements that an action reads, below the root.
ELEMENTS = frozenset(
    [
        *(f"DATASTORE/{name}" for name in ("ID", "NAME", "TYPE", "TM_MAD", "BASE_PATH")),
        *(f"DATASTORE/TEMPLATE/{name}" for name in ("SAFE_DIRS", "RESTRICTED_DIRS", "BRIDGE_LIST")),
        *(
            f"DATASTORE/TEMPLATE/{name}"
            for name in ("CONVERT", "DRIVER", "LIMIT_TRANSFER_BW", "NO_DECOMPRESS", "SPARSE", "VERIFY")
        ),
        *(f"DATASTORE/TEMPLATE/{name}" for name in ("SHARED", "MARKER")),
        *(f"DATASTORE/TEMPLATE/NFS_AUTO_{name}" for name in ("ENABLE", "HOST", "PATH", "OPTS")),
        *(f"IMAGE/{name}" for name in ("TYPE", "PATH", "SOURCE", "FORMAT", "FS", "SIZE", "TARGET_SNAPSHOT")),
        *(f"IMAGE/TEMPLATE/{name}" for name in ("MD5", "SHA1", "SHA256", "SHA512")),
    ]
)


class Document:
    """The texts of the elements that an action reads.

    The attribute ``encoded`` is the base64 of the document, or ``""`` for a long document. Paths of elements are below
    the root.
    """

    def __init__(self, xml: bytes) -> None:
        self.encoded = ""
        self._texts: dict[str, list[str]] = {}
        self._path: list[str] = []
        self._depth = 0
        self._text: list[str] | None = None
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        try:
            parser.Parse(xml, True)
        except (expat.ExpatError, ValueError, LookupError) as error:
            raise InvalidInput(
                "standard input", _shorten(xml), f"base64 of an XML document is expected ({error})"
            ) from error

    def require(self, path: str) -> str:
        """Return the text of an element.

        :raises InvalidInput: the element is missing, empty, or repeated.
        """
        text = self.get(path)
        if not text:
            raise InvalidInput(path, text, "the document must have this element")
        return text

    def get(self, path: str) -> str:
        """Return the text of an element unchanged, or ``""`` if the element is missing.

        :raises InvalidInput: the element is repeated.
        """
        texts = self._texts.get(path, [])
        if len(texts) > 1:
            raise InvalidInput(path, texts[1], "the document must have this element only once")
        return texts[0] if texts else ""

    def read_number(self, path: str) -> int:
        """Return the number in an element.

        :raises InvalidInput: the text isn't a whole number from 0 on.
        """
        text = self.require(path).strip()
        if not is_decimal(text, 18):
            raise InvalidInput(path, text, "a whole number is expected")
        return int(text)

    def read_choice(self, path: str, accepted: tuple[str, ...]) -> str:
        """Return the entry of ``accepted`` whose index is the number in an element.

        :raises InvalidInput: the number is out of range.
        """
        number = self.read_number(path)
        if number >= len(accepted):
            raise InvalidInput(path, str(number), f"a number from 0 to {len(accepted) - 1} is expected")
        return accepted[number]

    def _doctype(self, name: str, *_rest: object) -> None:
        raise InvalidInput("standard input", f"<!DOCTYPE {name}", "a document without a document type is expected")

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1:
            if name != ROOT:
                raise InvalidInput(
                    "standard input", f"<{name}>", f"a document with the root element {ROOT} is expected"
                )
            return
        if self._text is not None:
            raise InvalidInput("/".join(self._path), f"<{name}>", "text is expected")
        # The path is kept only down to the depth of the known elements, so that deeper elements use no memory.
        if self._depth - 2 != len(self._path) or len(self._path) >= 3:
            return
        self._path.append(name)
        path = "/".join(self._path)
        # Two texts are enough to detect a repeated element.
        if path in ELEMENTS and len(self._texts.setdefault(path, [])) < 2:
            self._text = []

    def _end(self, name: str) -> None:
        if self._depth - 1 == len(self._path):
            if self._text is not None:
                self._texts["/".join(self._path)].append("".join(self._text))
                self._text = None
            if self._path:
                self._path.pop()
        self._depth -= 1

    def _characters(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)


def read_document(stdin: IO[bytes]) -> Document:
    """Read the document from standard input.

    :raises InvalidInput: the document is too long, not base64, or not the XML of an action.
    """
    longest = LONGEST * 4 // 3 * 80 // 76  # base64 in lines
    encoded = stdin.read(longest + 1)
    if len(encoded) > longest:
        raise InvalidInput(
            "standard input", _shorten(encoded), f"a document of at most {LONGEST >> 20} MiB is expected"
        )
    encoded = encoded.translate(None, b" \t\r\n")
    if not _is_base64(encoded):
        raise InvalidInput("standard input", _shorten(encoded), "base64 of an XML document is expected")
    xml = binascii.a2b_base64(encoded)
    if len(xml) > LONGEST:
        raise InvalidInput(
            "standard input", _shorten(encoded), f"a document of at most {LONGEST >> 20} MiB is expected"
        )
    document = Document(xml)
    if len(encoded) <= LONGEST_KEPT:
        document.encoded = encoded.decode()
    return document


def _is_base64(encoded: bytes) -> bool:
    """Return whether ``encoded`` is base64 without line breaks (RFC 4648, 4). Check pieces, because a document can be
    long.
    """
    last = encoded[-3:]
    end = len(encoded) - len(last) + len(last.rstrip(b"="))
    if end == 0 or len(encoded) - end > 2 or len(encoded) % 4:
        return False
    return not any(encoded[start : min(start + PIECE, end)].translate(None, ALPHABET) for start in range(0, end, PIECE))


def _shorten(data: bytes) -> str:
    """Return enough of the data to recognise it. The rest is left out, because a template may hold a password."""
    return data[:16].decode(errors="replace")


__all__ = ["Document", "read_document"]
