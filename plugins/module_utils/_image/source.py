# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The sources of an image's bytes: a local path, ``http(s)://`` or ``ssh://``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from .._core.errors import InvalidInput
from .._core.paths import absolute
from .._core.records import dataclass, field
from .._model.names import check_host


@dataclass(frozen=True)
class Source:
    """A local path or a URL, as given. A URL may contain a password or a signature. Only ``redacted`` may be printed.

    :arg downloader: path of the program that reads URLs of other schemes than http, https and ssh, or ``None``.
    :arg headers: headers for the HTTP server of the URL. Servers behind a redirect don't get these headers.
    :arg ca: certificates in PEM, one of which must have signed the certificate of an HTTPS server. ``None`` stands for
        the certificates that this host trusts.
    :raises InvalidInput: the path isn't absolute, the scheme isn't supported, or the URL is invalid (RFC 3986).
    """

    path: str = field(repr=False)
    downloader: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.scheme:
            absolute("path", self.path)
            return
        try:
            expected = self._expected_url()
        except ValueError:
            expected = "a URL with a valid host and port is expected"
        if expected:
            # The position of the password in an invalid URL isn't known, so the whole URL is hidden.
            raise InvalidInput("path", f"{self.scheme}://..." if re.search("[@?]", self.path) else self.path, expected)

    @property
    def scheme(self) -> str:
        """Return the scheme of a URL, or ``""`` for a local path."""
        scheme, separator, _rest = self.path.partition("://")
        return scheme.lower() if separator and not self.path.startswith("/") else ""

    @property
    def redacted(self) -> str:
        """Return the path, or the URL without user, password, query and fragment."""
        return redact(self.path)

    @property
    def is_for_downloader(self) -> bool:
        """Return whether the URL has a scheme that only the downloader reads."""
        return self.scheme not in ("", *SCHEMES)

    def _expected_url(self) -> str | None:
        """Return a description of the accepted URLs, or ``None`` if this URL is accepted.

        :raises ValueError: the port or the address in brackets is invalid.
        """
        if self.is_for_downloader:
            # A file URL would bypass SAFE_DIRS and RESTRICTED_DIRS, which apply to paths.
            if self.downloader is None or self.scheme == "file":
                return "an absolute path or a URL with http, https or ssh is expected"
            from .downloader import expected_url

            return expected_url(self.path)
        if re.fullmatch("[!-~]+", self.path) is None:
            return "in a URL, blanks and all that isn't ASCII are percent-encoded, such as %20"
        parts = urlsplit(self.path)
        if re.fullmatch(r"([^.]{1,63}\.)*[^.]{1,63}\.?", parts.hostname or "") is None or parts.port == 0:
            raise ValueError
        if self.scheme == "ssh":
            check_host("path", parts.hostname or "")
            absolute("path", remote_path(parts.path))
            if (
                parts.password
                or parts.query
                or parts.fragment
                or re.fullmatch("[A-Za-z0-9_][A-Za-z0-9_.-]*", parts.username or "root") is None
            ):
                return (
                    "ssh://[user@]host[:port]/path is expected: no password, and a '?' or '#' in the path "
                    "percent-encoded"
                )
        return None


#: Schemes that are read without the front-end's downloader.
SCHEMES = ("http", "https", "ssh")


def redact(path: str) -> str:
    """Return a path as it is, or a URL of any scheme without user, password, query and fragment."""
    scheme, separator, _rest = path.partition("://")
    if not separator or path.startswith("/"):
        return path
    parts = urlsplit(path)
    return f"{scheme.lower()}://{parts.netloc.rpartition('@')[2]}{parts.path}{'?...' if parts.query else ''}"


def remote_path(path: str) -> str:
    """Return the path on the other host from the path of an ssh URL."""
    return unquote(path, errors="surrogateescape")


__all__ = ["SCHEMES", "Source", "redact", "remote_path"]
