# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small documents of a hostile server, with the status and the headers of the response."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from urllib.error import HTTPError

from ..._core.records import dataclass, field
from ..download import describe_error, transfer_failure
from ..source import Source
from .limits import Refused, Response
from .request import open_url
from .response import read_body, read_range

#: Upper bound of the pause between two bytes in seconds.
TIMEOUT = 30.0
#: Upper bound of the time to read a document, from its first byte on, in seconds.
LONGEST_TIME = 60.0


@dataclass(frozen=True)
class Document:
    """A response.

    :arg headers: the headers by their names in lower case. Of a repeated header, all values with commas between them.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes = field(default=b"", repr=False)


def fetch_document(source: Source, headers: Mapping[str, str], *, most: int, method: str = "GET") -> Document:
    """Return the response to a request. A response with an error status has no content.

    :arg most: upper bound of the content in bytes.
    :arg method: see :func:`open_url`.
    :raises TransferFailed: the server can't be reached, or its response is invalid or too long.
    """
    try:
        with open_url(source, TIMEOUT, dict(headers), method) as response:
            content = b"".join(_read(response, most)) if method == "GET" else b""
            return Document(response.status, _read_headers(response), content)
    except HTTPError as error:
        why = describe_error(error, TIMEOUT)  # this closes the connection
        if 400 <= error.code <= 499:
            return Document(error.code, _read_headers(error))
        raise transfer_failure(source, why) from error
    except Refused as error:
        raise transfer_failure(source, str(error)) from error
    except (OSError, HTTPException, ValueError) as error:
        raise transfer_failure(source, describe_error(error, TIMEOUT)) from error


def _read(response: Response, most: int) -> Iterator[bytes]:
    _start, expected, _length = read_range(response)
    total, end = 0, time.monotonic() + LONGEST_TIME
    for chunk in read_body(response, expected):
        total += len(chunk)
        if total > most:
            raise Refused(f"a document of at most {most} bytes is expected")
        if time.monotonic() > end:
            raise Refused(f"a document is expected within {LONGEST_TIME:g} seconds")
        yield chunk


def _read_headers(response: Response | HTTPError) -> dict[str, str]:
    names = {name.lower() for name in response.headers}
    return {name: ", ".join(response.headers.get_all(name, [])) for name in names}


__all__ = ["Document", "fetch_document"]
