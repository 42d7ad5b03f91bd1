# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The access to a user's own servers: headers, such as an access token, and the certificates of a CA.

Values of headers are secrets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from ..._core.directory import opened_file_at, opened_parent
from ..._core.errors import InvalidInput, os_errors
from ..._core.plain import is_integer

#: Upper bound of a file with certificates, in bytes. A file with all public CAs has 250 KiB.
LONGEST_CA = 4 << 20

#: Headers that the download sets itself (RFC 9110 7.2, 7.6.1, 14; RFC 9112 6).
OWN_HEADERS = frozenset(
    [
        "connection",
        "content-length",
        "expect",
        "host",
        "if-range",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "te",
        "trailer",
    ]
    + ["transfer-encoding", "upgrade"]
)


def read_headers(option: str, given: Mapping[object, object] | None) -> Mapping[str, str]:
    """Return the headers to send. Error messages contain their names, but no values.

    :raises InvalidInput: a name or a value that HTTP doesn't allow (RFC 9110 5.1, 5.5), or a header that the download
        sets itself.
    """
    headers: dict[str, str] = {}
    for name, value in (given or {}).items():
        if not isinstance(name, str) or re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", name) is None:
            raise InvalidInput(
                option, "...", "names of HTTP headers are expected, such as Authorization, each with its value"
            )
        if name.lower() in OWN_HEADERS or name.lower() in map(str.lower, headers):
            raise InvalidInput(
                option, name, f"each header once, and none of {', '.join(sorted(OWN_HEADERS))} is expected"
            )
        text = str(value) if is_integer(value) else value
        if not isinstance(text, str) or re.fullmatch(r"[!-~]([ -~\t]*[!-~])?", text) is None:
            raise InvalidInput(
                option, name, "a value is expected that is text in ASCII, on one line and without a blank at an end"
            )
        headers[name] = text
    return headers


def read_ca(option: str, path: str) -> str:
    """Return the certificates in a PEM file of this host.

    :raises InvalidInput: the file isn't a regular file, or has no certificate; :raises FileAccessFailed: the file can't
        be read.
    """
    import ssl

    with (
        os_errors(f"read {path}, the file of {option}"),
        opened_parent(os.path.realpath(path), option=option) as (directory, name),
    ):
        with opened_file_at(directory, name) as descriptor:
            content = os.pread(descriptor, LONGEST_CA + 1, 0).decode(errors="replace")
    # Comments between certificates can be in any language.
    found = re.findall(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----", content)
    try:
        if len(content) > LONGEST_CA or not found:
            raise ValueError
        ssl.create_default_context(cadata="\n".join(found))
    except (ValueError, ssl.SSLError) as error:
        raise InvalidInput(option, path, "a file with the certificates of CAs in PEM is expected") from error
    return "\n".join(found)


def server_of(url: str) -> tuple[str, str]:
    """Return the identity of a server: the scheme, the host and the port. The user isn't part of it."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, f"{parts.hostname}:{parts.port or {'http': 80, 'https': 443}.get(scheme)}"


__all__ = ["read_ca", "read_headers", "server_of"]
