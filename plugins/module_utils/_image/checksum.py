# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checksums in the notation of users: ``<algorithm>:<hexadecimal digits>``, or the URL of a file with the digits."""

from __future__ import annotations

from .._core.digits import is_hexadecimal
from .._core.errors import InvalidInput

#: Number of hexadecimal digits of a checksum, by algorithm.
DIGEST_LENGTHS = {"md5": 32, "sha1": 40, "sha256": 64, "sha384": 96, "sha512": 128}


def read_checksum(option: str, text: str) -> tuple[str, str]:
    """Return the algorithm and the digest, in lower case.

    :raises InvalidInput: an unknown algorithm, or a wrong number of digits.
    """
    algorithm, _colon, digest = text.lower().partition(":")
    if algorithm not in DIGEST_LENGTHS or not is_hexadecimal(digest, DIGEST_LENGTHS[algorithm]):
        accepted = (
            f"<algorithm>:<hexadecimal digits> is expected, with one of {', '.join(DIGEST_LENGTHS)} and all its digits"
        )
        raise InvalidInput(
            option, text, f"{accepted}, or <algorithm>: and the http or https URL of a file that has them"
        )
    return algorithm, digest


def split_list(text: str) -> tuple[str, str] | None:
    """Return the algorithm and the URL of ``<algorithm>:<URL of a file such as SHA256SUMS>``, or ``None`` for any other
    text.
    """
    import re

    found = re.fullmatch(f"({'|'.join(DIGEST_LENGTHS)}):(https?://.*)", text, re.IGNORECASE | re.DOTALL)
    return found and (found[1].lower(), found[2])


__all__ = ["DIGEST_LENGTHS", "read_checksum", "split_list"]
