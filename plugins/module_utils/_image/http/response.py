# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Responses of a hostile server: the headers that matter for a file, and the bytes (RFC 9110)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from http.client import HTTPResponse, responses
from urllib.error import HTTPError

from ..._core.command import CHUNK
from ..._core.errors import printable
from .limits import Refused, Response

#: Content codings (RFC 9110 8.4.1) that are decoded like a compressed file, and codings that change nothing. "none"
#: isn't a standard coding, but servers send it.
CODINGS = frozenset(["gzip", "x-gzip", "bzip2", "x-bzip2", "xz", "x-xz", "zstd"])
NO_CODING = frozenset(["", "identity", "none"])


def check_coding(response: HTTPResponse) -> None:
    """Refuse a response with an unknown coding or without a clear end (RFC 9110 8.4, RFC 9112 6).

    :raises Refused: the coding isn't supported.
    :raises ValueError: the lengths contradict each other.
    """

    def listed(name: str) -> list[str]:
        return [one.strip().lower() for value in response.headers.get_all(name, []) for one in value.split(",")]

    transfer = [one for one in listed("Transfer-Encoding") if one not in NO_CODING]
    if transfer != ["chunked"] * response.chunked:
        raise Refused(
            f"the server sends it with the Transfer-Encoding {printable(', '.join(transfer))!r}, which is not supported"
        )
    content = [one for one in listed("Content-Encoding") if one not in NO_CODING]
    if len(content) > 1 or not CODINGS.issuperset(content):
        raise Refused(
            f"the server sends it with the Content-Encoding {printable(', '.join(content))!r}, and one of "
            f"{', '.join(sorted(CODINGS))} is supported"
        )
    lengths = set(response.headers.get_all("Content-Length", []))
    if not transfer and lengths and (len(lengths) > 1 or re.fullmatch(r"\d{1,18}", min(lengths).strip()) is None):
        raise ValueError("not one length")


def read_range(response: HTTPResponse) -> tuple[int, int | None, int | None]:
    """Return the position of the first byte in ``response``, the number of bytes in ``response``, and the length of the
    whole if known (RFC 9110 14.4).
    """
    if response.status in (200, 203):  # 203: a proxy may have changed the response
        return 0, response.length, response.length
    if response.status != 206:
        raise Refused(
            f"the server returned {response.status} {responses.get(response.status, '')}".rstrip()
            + ", which comes without a file"
        )
    content_range = re.fullmatch(
        r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", response.headers.get("Content-Range", "")
    )
    if content_range is None:
        raise ValueError("neither the whole nor a part")
    start, end = int(content_range[1]), int(content_range[2])
    length = None if content_range[3] == "*" else int(content_range[3])
    expected = end - start + 1
    if expected <= 0 or length is not None and end >= length:
        raise ValueError("a range that is none")
    if response.length not in (None, expected):
        raise Refused(f"the server sends {response.length} bytes where its Content-Range has {expected}")
    return start, expected, length


def read_validator(response: HTTPResponse) -> str | None:
    """Return a strong validator of the file: a strong ETag, or else a strong Last-Modified (RFC 9110 8.8.2.2)."""
    etag = response.headers.get("ETag")
    if etag is not None:
        return None if etag.startswith("W/") else etag
    try:
        modified, now = (parsedate_to_datetime(response.headers[name]) for name in ("Last-Modified", "Date"))
        return response.headers["Last-Modified"] if (now - modified).total_seconds() >= 1 else None
    except (TypeError, ValueError):  # the headers are missing or invalid
        return None


def read_retry_after(error: Exception) -> float | None:
    """Return the pause that a busy server requests in seconds (RFC 9110 10.2.3), at least one second, or ``None`` for
    any other error.
    """
    if not isinstance(error, HTTPError) or error.code not in (429, 503):
        return None
    given = (error.headers.get("Retry-After") or "").strip()
    if re.fullmatch(r"\d{1,9}", given):
        return max(1.0, float(given))
    try:
        return max(1.0, parsedate_to_datetime(given).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):  # the header is missing or invalid
        return None


def read_body(response: Response, expected: int | None) -> Iterator[bytes]:
    """Yield the bytes of a response.

    :arg expected: number of bytes, or ``None`` if it isn't known.
    :raises ConnectionError: fewer bytes arrive.
    :raises Refused: more bytes arrive, or they arrive too slowly.
    """
    missing, has_end = expected, response.length is None
    while missing != 0 or has_end:
        chunk = response.read1(CHUNK if has_end or missing is None else min(CHUNK, missing))
        if not chunk:
            if missing:
                raise ConnectionError(f"the connection was closed {missing} bytes too early")
            return
        response.patience.add_bytes(len(chunk))
        if missing is not None:
            missing -= len(chunk)
            if missing < 0:
                raise Refused(f"the server sends more than the {expected} bytes that its Content-Range has")
        yield chunk


__all__ = ["check_coding", "read_body", "read_range", "read_retry_after", "read_validator"]
