# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A POST request to a front-end by HTTP/1.0 (RFC 1945), with a deadline for the whole and a longest response.

The response of HTTP/1.0 has no chunks and ends with the connection, so that few lines read it. ``http.client`` takes
longer to load than a front-end takes to respond. The environment's proxies aren't used and redirects aren't followed,
because both would get the password in the request.
"""

from __future__ import annotations

from time import monotonic

from ..._core.digits import is_decimal
from ..._core.errors import FrontEndFailed, InvalidInput, TimedOut, printable
from ..._core.records import TYPE_CHECKING, dataclass
from .elements import LONGEST

if TYPE_CHECKING:
    from socket import SOCK_STREAM, getaddrinfo, socket, timeout
else:
    try:
        # The module ``socket`` loads ``enum`` and ``selectors`` to name the numbers, which takes 40 times as long.
        from _socket import SOCK_STREAM, getaddrinfo, socket, timeout
    except ImportError:  # a Python other than CPython
        from socket import SOCK_STREAM, getaddrinfo, socket, timeout

#: Upper bound of the headers of a response in bytes.
LONGEST_HEAD = 64 << 10

#: Size of one piece of a response in bytes.
PIECE = 256 << 10

#: Upper bound of the characters of a server's text in a message.
LONGEST_SHOWN = 200

#: The schemes of URLs, with their ports.
PORTS = {"http": 80, "https": 443}

#: Characters that no URL has (RFC 3986, 2), or that begin a password, a query or a fragment.
EXCLUDED = frozenset(' "#<>?@\\^`{|}')


@dataclass(frozen=True)
class Endpoint:
    """The URL of a front-end, and its parts."""

    url: str
    scheme: str
    host: str
    port: int
    path: str


def parse_endpoint(option: str, url: str) -> Endpoint:
    """Return the endpoint of a URL.

    :arg option: the name of the setting with the URL, for messages.
    :raises InvalidInput: the URL has another scheme, no host, a password, a query, or characters that no URL has.
    """
    scheme, _separator, rest = url.partition("://")
    authority, _slash, path = rest.partition("/")
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        host, port = authority, str(PORTS.get(scheme, ""))
    is_ipv6 = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if is_ipv6 else host
    if (
        scheme in PORTS
        and host
        and (":" in host) == is_ipv6
        and is_decimal(port, 5)
        and 0 < int(port) < 1 << 16
        and url.isascii()
        and url.isprintable()
        and EXCLUDED.isdisjoint(url)
    ):
        return Endpoint(url, scheme, host, int(port), f"/{path}")
    raise InvalidInput(option, url, "a URL such as 'http://localhost:2633/RPC2' is expected")


def post(endpoint: Endpoint, body: bytes, seconds: float) -> bytes:
    """Send ``body``, and return the body of the response.

    :arg seconds: upper bound of the time. The resolver of names has timeouts of its own (resolv.conf(5)).
    :raises TimedOut: the whole response didn't come in this time.
    :raises FrontEndFailed: the server can't be reached, isn't trusted, or doesn't return the status 200.
    """
    try:
        with _connect(endpoint, monotonic() + seconds) as connection:
            connection.send(_head(endpoint, len(body)) + body)
            return connection.read_response()
    except timeout as error:
        raise TimedOut(f"The front-end at {endpoint.url} did not respond within {seconds:g} seconds.") from error
    except OSError as error:
        raise failed(endpoint, f"can't be reached ({_why(error)})") from error
    except _Unusable as error:
        raise failed(endpoint, str(error)) from error


def failed(endpoint: Endpoint, what: str) -> FrontEndFailed:
    """Return the error about a server that isn't a working front-end.

    :arg what: the verb of the sentence and the rest.
    """
    return FrontEndFailed(
        f"The front-end at {endpoint.url} {what}: check that it runs, and that ONE_XMLRPC is its URL."
    )


class _Unusable(Exception):
    """The response can't be used. The text is the verb of a sentence and the rest."""


