# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The document on the standard input of an action: XML, mostly in base64 (spec: storage-driver, "Decoded Example")."""

from __future__ import annotations

import binascii

from ..._core.errors import InvalidInput
from ..._core.records import TYPE_CHECKING
from .datastore_document import DATASTORE
from .elements import LONGEST, Element, layout, parse_into, shorten

if TYPE_CHECKING:
    from typing import IO

    from .elements import Layout

#: Upper bound of a document whose base64 is kept, in bytes. A variable of the environment can hold a little more
#: (execve(2)).
LONGEST_KEPT = 120 << 10

#: The blanks that separate lines of base64.
BLANKS = b" \t\r\n"

#: The digits of base64 (RFC 4648, 4).
ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

#: Size of one piece in bytes.
PIECE = 1 << 20

STANDARD_INPUT = "standard input"

ROOT = "DS_DRIVER_ACTION_DATA"

#: The elements of the document of a datastore action.
ACTION: Layout = {
    "DATASTORE": DATASTORE,
    "IMAGE": layout(
        *("TYPE", "PATH", "SOURCE", "FORMAT", "FS", "SIZE", "TARGET_SNAPSHOT"),
        *(f"TEMPLATE/{name}" for name in ("MD5", "SHA1", "SHA256", "SHA512")),
    ),
    "MONITOR_VM_DISKS": {},
}


class Document(Element):
    """The document of a datastore action.

    The attribute ``encoded`` is the base64 of the document, or ``""`` for a long document. Paths of elements are below
    the root.
    """

    __slots__ = ("encoded",)

    def __init__(self, xml: bytes) -> None:
        super().__init__("")
        self.encoded = ""
        parse_into(self, xml, ROOT, ACTION, STANDARD_INPUT, "base64 of an XML document")


def read_document(stdin: IO[bytes]) -> Document:
    """Read the document of a datastore action from standard input.

    :raises InvalidInput: the document is too long, not base64, or not the XML of an action.
    """
    encoded = _read(stdin).translate(None, BLANKS)
    document = Document(_decode(encoded))
    if len(encoded) <= LONGEST_KEPT:
        document.encoded = encoded.decode()
    return document


def read_xml(stdin: IO[bytes]) -> bytes:
    """Read a document from standard input, in base64 or as it is. Base64 has no ``<``, the first character of XML.

    :raises InvalidInput: the document is too long, or neither XML nor base64.
    """
    data = _read(stdin)
    if not data.lstrip(BLANKS).startswith(b"<"):
        return _decode(data.translate(None, BLANKS))
    _require_length(data, len(data), LONGEST)
    return data


def _read(stdin: IO[bytes]) -> bytes:
    longest = LONGEST * 4 // 3 * 80 // 76  # base64 in lines
    data = stdin.read(longest + 1)
    _require_length(data, len(data), longest)
    return data


def _decode(encoded: bytes) -> bytes:
    """Return the XML of base64 without line breaks."""
    if not _is_base64(encoded):
        raise InvalidInput(STANDARD_INPUT, shorten(encoded), "base64 of an XML document is expected")
    xml = binascii.a2b_base64(encoded)
    _require_length(encoded, len(xml), LONGEST)
    return xml


def _require_length(data: bytes, length: int, longest: int) -> None:
    if length > longest:
        raise InvalidInput(STANDARD_INPUT, shorten(data), f"a document of at most {LONGEST >> 20} MiB is expected")


def _is_base64(encoded: bytes) -> bool:
    """Return whether ``encoded`` is base64 without line breaks (RFC 4648, 4). Check pieces, because a document can be
    long.
    """
    last = encoded[-3:]
    end = len(encoded) - len(last) + len(last.rstrip(b"="))
    if end == 0 or len(encoded) - end > 2 or len(encoded) % 4:
        return False
    return not any(encoded[start : min(start + PIECE, end)].translate(None, ALPHABET) for start in range(0, end, PIECE))


__all__ = ["STANDARD_INPUT", "Document", "read_document", "read_xml"]
