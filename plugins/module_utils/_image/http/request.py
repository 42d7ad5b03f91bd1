# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Requests to a hostile server: the headers, the proxies, and the redirects that are followed (RFC 9110 15.4)."""

from __future__ import annotations

import functools
import ssl
from base64 import b64encode
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import IO, Any
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

from ..._core.errors import InvalidInput
from ..source import Source
from .limits import Patience, Refused, Response
from .response import check_coding


def open_url(source: Source, timeout: float, headers: dict[str, str], method: str = "GET") -> Response:
    """Request a URL, and return the response after its headers were read.

    :arg method: ``GET``, or ``HEAD`` for a response without content. A redirect changes ``HEAD`` to ``GET``.
    :raises OSError, HTTPException, ValueError: the request failed.
    :raises Refused: a limit was exceeded, or a coding is unknown.
    """
    parts = urlsplit(source.path)
    user, at, host = parts.netloc.rpartition("@")
    request = Request(urlunsplit((source.scheme, host, parts.path, parts.query, "")), headers=headers, method=method)
    if at:
        request.add_unredirected_header("Authorization", f"Basic {b64encode(unquote(user).encode()).decode()}")
    for name, value in source.headers.items():
        request.add_unredirected_header(name, value)
    opener = OpenerDirector()  # without the schemes file:, ftp: and data: of urlopen
    opener.addheaders = [("User-Agent", "granary.vmstore")]
    patience = Patience(timeout)
    for handler in (
        ProxyHandler(),
        _Http(patience),
        _Https(patience, source.ca),
        _Redirects(),
        HTTPErrorProcessor(),
        HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    response: Response = opener.open(request, timeout=timeout)
    try:
        check_coding(response)
    except BaseException:
        response.close()
        raise
    patience.begin()
    return response


class _Http(HTTPHandler):
    def __init__(self, patience: Patience) -> None:
        super().__init__()
        self._connection = patience.connection

    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(functools.partial(self._connection, HTTPConnection), req)


class _Https(HTTPSHandler):
    def __init__(self, patience: Patience, ca: str | None) -> None:
        super().__init__()
        self._connection = patience.connection
        self._ca = ca

    def https_open(self, req: Request) -> HTTPResponse:
        return self.do_open(
            functools.partial(self._connection, HTTPSConnection),
            req,
            context=ssl.create_default_context(cadata=self._ca),
        )


class _Redirects(HTTPRedirectHandler):
    """Follow redirects to http and https only.

    The password and the user's headers are sent only to the server of the original URL.
    """

    def http_error_302(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any) -> HTTPResponse | None:
        fp.close()  # otherwise the whole body would be read
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        try:
            allowed = Source(newurl).scheme in ("http", "https") and "@" not in urlsplit(newurl).netloc
        except InvalidInput:
            allowed = False
        if not allowed:
            return None
        if _server(req.full_url)[0] == "https" != _server(newurl)[0]:
            target = Source(newurl).redacted
            raise Refused(
                f"the server redirects from https to {target}, where anybody on the way can change it: give that URL "
                "to accept this"
            )
        # Python handles 308 like 307, but only since 3.11.
        request = super().redirect_request(req, fp, 307, msg, headers, newurl)
        if request is not None and _server(req.full_url) == _server(newurl):
            for name, value in req.unredirected_hdrs.items():
                request.add_unredirected_header(name, value)
        return request


def _server(url: str) -> tuple[str, str | None, int | None]:
    """Return the scheme, the host and the port of a URL."""
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme.lower())


__all__ = ["open_url"]
