# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The parts of a text that may be secrets, if the text is or should be a URL (RFC 3986): user information, query and
fragment. The names of variables with secrets.

A mistyped URL, or a URL in an option that takes none, still contains a password.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

#: A text with a scheme, and a character that may end user information or begin a query or a fragment; or a user with a
#: password.
_SUSPICIOUS = re.compile(r":/.*[@?#]|:\S*@", re.DOTALL)

#: URLs of ssh and of libvirt. They have a user and files but no password.
_WITHOUT_PASSWORD = re.compile(
    r"(ssh://([^:@/?#\s]+@)?[^@?#\s]*|(qemu|test)(\+[a-z0-9]+)?://([^:@/?#\s]+@)?[^@#\s]*)", re.IGNORECASE
)

#: Names of variables with secrets, such as ``PASSWORD_BASE64``, ``API_KEY`` or ``TOKEN``.
_SECRET_NAME = re.compile(r"PASS|PWD|SECRET|TOKEN|CREDENTIAL|PRIVATE|KEY(_|$)|KEYS(_|$)", re.IGNORECASE)
#: Names of variables with the public part of a key.
_PUBLIC_NAME = re.compile("PUBLIC|AUTHORIZED_KEY", re.IGNORECASE)

#: The substitute for a secret in a result.
WITHHELD = "..."

#: The substitute for the query of a URL in a message.
WITHHELD_QUERY = "?..."

#: Characters that separate a URL from the text around it.
_AROUND = re.compile(r"""[\s,'"]+""")


def may_hold_secret(text: str) -> bool:
    """Return whether ``text`` may contain a password."""
    text = text.removesuffix(WITHHELD_QUERY)
    return _SUSPICIOUS.search(text) is not None and _WITHOUT_PASSWORD.fullmatch(text) is None


def is_secret_name(name: str) -> bool:
    """Return whether the variable ``name`` may have a secret as its value."""
    return _SECRET_NAME.search(name) is not None and _PUBLIC_NAME.search(name) is None


def withhold(text: str) -> str:
    """Return ``text`` for a message: a text that may hold a secret is cut after the scheme."""
    if not may_hold_secret(text):
        return text
    found = re.match(r"\s*[A-Za-z][A-Za-z0-9+.-]*:/*", text)
    # A text before user information is no scheme.
    return f"{found[0] if found and found[0].endswith('/') else ''}..."


def secrets_of(text: str) -> Iterator[str]:
    """Yield the parts of ``text`` that may be secrets.

    For a URL with http or https, which messages contain, the parts are short. Any other text is one secret.
    """
    if re.match("https?://", text, re.IGNORECASE) and not re.search(r"\s", text):
        try:
            parts = urlsplit(text)
            if parts.port == 0:
                raise ValueError
        except ValueError:
            yield text
            return
        user, separator, _host = parts.netloc.rpartition("@")
        # Each secret includes the characters around it, so that a short secret has no accidental matches.
        yield from [user + separator] if user else []
        yield from [f"?{parts.query}"] if parts.query else []
        yield from [f"#{parts.fragment}"] if parts.fragment else []
        # After another "@", the rest may be a password with a slash.
        yield from [text] if "@" in parts.path else []
    elif may_hold_secret(text):
        yield text
        # The text may be a list, or several options in one text, which Ansible splits.
        yield from (part for part in _AROUND.split(text) if part != text and may_hold_secret(part))


__all__ = ["WITHHELD", "is_secret_name", "may_hold_secret", "secrets_of", "withhold"]
