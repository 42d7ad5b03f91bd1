# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The document that a front-end sends an action: base64 of XML (spec: storage-driver, "Decoded Example").

Nothing in it is trusted. It has no document type, so it declares no entities; of its elements only those that some
action reads are kept; and what an action needs is there, once, or the action fails.
"""

from __future__ import annotations

import binascii
from xml.parsers import expat

from ..._core.digits import is_decimal
from ..._core.errors import InvalidInput
from ..._core.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import IO

#: Bytes of XML.
LONGEST = 64 << 20

#: Upper bound of a document that is kept as it came, in bytes of base64: what a variable of the environment can hold
#: (execve(2)), and some room.
LONGEST_KEPT = 120 << 10

#: The digits of base64 (RFC 4648, 4).
ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

#: Bytes.
PIECE = 1 << 20

ROOT = "DS_DRIVER_ACTION_DATA"

#: Every element that an action reads, below the root.
ELEMENTS = frozenset(
    [
        *(f"DATASTORE/{name}" for name in ("ID", "NAME", "TYPE", "TM_MAD", "BASE_PATH")),
        *(f"DATASTORE/TEMPLATE/{name}" for name in ("SAFE_DIRS", "RESTRICTED_DIRS", "BRIDGE_LIST")),
        *(
            f"DATASTORE/TEMPLATE/{name}"
            for name in ("CONVERT", "DRIVER", "LIMIT_TRANSFER_BW", "NO_DECOMPRESS", "SPARSE", "VERIFY")
        ),
        *(f"IMAGE/{name}" for name in ("TYPE", "PATH", "SOURCE", "FORMAT", "FS", "SIZE", "TARGET_SNAPSHOT")),
        *(f"IMAGE/TEMPLATE/{name}" for name in ("MD5", "SHA1", "SHA256", "SHA512")),
    ]
)

#: Beginning of the names of the attributes by which newer front-ends let drivers mount a datastore. None of them may be
#: overlooked.
NFS_AUTO = "DATASTORE/TEMPLATE/NFS_AUTO_"


class Document:
    """The texts of the elements an action reads, by their path below the root.

    ``encoded`` is the base64 of the document, ``""`` where that is long.
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
                "standard input", _beginning(xml), f"base64 of an XML document is expected ({error})"
            ) from error

    def required(self, path: str) -> str:
        """The text of an element.

        :raises InvalidInput: it is missing, empty, or there more than once.
        """
        text = self.optional(path)
        if not text:
            raise InvalidInput(path, text, "the document must have this element")
        return text

    def optional(self, path: str) -> str:
        """The text of an element as it is, or ``""`` when it is missing.

        :raises InvalidInput: it is there more than once.
        """
        texts = self._texts.get(path, [])
        if len(texts) > 1:
            raise InvalidInput(path, texts[1], "the document must have this element only once")
        return texts[0] if texts else ""

    def beginning_with(self, prefix: str) -> list[str]:
        """The paths of the elements that have a text and a path that begins with ``prefix``, in the order of the
        document.
        """
        return [
            path
            for path, texts in self._texts.items()
            if path.startswith(prefix) and any(text.strip() for text in texts)
        ]

    def number(self, path: str) -> int:
        """The whole number from 0 on in an element.

        :raises InvalidInput: it is something else.
        """
        text = self.required(path).strip()
        if not is_decimal(text, 18):
            raise InvalidInput(path, text, "a whole number is expected")
        return int(text)

    def one_of(self, path: str, accepted: tuple[str, ...]) -> str:
        """What the number in an element stands for: an index of ``accepted``.

        :raises InvalidInput: it is out of range.
        """
        number = self.number(path)
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
        # Only the path of an element that could matter is kept, so that depth costs nothing.
        if self._depth - 2 != len(self._path) or len(self._path) >= 3:
            return
        self._path.append(name)
        path = "/".join(self._path)
        # Two are enough to know that there is more than one.
        if (path in ELEMENTS or path.startswith(NFS_AUTO)) and len(self._texts.setdefault(path, [])) < 2:
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
    """The document on standard input.

    :raises InvalidInput: too long, not base64, or not the XML of an action.
    """
    longest = LONGEST * 4 // 3 * 80 // 76  # base64 in lines
    encoded = stdin.read(longest + 1)
    if len(encoded) > longest:
        raise InvalidInput(
            "standard input", _beginning(encoded), f"a document of at most {LONGEST >> 20} MiB is expected"
        )
    encoded = encoded.translate(None, b" \t\r\n")
    if not _is_base64(encoded):
        raise InvalidInput("standard input", _beginning(encoded), "base64 of an XML document is expected")
    xml = binascii.a2b_base64(encoded)
    if len(xml) > LONGEST:
        raise InvalidInput(
            "standard input", _beginning(encoded), f"a document of at most {LONGEST >> 20} MiB is expected"
        )
    document = Document(xml)
    if len(encoded) <= LONGEST_KEPT:
        document.encoded = encoded.decode()
    return document


def _is_base64(encoded: bytes) -> bool:
    """Return whether it is base64 without line breaks (RFC 4648, 4). It can be long, and so is looked at in pieces."""
    last = encoded[-3:]
    end = len(encoded) - len(last) + len(last.rstrip(b"="))
    if end == 0 or len(encoded) - end > 2 or len(encoded) % 4:
        return False
    return not any(encoded[start : min(start + PIECE, end)].translate(None, ALPHABET) for start in range(0, end, PIECE))


def _beginning(data: bytes) -> str:
    """Enough to recognize it by, and no more: a template may hold a password further on."""
    return data[:16].decode(errors="replace")


__all__ = ["NFS_AUTO", "Document", "read_document"]