def _head(endpoint: Endpoint, length: int) -> bytes:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return (
        f"POST {endpoint.path} HTTP/1.0\r\nHost: {host}:{endpoint.port}\r\nUser-Agent: granary.vmstore\r\n"
        f"Content-Type: text/xml\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def _connect(endpoint: Endpoint, end: float) -> _Connection:
    found = _open_socket(endpoint, end)
    if endpoint.scheme == "https":
        found = _secure(found, endpoint.host, end)
    return _Connection(found, end)


def _open_socket(endpoint: Endpoint, end: float) -> socket:
    """Connect to the first address of the host that accepts the connection."""
    refusal: OSError = ConnectionError("the name has no address")
    host = endpoint.host.encode()  # for a str, Python loads the codec of international names
    for family, kind, protocol, _name, address in getaddrinfo(host, endpoint.port, type=SOCK_STREAM):
        found = socket(family, kind, protocol)
        try:
            found.settimeout(_remaining(end))
            found.connect(address)
            return found
        except OSError as error:
            found.close()
            refusal = error
    raise refusal


def _secure(found: socket, host: str, end: float) -> socket:
    """Return a connected socket with TLS. The server's certificate is verified."""
    import ssl
    from socket import socket as full_socket

    with full_socket(fileno=found.detach()) as plain:
        plain.settimeout(_remaining(end))
        return ssl.create_default_context().wrap_socket(plain, server_hostname=host)


def _remaining(end: float) -> float:
    """Return the seconds until ``end``.

    :raises timeout: none remain.
    """
    seconds = end - monotonic()
    if seconds <= 0:
        raise timeout
    return seconds


class _Connection:
    """A connection to a server, until a time on the monotonic clock."""

    def __init__(self, found: socket, end: float) -> None:
        self._socket = found
        self._end = end

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_error: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.settimeout(_remaining(self._end))
        self._socket.sendall(data)

    def read_response(self) -> bytes:
        """Return the body of the response.

        :raises _Unusable: the response isn't HTTP, has another status than 200, or is too long.
        """
        head, begin = self._read_head()
        status, *fields = head.decode("latin-1").split("\r\n")
        version, code, reason = (*status.split(" ", 2), "", "")[:3]
        if not (version.startswith("HTTP/1.") and is_decimal(code, 3)):
            raise _Unusable("didn't return a response of HTTP")
        if code != "200":
            raise _Unusable(f"returned the status {code} {printable(reason)[:LONGEST_SHOWN]}".rstrip())
        headers = {
            name.strip().lower(): value.strip() for name, _colon, value in (one.partition(":") for one in fields)
        }
        length = headers.get("content-length")
        if "transfer-encoding" in headers or not (length is None or is_decimal(length, 18)):
            raise _Unusable("returned a body of unknown length")
        return self._read_body(begin, None if length is None else int(length))

    def _read_head(self) -> tuple[bytes, bytes]:
        """Return the status line and the headers, and the beginning of the body."""
        data = b""
        while True:
            head, separator, begin = data.partition(b"\r\n\r\n")
            if separator:
                return head, begin
            piece = self._receive()
            if not piece or len(data) > LONGEST_HEAD:
                raise _Unusable("didn't return a response of HTTP")
            data += piece

    def _read_body(self, begin: bytes, length: int | None) -> bytes:
        pieces, received = [begin], len(begin)
        while (length is None or received < length) and max(received, length or 0) <= LONGEST:
            piece = self._receive()
            if not piece:
                break
            pieces.append(piece)
            received += len(piece)
        if max(received, length or 0) > LONGEST:
            raise _Unusable(f"returned more than {LONGEST >> 20} MiB")
        if length is not None and received < length:
            raise _Unusable(f"returned {received} of {length} bytes")
        return b"".join(pieces)[:length]

    def _receive(self) -> bytes:
        self._socket.settimeout(_remaining(self._end))
        return self._socket.recv(PIECE)


def _why(error: OSError) -> str:
    """Return the reason of an error. An untrusted certificate has the longest attribute."""
    return printable(getattr(error, "verify_message", None) or error.strerror or str(error))


__all__ = ["Endpoint", "failed", "parse_endpoint", "post"]
