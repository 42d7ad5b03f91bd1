# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Downloads over HTTP and HTTPS (RFC 9110). Certificates are verified, the environment's proxies are used, and broken
connections are resumed.

The server is hostile. It controls redirects, the amount and the speed of the data, and the text of error messages.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse, IncompleteRead, responses
from urllib.error import HTTPError, URLError

from .._core.errors import TransferFailed, printable
from .http.limits import Refused, Response
from .http.request import open_url
from .http.response import read_body, read_range, read_retry_after, read_validator
from .source import Source

#: Pauses before the attempts to resume in seconds. After :data:`GAIN` bytes, the attempts start again.
PAUSES = (1, 1, 3, 10)
GAIN = 64 << 10

#: Upper bound of the pause that a busy server may request (Retry-After) in seconds.
LEFT_ALONE = 300.0


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
        except Refused as error:
            raise transfer_failure(source, str(error)) from error
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

        :raises Refused: the server can't deliver the bytes.
        :raises OSError, HTTPException, ValueError: the connection broke.
        """
        validator = self._validator
        ranges = {"Range": f"bytes={self._position}-", "If-Range": validator} if validator else {}
        with open_url(self._source, self._timeout, ranges) as response:
            start, expected, length = read_range(response)
            if validator is None:
                self._begin(response, length)
            elif start != self._position or not self._is_same(response, length):
                raise Refused(
                    f"the connection broke after {self._position} bytes, and the server can't go on there or has "
                    "another file now"
                )
            self._total = length if self._total is None else self._total
            for chunk in read_body(response, expected):
                self._position += len(chunk)
                if self._position - self._counted >= GAIN:
                    self._pauses, self._counted = iter(PAUSES), self._position
                yield chunk
        if self._total is not None and self._position != self._total:
            raise ConnectionError(f"{self._position} of {self._total} bytes came")

    def _begin(self, response: Response, length: int | None) -> None:
        if response.status == 206:
            raise _UnaskedPart("the server sent a part of the file where all of it was asked for")
        self._total, self._validator = length, read_validator(response)
        _require_room(length, self._limit)
        self._log(f"Downloading {self._source.redacted}{_describe_length(response, length)}")

    def _is_same(self, response: Response, length: int | None) -> bool:
        """Return whether a response is about the same version of the file."""
        has_same_length = None in (self._total, length) or self._total == length
        return has_same_length and read_validator(response) in (None, self._validator)

    def wait_after(self, error: Exception) -> None:
        """Wait before the next attempt.

        :raises TransferFailed: no further attempt is made.
        """
        why = describe_error(error, self._timeout)
        seconds = read_retry_after(error)
        if seconds is not None and self._left_alone + seconds <= LEFT_ALONE:
            self._left_alone += seconds
            self._log(f"For {self._source.redacted}, {why}; the request is repeated in {seconds:.0f} seconds")
            time.sleep(seconds)
            return
        pause = None if self._is_lasting(error) else next(self._pauses, None)
        if pause is None:
            raise transfer_failure(self._source, why) from error
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
        with open_url(source, timeout, {"Range": f"bytes=0-{size - 1}"}) as response:
            start, expected, length = read_range(response)
            _require_room(length, limit)
            if start:
                raise ValueError("bytes from somewhere else")
            for chunk in read_body(response, expected):
                head += chunk
                if len(head) >= size:
                    break
            if length is not None and len(head) < min(size, length):
                raise ValueError("less than was asked for")
    except Refused as error:
        raise transfer_failure(source, str(error)) from error
    except (OSError, HTTPException, ValueError) as error:
        why = describe_error(error, timeout)
        if isinstance(error, HTTPError) and error.code == 416:  # the file is empty
            return b"", 0
        raise transfer_failure(source, why) from error
    return head[:size], length


def _require_room(length: int | None, limit: int | None) -> None:
    if limit is not None and length is not None and length > limit:
        raise Refused(f"the file has {length} bytes, and there is room for {limit} bytes at most")


class _UnaskedPart(ConnectionError):
    """The response to a request without a range is a part (RFC 9110 15.3.7).

    A cache may have confused two requests, so the whole is requested again.
    """


def _describe_length(response: HTTPResponse, total: int | None) -> str:
    if total is not None:
        return f" ({total} bytes)"
    return (
        ""
        if response.chunked
        else " (the server gives no length, so that a connection that ends too early can't be noticed)"
    )


def transfer_failure(source: Source, why: str) -> TransferFailed:
    """Return the error about a URL that can't be read."""
    return TransferFailed(f"Could not read {source.redacted}: {why}.")


def describe_error(error: Exception, timeout: float) -> str:
    """Return the reason why a request failed, as a part of a sentence.

    :arg timeout: upper bound of the pause between two bytes in seconds.
    """
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


__all__ = ["describe_error", "download", "download_head", "transfer_failure"]
