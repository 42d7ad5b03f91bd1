# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Downloads over HTTP and HTTPS (RFC 9110). Certificates are verified, the environment's proxies are used, and broken
connections are resumed.

The server is hostile. It controls redirects, the amount and the speed of the data, and the text of error messages.
"""

from __future__ import annotations

import functools
import io
import re
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
    IncompleteRead,
    parse_headers,
    responses,
)
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
from .._core.throttle import MinimumRate
from .source import Source

#: Pauses before the attempts to resume in seconds. After :data:`GAIN` bytes, the attempts start again.
PAUSES = (1, 1, 3, 10)
GAIN = 64 << 10

#: Upper bound of the pause that a busy server may request (Retry-After) in seconds.
LEFT_ALONE = 300.0

#: Upper bound of the time up to the end of the headers in seconds, including names, connections, proxies and redirects.
BEGINNING = 120.0

#: Upper bound of the informational responses before the final one (RFC 9110 15.2).
INFORMATIONAL = 100

#: Upper bound of the bytes of a response beside the file, and further bytes for each byte of the file. A chunk of one
#: byte takes six.
OVERHEAD = 1 << 20
OVERHEAD_RATIO = 16

#: Content codings (RFC 9110 8.4.1) that are decoded like a compressed file, and codings that change nothing. "none"
#: isn't a standard coding, but servers send it.
CODINGS = frozenset(["gzip", "x-gzip", "bzip2", "x-bzip2", "xz", "x-xz", "zstd"])
NO_CODING = frozenset(["", "identity", "none"])


def download(source: Source, timeout: float, log: Callable[[str], object], limit: int | None = None) -> Iterator[bytes]:
    """Yield all bytes at a URL. Resume a broken connection if the headers show that the file is unchanged.

    :arg timeout: upper bound of the pause between two bytes in seconds.
    :arg limit: upper bound of the length in bytes. A file with a larger Content-Length is refused at once.
    :raises TransferFailed: the server can't be reached, refuses the request, sends invalid data or hardly any data. Or
        the connection breaks and can't be resumed.
    """
    file = _Download(source, timeout, log, limit)
    while True:
        try:
            yield from file.read_rest()
            return
        except _Refused as error:
            raise _failure(source, str(error)) from error
        except (OSError, HTTPException, ValueError) as error:
            file.wait_after(error)


class _Download:
    """A download in progress. The arguments are those of :func:`download`."""

    def __init__(self, source: Source, timeout: float, log: Callable[[str], object], limit: int | None) -> None:
        self._source = source
        self._timeout = timeout
        self._log = log
        self._limit = limit
        #: Number of bytes received.
        self._position = 0
        #: Number of bytes of the whole file, or ``None`` if the server doesn't send the length.
        self._total: int | None = None
        #: The validator of this version of the file (ETag or Last-Modified), after the first response.
        self._validator: str | None = None
        #: The remaining pauses, and the position at which the pauses started again.
        self._pauses, self._counted = iter(PAUSES), 0
        #: Sum of the pauses that the server requested in seconds.
        self._left_alone = 0.0

    def read_rest(self) -> Iterator[bytes]:
        """Yield the bytes from the current position on.

        :raises _Refused: the server can't deliver the bytes.
        :raises OSError, HTTPException, ValueError: the connection broke.
        """
        validator = self._validator
        ranges = {"Range": f"bytes={self._position}-", "If-Range": validator} if validator else {}
        with _get(self._source, self._timeout, ranges) as response:
            start, expected, length = _range(response)
            if validator is None:
                self._begin(response, length)
            elif start != self._position or not self._is_same(response, length):
                raise _Refused(
                    f"the connection broke after {self._position} bytes, and the server can't go on there or has "
                    "another file now"
                )
            self._total = length if self._total is None else self._total
            for chunk in _body(response, expected):
                self._position += len(chunk)
                if self._position - self._counted >= GAIN:
                    self._pauses, self._counted = iter(PAUSES), self._position
                yield chunk
        if self._total is not None and self._position != self._total:
            raise ConnectionError(f"{self._position} of {self._total} bytes came")

    def _begin(self, response: _Response, length: int | None) -> None:
        if response.status == 206:
            raise _UnaskedPart("the server sent a part of the file where all of it was asked for")
        self._total, self._validator = length, _validator(response)
        _require_room(length, self._limit)
        self._log(f"Downloading {self._source.redacted}{_describe_length(response, length)}")

    def _is_same(self, response: _Response, length: int | None) -> bool:
        """Return whether a response is about the same version of the file."""
        has_same_length = None in (self._total, length) or self._total == length
        return has_same_length and _validator(response) in (None, self._validator)

    def wait_after(self, error: Exception) -> None:
        """Wait before the next attempt.

        :raises TransferFailed: no further attempt is made.
        """
        why = _why(error, self._timeout)
        seconds = _retry_after(error)
        if seconds is not None and self._left_alone + seconds <= LEFT_ALONE:
            self._left_alone += seconds
            self._log(f"For {self._source.redacted}, {why}; the request is repeated in {seconds:.0f} seconds")
            time.sleep(seconds)
            return
        pause = None if self._is_lasting(error) else next(self._pauses, None)
        if pause is None:
            raise _failure(self._source, why) from error
        broken = f"The download of {self._source.redacted} broke after {self._position} bytes"
        self._log(f"{broken} ({why}) and is resumed")
        time.sleep(pause)

    def _is_lasting(self, error: Exception) -> bool:
        """Return whether another attempt would fail with the same error."""
        if isinstance(error, HTTPError):
            return self._validator is None or error.code < 500
        return self._validator is None and not isinstance(error, _UnaskedPart)


def download_head(source: Source, size: int, timeout: float, limit: int | None = None) -> tuple[bytes, int | None]:
    """Return the first ``size`` bytes at a URL, or all bytes of a shorter file, and the length of the whole in bytes if
    the server sends it.

    :raises TransferFailed: see :func:`download`.
    """
    head = b""
    try:
        with _get(source, timeout, {"Range": f"bytes=0-{size - 1}"}) as response:
            start, expected, length = _range(response)
            _require_room(length, limit)
            if start:
                raise ValueError("bytes from somewhere else")
            for chunk in _body(response, expected):
                head += chunk
                if len(head) >= size:
                    break
            if length is not None and len(head) < min(size, length):
                raise ValueError("less than was asked for")
    except _Refused as error:
        raise _failure(source, str(error)) from error
    except (OSError, HTTPException, ValueError) as error:
        why = _why(error, timeout)
        if isinstance(error, HTTPError) and error.code == 416:  # the file is empty
            return b"", 0
        raise _failure(source, why) from error
    return head[:size], length


def _require_room(length: int | None, limit: int | None) -> None:
    if limit is not None and length is not None and length > limit:
        raise _Refused(f"the file has {length} bytes, and there is room for {limit} bytes at most")


class _Refused(Exception):
    """The server exceeds a limit, or its response can't be used.

    ``str(error)`` is the reason. Another attempt would be useless.
    """


class _UnaskedPart(ConnectionError):
    """The response to a request without a range is a part (RFC 9110 15.3.7).

    A cache may have confused two requests, so the whole is requested again.
    """


class _Patience:
    """The limits of one request with its redirects: the waiting time, and the bytes beside the file.

    :arg timeout: upper bound of the pause between two bytes in seconds.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._end: float | None = time.monotonic() + BEGINNING
        self._rate = MinimumRate()
        self._received = self._gained = 0

    def connection(self, kind: type[HTTPConnection], host: str, **options: Any) -> HTTPConnection:
        made = kind(host, **options)
        made._create_connection = self._connect  # type: ignore[attr-defined]  # pylint: disable=protected-access
        made.response_class = functools.partial(_Response, self)  # type: ignore[assignment]
        return made

    def _connect(self, address: tuple[str, int], *_timeout_and_source: object) -> socket.socket:
        """Connect like socket.create_connection(), but with one deadline for all the addresses of a name."""
        failure: OSError | None = None
        for family, kind, protocol, _name, found in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
            made = socket.socket(family, kind, protocol)
            try:
                made.settimeout(self._seconds())
                made.connect(found)
                made.settimeout(self._timeout)
                return made
            except OSError as error:
                made.close()
                failure = error
                self._seconds()
            except BaseException:
                made.close()
                raise
        raise failure or OSError("the name has no address")

    def read(self, connection: socket.socket, read_once: Callable[[], int | None]) -> int | None:
        """Read from a connection within the limits."""
        if self._received > OVERHEAD + OVERHEAD_RATIO * self._gained:
            raise _Refused(f"the server sent more than {OVERHEAD} bytes beside the file")
        too_slow = self._rate.reason()
        if too_slow:
            raise _Refused(f"the server is too slow: {too_slow}")
        seconds = self._seconds()
        connection.settimeout(seconds)
        began = time.monotonic()
        try:
            count = read_once()
        except socket.timeout:
            self._seconds()
            raise
        if self._end is None:
            self._rate.add_wait(time.monotonic() - began)
        self._received += count or 0
        return count

    def _seconds(self) -> float:
        left = self._timeout if self._end is None else self._end - time.monotonic()
        if left <= 0:
            raise _Refused(f"the server did not begin its response within {BEGINNING:g} seconds")
        return min(self._timeout, left)

    def begin(self) -> None:
        """Note the end of the headers and the beginning of the file."""
        self._end = None

    def add_bytes(self, count: int) -> None:
        """Count bytes of the file."""
        self._gained += count
        self._rate.add_bytes(count)


