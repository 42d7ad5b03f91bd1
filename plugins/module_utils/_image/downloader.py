# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""URLs of other schemes, such as those of backups. The front-end's own downloader reads them (spec: storage-driver,
"Backup Datastore Operations").

The downloader is a program of the front-end. The command ``<program> <URL> -`` writes the bytes to standard output.
These bytes are as untrusted as the data of any server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .._core.command import stream
from .._core.errors import TransferFailed
from .._core.throttle import sustain

#: Upper bound of the time without a byte from the downloader in seconds. Before the first byte, it may merge the
#: increments of a backup on another host.
TIMEOUT = 3600.0

#: Upper bound of the bytes that are read behind the needed ones, in addition to the size of the image.
LONGEST_REST = 1 << 30

#: Pattern of a URL for the downloader. Downloaders pass URLs to shells, so characters with a meaning for shells are
#: refused. Ampersands are allowed, because downloaders quote them for marketplaces.
CHARACTERS = r"[A-Za-z0-9._~:/@,+%=-]*(\?[A-Za-z0-9._~:/@,+%=&?-]*)?"


def read_with_downloader(program: str, url: str, redacted: str) -> Iterator[bytes]:
    """Run the downloader, and yield the bytes at a URL.

    :arg program: path of the downloader.
    :arg url: a URL that :func:`expected_url` accepts.
    :arg redacted: the URL without its secrets, for messages.
    :raises TransferFailed: the downloader failed, or is too slow.
    :raises TimedOut: the downloader wrote nothing for too long.
    :raises CommandFailed: the downloader can't be started.
    """

    def failed(reason: str) -> TransferFailed:
        return TransferFailed(
            f"Could not read {redacted}: {program} failed: {reason.rstrip('.').replace(url, redacted)}."
        )

    return sustain(stream([program, url, "-"], failed=failed, timeout=TIMEOUT), failed)


def read_to_end(chunks: Iterator[bytes], size: int) -> None:
    """Read the rest of the downloader's output, because only at its end it removes its temporary files. These can be as
    large as the image, and on another host.

    :arg size: bytes of the image. Reading stops some distance behind this size.
    :raises TransferFailed, CommandFailed: see :func:`read_with_downloader`.
    """
    allowed = size + LONGEST_REST
    for chunk in chunks:
        allowed -= len(chunk)
        if allowed < 0:
            return


def expected_url(url: str) -> str | None:
    """Return a description of the URLs that are accepted for the downloader, or ``None`` if ``url`` is accepted."""
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
