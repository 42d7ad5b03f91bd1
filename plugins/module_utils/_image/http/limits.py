# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Connections to a hostile server (RFC 9112): the limits of the waiting time and of the bytes beside the file."""

from __future__ import annotations

import functools
import io
import socket
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPResponse, parse_headers
from typing import Any

from ..._core.throttle import MinimumRate

#: Upper bound of the time up to the end of the headers in seconds, including names, connections, proxies and redirects.
BEGINNING = 120.0

#: Upper bound of the informational responses before the final one (RFC 9110 15.2).
INFORMATIONAL = 100

#: Upper bound of the bytes of a response beside the file, and further bytes for each byte of the file. A chunk of one
#: byte takes six.
OVERHEAD = 1 << 20
OVERHEAD_RATIO = 16


class Refused(Exception):
    """The server exceeds a limit, or its response can't be used.

    ``str(error)`` is the reason. Another attempt would be useless.
    """


class Patience:
    """The limits of one request with its redirects: the waiting time, and the bytes beside the file.

    :arg timeout: upper bound of the pause between two bytes in seconds.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._end: float | None = time.monotonic() + BEGINNING
        self._rate = MinimumRate()
        self._received = self._gained = 0

    def connection(self, kind: type[HTTPConnection], host: str, **options: Any) -> HTTPConnection:
        """Return a connection within the limits."""
        made = kind(host, **options)
        made._create_connection = self._connect  # type: ignore[attr-defined]  # pylint: disable=protected-access
        made.response_class = functools.partial(Response, self)  # type: ignore[assignment]
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
            raise Refused(f"the server sent more than {OVERHEAD} bytes beside the file")
        too_slow = self._rate.reason()
        if too_slow:
            raise Refused(f"the server is too slow: {too_slow}")
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
            raise Refused(f"the server did not begin its response within {BEGINNING:g} seconds")
        return min(self._timeout, left)

    def begin(self) -> None:
        """Note the end of the headers and the beginning of the file."""
        self._end = None

    def add_bytes(self, count: int) -> None:
        """Count bytes of the file."""
        self._gained += count
        self._rate.add_bytes(count)


class Response(HTTPResponse):
    """A response that is read within the limits of ``patience``, from its first byte on."""

    def __init__(self, patience: Patience, connection: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(connection, *arguments, **options)
        self.patience = patience
        self.fp = io.BufferedReader(_Metered(patience, connection, self.fp.detach()))

    def _read_status(self) -> tuple[str, int, str]:
        """Return the status of the final response. Python itself skips only responses with 100. 101 is final, because
        no other protocol was requested.

        :raises Refused: no final response arrives.
        """
        for _answer in range(INFORMATIONAL + 1):
            version, status, why = super()._read_status()  # type: ignore[misc]
            if status == 101 or not 100 <= status <= 199:
                return version, status, why
            parse_headers(self.fp)
        raise Refused(f"the server sent {INFORMATIONAL} informational responses, and no final one")


class _Metered(io.RawIOBase):
    """The bytes of a connection, read within the limits of ``patience``."""

    def __init__(self, patience: Patience, connection: socket.socket, raw: io.RawIOBase) -> None:
        self._patience, self._connection, self._raw = patience, connection, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        return self._patience.read(self._connection, lambda: self._raw.readinto(buffer))

    def close(self) -> None:
        self._raw.close()
        super().close()


__all__ = ["BEGINNING", "Patience", "Refused", "Response"]
