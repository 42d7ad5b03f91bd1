# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bytes over HTTP and HTTPS: certificates are verified, proxies of the environment used, and broken connections resumed (RFC 9110).

The server is hostile input: it chooses where to redirect, how much to send and how slowly, and what its error messages say.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse, responses
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from .._core.command import CHUNK
from .._core.errors import InvalidInput, TransferFailed, printable
from .source import Source

#: Seconds to wait before each attempt to resume. As soon as a byte came, all attempts are there again.
PAUSES = (0, 1, 3, 10)


def download(source: Source, timeout: float, log: Callable[[str], None]) -> Iterator[bytes]:
    """All bytes at a URL. A broken connection is resumed if the server says that the file is still the same.

    :arg timeout: seconds without a byte after which a connection is broken.
    :raises TransferFailed: the server can't be reached or refuses, or the connection breaks and can't be resumed.
    """
    position, total, validator = 0, None, None
    pauses = iter(PAUSES)
    while True:
        try:
            with _get(source, timeout, {"Range": f"bytes={position}-", "If-Range": validator} if validator else {}) as response:
                start, length = _range(response)
                if validator is None:
                    total, validator = length, _validator(response)
                    log(f"Downloading {source.shown}{'' if total is None else f' ({total} bytes)'}")
                elif start != position or None not in (total, length) and total != length or _validator(response) not in (None, validator):
                    raise _failed(source, f"the connection broke after {position} bytes, and the server can't go on there or has another file now")
                for chunk in _body(response):
                    position += len(chunk)
                    pauses = iter(PAUSES)
                    yield chunk
            if total is not None and position != total:
                raise ConnectionError(f"{position} of {total} bytes came")
            return
        except (OSError, HTTPException, ValueError) as error:
            why = _why(error, timeout)
            lasting = validator is None or isinstance(error, HTTPError) and error.code < 500
            pause = None if lasting else next(pauses, None)
            if pause is None:
                raise _failed(source, why) from error
        log(f"The download of {source.shown} broke after {position} bytes ({why}) and is resumed")
        time.sleep(pause)


def download_head(source: Source, size: int, timeout: float) -> tuple[bytes, int | None]:
    """The first ``size`` bytes (fewer if there aren't more) at a URL, and the length in bytes of the whole, where the server says it.

    :raises TransferFailed: as for :func:`download`.
    """
    head = b""
    try:
        with _get(source, timeout, {"Range": f"bytes=0-{size - 1}"}) as response:
            start, length = _range(response)
            if start:
                raise ValueError("bytes from somewhere else")
            for chunk in _body(response):
                head += chunk
                if len(head) >= size:
                    break
    except (OSError, HTTPException, ValueError) as error:
        why = _why(error, timeout)
        if isinstance(error, HTTPError) and error.code == 416:  # there are no bytes at all
            return b"", 0
        raise _failed(source, why) from error
    return head[:size], length


class _Redirects(HTTPRedirectHandler):
    """To http and https only. The password isn't sent along: it is the first server's."""

    def http_error_302(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any) -> HTTPResponse | None:
        fp.close()  # else all of the body is read, however long
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        try:
            allowed = Source(newurl).scheme in ("http", "https") and "@" not in urlsplit(newurl).netloc
        except InvalidInput:
            allowed = False
        # Python knows 308 since 3.11; 307 is the same to it.
        return super().redirect_request(req, fp, 307, msg, headers, newurl) if allowed else None


def _get(source: Source, timeout: float, headers: dict[str, str]) -> HTTPResponse:
    """:raises OSError, HTTPException, ValueError: :func:`_why` puts them into words."""
    parts = urlsplit(source.path)
    user, at, host = parts.netloc.rpartition("@")
    request = Request(urlunsplit((source.scheme, host, parts.path, parts.query, "")), headers=headers)
    if at:
        request.add_unredirected_header("Authorization", f"Basic {b64encode(unquote(user).encode()).decode()}")
    opener = OpenerDirector()  # unlike urlopen's, this one has neither file: nor ftp: nor data:
    opener.addheaders = [("User-Agent", "granary.vmstore")]
    tls = HTTPSHandler(context=ssl.create_default_context())
    for handler in (ProxyHandler(), HTTPHandler(), tls, _Redirects(), HTTPErrorProcessor(), HTTPDefaultErrorHandler()):
        opener.add_handler(handler)
    return opener.open(request, timeout=timeout)


def _range(response: HTTPResponse) -> tuple[int, int | None]:
    """The position of the first byte in ``response``, and the length of the whole, where known."""
    if response.status == 200:
        return 0, response.length
    content_range = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("Content-Range", ""))
    if response.status != 206 or content_range is None:
        raise ValueError("neither the whole nor a part")
    return int(content_range[1]), None if content_range[2] == "*" else int(content_range[2])


def _validator(response: HTTPResponse) -> str | None:
    """What says for sure that a file is the same as before: a strong ETag, else a Last-Modified that is (RFC 9110 8.8.2.2)."""
    etag = response.headers.get("ETag")
    if etag is not None:
        return None if etag.startswith("W/") else etag
    try:
        modified, now = (parsedate_to_datetime(response.headers[name]) for name in ("Last-Modified", "Date"))
        return response.headers["Last-Modified"] if (now - modified).total_seconds() >= 1 else None
    except (TypeError, ValueError):  # missing, or not dates
        return None


def _body(response: HTTPResponse) -> Iterator[bytes]:
    """:raises ConnectionError: it is shorter than its Content-Length."""
    missing = response.length
    while missing != 0:
        chunk = response.read1(CHUNK if missing is None else min(CHUNK, missing))
        if not chunk:
            if missing is not None:
                raise ConnectionError(f"the connection was closed {missing} bytes too early")
            return
        if missing is not None:
            missing -= len(chunk)
        yield chunk


def _failed(source: Source, why: str) -> TransferFailed:
    return TransferFailed(f"Could not read {source.shown}: {why}.")


def _why(error: Exception, timeout: float) -> str:
    if isinstance(error, HTTPError):
        error.close()
        if error.code < 400:
            return "the server redirects in a circle, too often, or to something else than http or https"
        return f"the server answered {error.code} {responses.get(error.code, '')}".rstrip()
    if isinstance(error, URLError):
        error = error.reason if isinstance(error.reason, Exception) else ConnectionError(error.reason)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted ({printable(error.verify_message)})"
    if isinstance(error, socket.timeout):
        return f"the server sent nothing for {timeout:g} seconds"
    if isinstance(error, OSError):
        return printable(error.strerror or str(error))
    return f"the server's answer is not valid HTTP ({type(error).__name__})"


__all__ = ["download", "download_head"]
