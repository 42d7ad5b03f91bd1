# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find what may be a secret in text that is, or was meant to be, a URL (RFC 3986): user information, query and
fragment.

Somebody who mistypes a URL, or gives one to an option that takes none, still has a password in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

#: Something like a scheme, then something that may end user information or begin a query or a fragment; or a user and a
#: password.
_SUSPICIOUS = re.compile(r":/.*[@?#]|:\S*@", re.DOTALL)

#: URLs of ssh and of libvirt, which name a user and files but take no password.
_WITHOUT_PASSWORD = re.compile(
    r"(ssh://([^:@/?#\s]+@)?[^@?#\s]*|(qemu|test)(\+[a-z0-9]+)?://([^:@/?#\s]+@)?[^@#\s]*)", re.IGNORECASE
)

#: What a URL that is shown has instead of its query.
WITHHELD_QUERY = "?..."

#: What separates a URL from the text around it.
_AROUND = re.compile(r"""[\s,'"]+""")


def may_hold_secret(text: str) -> bool:
    """Return whether a password may be in ``text``."""
    text = text.removesuffix(WITHHELD_QUERY)
    return _SUSPICIOUS.search(text) is not None and _WITHOUT_PASSWORD.fullmatch(text) is None


def withheld(text: str) -> str:
    """Return ``text`` for a message: of what may hold a secret, only the beginning up to the scheme."""
    if not may_hold_secret(text):
        return text
    found = re.match(r"\s*[A-Za-z][A-Za-z0-9+.-]*:/*", text)
    # What begins with a user is no scheme.
    return f"{found[0] if found and found[0].endswith('/') else ''}..."


def secrets_of(text: str) -> Iterator[str]:
    """Yield the parts of ``text`` that may be secrets.

    Of a URL with http or https, which is shown, they are small; anything else is all secret.
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
        # With what they stand beside, so that a short one is found nowhere else.
        yield from [user + separator] if user else []
        yield from [f"?{parts.query}"] if parts.query else []
        yield from [f"#{parts.fragment}"] if parts.fragment else []
        # After another "@", it may be a password with a slash in it.
        yield from [text] if "@" in parts.path else []
    elif may_hold_secret(text):
        yield text
        # It may be a list, or options in one text, which Ansible takes apart.
        yield from (part for part in _AROUND.split(text) if part != text and may_hold_secret(part))


__all__ = ["may_hold_secret", "secrets_of", "withheld"]
