# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The authorization of requests to a registry: passwords (RFC 7617), and tokens of a token server (the distribution
registry's token authentication).

The registry is hostile. It names the token server, which gets the password.
"""

from __future__ import annotations

import re
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from urllib.parse import urlencode

from ..._core.errors import InvalidInput, TransferFailed
from ..._core.records import dataclass, field
from ..http.document import fetch_document
from ..source import Source
from .manifest import parse_json

#: Upper bound of the response of a token server in bytes, and of a token in characters.
_MOST_BYTES = 256 << 10
_LONGEST_TOKEN = 64 << 10
#: The lifetime of a token in seconds if the server names none, and its upper bound.
_LIFETIME, _LONGEST_LIFETIME = 60, 86400
#: The time before the end of the lifetime when the token is renewed, in seconds.
_RENEWAL = 10

#: A scheme or a parameter of the header WWW-Authenticate (RFC 9110 11.6.1).
_ITEM = re.compile(r"""[\s,]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*)))?""")
#: Upper bound of the header in characters.
_LONGEST_HEADER = 8 << 10


@dataclass(frozen=True)
class Credentials:
    """A user of a registry, and the password."""

    username: str
    password: str = field(repr=False)

    def as_header(self) -> str:
        """Return the value of the header Authorization."""
        return "Basic " + b64encode(f"{self.username}:{self.password}".encode()).decode()


def parse_challenges(header: str) -> dict[str, dict[str, str]]:
    """Return the parameters of each scheme in a header WWW-Authenticate. Names are in lower case."""
    found: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for item in _ITEM.finditer(header[:_LONGEST_HEADER]):
        name, quoted, plain = item[1].lower(), item[2], item[3]
        if quoted is None and plain is None:
            current = found.setdefault(name, {})
        else:
            current[name] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
    return found


class Authorization(Mapping[str, str]):
    """The headers that authorize requests to a registry. They are empty until the registry requires authorization.

    Reading the headers renews a token that expires, so that a long download can be resumed.

    :arg url: the URL of the registry.
    :arg repository: the repository that is read.
    :arg ca: see :class:`Source`.
    """

    def __init__(self, url: str, repository: str, credentials: Credentials | None, ca: str | None) -> None:
        self._url = url
        self._repository = repository
        self._ca = ca
        #: The user and the password, if there are any.
        self.credentials = credentials
        self._header: str | None = None
        #: The URL of the token server, and the time of the renewal of the token on the monotonic clock.
        self._token_url: str | None = None
        self._renewal = 0.0

    def __getitem__(self, name: str) -> str:
        if self._header is None or name != "Authorization":
            raise KeyError(name)
        return self._header

    def __iter__(self) -> Iterator[str]:
        if self._token_url is not None and time.monotonic() > self._renewal:
            self._fetch_token(self._token_url)
        return iter(() if self._header is None else ("Authorization",))

    def __len__(self) -> int:
        return self._header is not None

    def answer(self, challenges: str) -> bool:
        """Follow the challenges of the registry. Return ``False`` if there is nothing else to send.

        :arg challenges: the value of the header WWW-Authenticate.
        :raises TransferFailed: the token server can't be used.
        """
        found = parse_challenges(challenges)
        if "bearer" in found:
            self._token_url = self._find_server(found["bearer"])
            self._fetch_token(self._token_url)
            return True
        if "basic" in found and self.credentials is not None and self._header is None:
            self._header = self.credentials.as_header()
            return True
        return False

    def _find_server(self, challenge: Mapping[str, str]) -> str:
        """Return the URL that returns a token."""
        realm = challenge.get("realm", "")
        query = {"service": challenge.get("service", ""), "scope": f"repository:{self._repository}:pull"}
        if self.credentials is not None:
            query["account"] = self.credentials.username
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
        schemes = ("https",) if self._url.startswith("https:") else ("http", "https")
        try:
            is_usable = Source(url).scheme in schemes and "@" not in realm and "#" not in realm
        except InvalidInput:
            is_usable = False
        if not is_usable:
            raise TransferFailed(
                f"Could not read {self._url}: a token server with https is expected, unless the registry itself has "
                "http, and the registry names another one."
            )
        return url

    def _fetch_token(self, url: str) -> None:
        headers = {} if self.credentials is None else {"Authorization": self.credentials.as_header()}
        source = Source(url, headers=headers, ca=self._ca)
        response = fetch_document(source, {"Accept": "application/json"}, most=_MOST_BYTES)
        if response.status != 200:
            known = "the user or the password is wrong" if self.credentials is not None else "it requires a pull secret"
            raise TransferFailed(
                f"Could not get a token from {source.redacted}: it returned {response.status}, and {known}."
            )
        data = parse_json(response.content, source.redacted)
        data = data if isinstance(data, Mapping) else {}
        token = data.get("token") or data.get("access_token")
        if not isinstance(token, str) or re.fullmatch("[!-~]+", token) is None or len(token) > _LONGEST_TOKEN:
            raise TransferFailed(f"Could not get a token from {source.redacted}: its response has none.")
        seconds = data.get("expires_in")
        lifetime = min(seconds, _LONGEST_LIFETIME) if isinstance(seconds, int) and seconds > 0 else _LIFETIME
        self._header = f"Bearer {token}"
        self._renewal = time.monotonic() + max(lifetime - _RENEWAL, lifetime / 2)


__all__ = ["Authorization", "Credentials", "parse_challenges"]