class _Response(HTTPResponse):
    """A response that is read within the limits of ``patience``, from its first byte on."""

    def __init__(self, patience: _Patience, connection: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(connection, *arguments, **options)
        self.patience = patience
        self.fp = io.BufferedReader(_Metered(patience, connection, self.fp.detach()))

    def _read_status(self) -> tuple[str, int, str]:
        """Return the status of the final response. Python itself skips only responses with 100. 101 is final, because
        no other protocol was requested.

        :raises _Refused: no final response arrives.
        """
        for _answer in range(INFORMATIONAL + 1):
            version, status, why = super()._read_status()  # type: ignore[misc]
            if status == 101 or not 100 <= status <= 199:
                return version, status, why
            parse_headers(self.fp)
        raise _Refused(f"the server sent {INFORMATIONAL} informational responses, and no final one")


class _Metered(io.RawIOBase):
    def __init__(self, patience: _Patience, connection: socket.socket, raw: io.RawIOBase) -> None:
        self._patience, self._connection, self._raw = patience, connection, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        return self._patience.read(self._connection, lambda: self._raw.readinto(buffer))

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Http(HTTPHandler):
    def __init__(self, patience: _Patience) -> None:
        super().__init__()
        self._connection = patience.connection

    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(functools.partial(self._connection, HTTPConnection), req)


class _Https(HTTPSHandler):
    def __init__(self, patience: _Patience, ca: str | None) -> None:
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
            raise _Refused(
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


def _get(source: Source, timeout: float, headers: dict[str, str]) -> _Response:
    """Request a URL, and return the response after its headers were read.

    :raises OSError, HTTPException, ValueError: the request failed. :func:`_why` describes these errors.
    :raises _Refused: a limit was exceeded, or a coding is unknown.
    """
    parts = urlsplit(source.path)
    user, at, host = parts.netloc.rpartition("@")
    request = Request(urlunsplit((source.scheme, host, parts.path, parts.query, "")), headers=headers)
    if at:
        request.add_unredirected_header("Authorization", f"Basic {b64encode(unquote(user).encode()).decode()}")
    for name, value in source.headers.items():
        request.add_unredirected_header(name, value)
    opener = OpenerDirector()  # without the schemes file:, ftp: and data: of urlopen
    opener.addheaders = [("User-Agent", "granary.vmstore")]
    patience = _Patience(timeout)
    for handler in (
        ProxyHandler(),
        _Http(patience),
        _Https(patience, source.ca),
        _Redirects(),
        HTTPErrorProcessor(),
        HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    response: _Response = opener.open(request, timeout=timeout)
    try:
        _check_coding(response)
    except BaseException:
        response.close()
        raise
    patience.begin()
    return response


def _check_coding(response: HTTPResponse) -> None:
    """Refuse a response with an unknown coding or without a clear end (RFC 9110 8.4, RFC 9112 6).

    :raises _Refused: the coding isn't supported.
    :raises ValueError: the lengths contradict each other.
    """

    def listed(name: str) -> list[str]:
        return [one.strip().lower() for value in response.headers.get_all(name, []) for one in value.split(",")]

    transfer = [one for one in listed("Transfer-Encoding") if one not in NO_CODING]
    if transfer != ["chunked"] * response.chunked:
        raise _Refused(
            f"the server sends it with the Transfer-Encoding {printable(', '.join(transfer))!r}, which is not supported"
        )
    content = [one for one in listed("Content-Encoding") if one not in NO_CODING]
    if len(content) > 1 or not CODINGS.issuperset(content):
        raise _Refused(
            f"the server sends it with the Content-Encoding {printable(', '.join(content))!r}, and one of "
            f"{', '.join(sorted(CODINGS))} is supported"
        )
    lengths = set(response.headers.get_all("Content-Length", []))
    if not transfer and lengths and (len(lengths) > 1 or re.fullmatch(r"\d{1,18}", min(lengths).strip()) is None):
        raise ValueError("not one length")


def _range(response: HTTPResponse) -> tuple[int, int | None, int | None]:
    """Return the position of the first byte in ``response``, the number of bytes in ``response``, and the length of the
    whole if known (RFC 9110 14.4).
    """
    if response.status in (200, 203):  # 203: a proxy may have changed the response
        return 0, response.length, response.length
    if response.status != 206:
        raise _Refused(
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
        raise _Refused(f"the server sends {response.length} bytes where its Content-Range has {expected}")
    return start, expected, length


def _describe_length(response: HTTPResponse, total: int | None) -> str:
    if total is not None:
        return f" ({total} bytes)"
    return (
        ""
        if response.chunked
        else " (the server gives no length, so that a connection that ends too early can't be noticed)"
    )


def _validator(response: HTTPResponse) -> str | None:
    """Return a strong validator of the file: a strong ETag, or else a strong Last-Modified (RFC 9110 8.8.2.2)."""
    etag = response.headers.get("ETag")
    if etag is not None:
        return None if etag.startswith("W/") else etag
    try:
        modified, now = (parsedate_to_datetime(response.headers[name]) for name in ("Last-Modified", "Date"))
        return response.headers["Last-Modified"] if (now - modified).total_seconds() >= 1 else None
    except (TypeError, ValueError):  # the headers are missing or invalid
        return None


def _body(response: _Response, expected: int | None) -> Iterator[bytes]:
    """Yield the bytes of a response.

    :arg expected: number of bytes, or ``None`` if it isn't known.
    :raises ConnectionError: fewer bytes arrive.
    :raises _Refused: more bytes arrive, or they arrive too slowly.
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
                raise _Refused(f"the server sends more than the {expected} bytes that its Content-Range has")
        yield chunk


def _retry_after(error: Exception) -> float | None:
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


def _failure(source: Source, why: str) -> TransferFailed:
    return TransferFailed(f"Could not read {source.redacted}: {why}.")


def _why(error: Exception, timeout: float) -> str:
    if isinstance(error, HTTPError):
        error.close()
        if error.code in (301, 302, 303, 307, 308):
            return "the server redirects in a circle, too often, or to something else than http or https"
        return f"the server returned {error.code} {responses.get(error.code, '')}".rstrip()
    if isinstance(error, URLError):
        error = error.reason if isinstance(error.reason, Exception) else ConnectionError(error.reason)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted ({printable(error.verify_message)})"
    if isinstance(error, socket.timeout):
        return f"the server sent nothing for {timeout:g} seconds"
    if isinstance(error, IncompleteRead):
        return "the connection was closed too early"
    if isinstance(error, OSError):
        return printable(error.strerror or str(error))
    return f"the server's response is not valid HTTP ({type(error).__name__})"


__all__ = ["download", "download_head"]
