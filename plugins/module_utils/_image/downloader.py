# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""URLs of other schemes, such as those of backups, which the front-end's own downloader reads (spec: storage-driver,
"Backup Datastore Operations").

The downloader is a program of the front-end that is run as ``<program> <URL> -`` and writes the bytes to standard
output. What it writes is as little to be trusted as what comes from any server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .._core.command import stream
from .._core.errors import TransferFailed
from .._core.throttle import sustain

#: Seconds in which the downloader must write a byte. Before the first one it may merge the increments of a backup on
#: another host.
TIMEOUT = 3600.0

#: Upper bound of what is read behind what is needed, in bytes: so many, and as many as the image has.
LONGEST_REST = 1 << 30

#: Characters of a URL. Downloaders pass it on to shells, to which all the others mean something; an ampersand is quoted
#: there, as marketplaces use it.
CHARACTERS = r"[A-Za-z0-9._~:/@,+%=-]*(\?[A-Za-z0-9._~:/@,+%=&?-]*)?"


def read_with_downloader(program: str, url: str, redacted: str) -> Iterator[bytes]:
    """Yield the bytes behind a URL.

    :arg program: path of the downloader.
    :arg url: one that :func:`expected_url` accepts.
    :arg redacted: the URL without its secrets, for messages.
    :raises TransferFailed: the downloader failed, or is too slow.
    :raises CommandFailed: the downloader can't be started, or wrote nothing for too long.
    """

    def failed(reason: str) -> TransferFailed:
        return TransferFailed(
            f"Could not read {redacted}: {program} failed: {reason.rstrip('.').replace(url, redacted)}."
        )

    return sustain(stream([program, url, "-"], failed=failed, timeout=TIMEOUT), failed)


def read_to_end(chunks: Iterator[bytes], size: int) -> None:
    """Read what the downloader has left, because only at its end it removes its temporary files, which can be as large
    as the image and on another host.

    :arg size: bytes of the image. What has no end is given up some time behind it.
    :raises TransferFailed, CommandFailed: as :func:`read_with_downloader`.
    """
    allowed = size + LONGEST_REST
    for chunk in chunks:
        allowed -= len(chunk)
        if allowed < 0:
            return


def expected_url(url: str) -> str | None:
    """Return a description of the URLs that the downloader may get; ``None`` when ``url`` is one of them."""
    rest = url.partition("://")[2]
    if re.fullmatch(CHARACTERS, rest) is None:
        return (
            "in a URL for the front-end's downloader, only letters, digits and ._~:/@,+%=- are expected, and & behind "
            "a ?"
        )
    authority, _slash, path = rest.partition("/")
    if ":" in authority.rpartition("@")[0]:
        return "a URL without a password is expected, because the list of processes would show it"
    if ".." in re.split("[/?]", path):
        return "a URL without '..' in its path is expected"
    return None


__all__ = ["expected_url", "read_to_end", "read_with_downloader"]
