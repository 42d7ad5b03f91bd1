# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files such as SHA256SUMS, which servers publish beside images. They are untrusted, and searched for one image."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import unquote_to_bytes, urlsplit

from .._core.errors import InvalidInput, TransferFailed, printable
from .checksum import DIGEST_LENGTHS
from .fetch import open_source
from .source import Source

#: Upper bound of a checksum file in bytes. The file of a release with 100 images has 20 KiB.
LONGEST = 1 << 20
#: Upper bound of the time to read a checksum file, from its first byte on, in seconds.
LONGEST_TIME = 60.0
#: Upper bound of the pause between two bytes in seconds.
TIMEOUT = 10

#: Escape sequences in the names of lines that begin with a backslash (GNU coreutils, "md5sum invocation").
_ESCAPES = {b"\\\\": b"\\", b"\\n": b"\n", b"\\r": b"\r"}

#: The name in a line about standard input.
_NO_NAME = b"-"


def fetch_list(url: str, *, headers: Mapping[str, str], ca: str | None, log: Callable[[str], object]) -> bytes:
    """Return the content of the file at a URL with http or https.

    :arg headers: see :class:`Source`, also for ``ca``.
    :raises InvalidInput: the file is too large, or no text.
    :raises TransferFailed: the file can't be fetched, or not in time.
    """
    from .decompress import decompress, limit_bytes, peek
    from .magic import COMPRESSIONS

    redacted = Source(url).redacted
    with open_source(url, timeout=TIMEOUT, limit=LONGEST, headers=headers, ca=ca, log=log) as chunks:
        kind, chunks = peek(_limit_time(chunks, redacted))
        # A server may send the file with a Content-Encoding.
        return b"".join((decompress if kind in COMPRESSIONS else limit_bytes)(chunks, limit=LONGEST, path=url))


def _limit_time(chunks: Iterator[bytes], redacted: str) -> Iterator[bytes]:
    end = None
    for chunk in chunks:
        end = end or time.monotonic() + LONGEST_TIME
        if time.monotonic() > end:
            raise TransferFailed(
                f"Could not read {redacted}: a file with checksums is expected within {LONGEST_TIME:g} seconds."
            )
        yield chunk


def find_checksum(content: bytes, algorithm: str, origin: str, redacted: str) -> str:
    """Return the hexadecimal digits for an image in a checksum file, in lower case.

    The lines are those of GNU coreutils (``sha256sum``, also with ``--tag``), BSD (``SHA256 (name) = digits``) and
    openssl. All other text, such as a signature around the lines, is ignored. A file with only a digest matches any
    image.

    A name with directories matches if the path of the image has the same end. If several lines match, those with the
    longest name count.

    :arg origin: path or URL of the image, before any redirect.
    :arg redacted: the URL of the file without its secrets, for messages.
    :raises InvalidInput: the file has no checksum of the image, or two that differ.
    """
    path = unquote_to_bytes(urlsplit(origin).path) if "://" in origin else os.fsencode(origin)
    name = path.rpartition(b"/")[2]
    called = f"{printable(name.decode(errors='replace'))!r}"
    content = content.removeprefix(b"\xef\xbb\xbf")
    entries = [entry for line in content.split(b"\n") for entry in [_entry(line.rstrip(b"\r"), algorithm)] if entry]
    if len(entries) == 1 and entries[0][0] == _NO_NAME:
        return entries[0][1]
    found = [
        (len(listed), digest) for listed, digest in entries if name and f"/{_text(path)}".endswith(f"/{_text(listed)}")
    ]
    longest = max(found, default=(0, ""))[0]
    digests = sorted({digest for length, digest in found if length == longest})
    if len(digests) > 1:
        accepted = (
            f"one {algorithm} checksum of {called} is expected, and {redacted} has {' and '.join(digests[:2])}: "
            "give the right one itself"
        )
        raise InvalidInput("checksum", _describe(algorithm, redacted), accepted)
    if not digests:
        accepted = (
            f"a file with the {algorithm} checksum of {called} is expected, and it has {_others(entries, algorithm)}"
        )
        raise InvalidInput(
            "checksum",
            _describe(algorithm, redacted),
            f"{accepted}: give the URL of the right file, or the checksum itself",
        )
    return digests[0]


def _text(path: bytes) -> str:
    return path.decode("latin-1")


def _describe(algorithm: str, redacted: str) -> str:
    return f"{algorithm}:{redacted}"


def _others(entries: list[tuple[bytes, str]], algorithm: str) -> str:
    if not entries:
        return f"no {algorithm} checksums at all"
    names = [repr(printable(name.decode(errors="replace"))[:100]) for name, _digest in entries[:2]]
    return f"{len(entries)} of other files, such as {' and '.join(names)}"


def _entry(line: bytes, algorithm: str) -> tuple[bytes, str] | None:
    """Return the name and the digest in a line, or ``None`` for a line without a digest of this algorithm."""
    digest = rb"([0-9a-fA-F]{%d})" % DIGEST_LENGTHS[algorithm]
    tag = rb"(?:%b|SHA2-%b)" % (algorithm.upper().encode(), algorithm[len("sha") :].encode())
    # coreutils writes one blank, and a second blank or an asterisk. The rest is the name, which may begin with blanks.
    gnu = re.fullmatch(rb"(\\?)%b(?: [ *]|[ \t]+\*?)(.+)" % digest, line, re.DOTALL)
    bsd = re.fullmatch(rb"(\\?)%b ?\((.+)\) ?= ?%b\s*" % (tag, digest), line, re.DOTALL)
    alone = re.fullmatch(rb"\s*%b\s*" % digest, line)
    if alone:
        return _NO_NAME, alone[1].decode().lower()
    if gnu:
        escaped, found, name = gnu[1], gnu[2], gnu[3]
    elif bsd:
        escaped, name, found = bsd[1], bsd[2], bsd[3]
    else:
        return None
    if escaped:
        name = re.sub(rb"\\[\\nr]", lambda escape: _ESCAPES[escape[0]], name)
    while name.startswith(b"./"):
        name = name[2:].lstrip(b"/")
    return name, found.decode().lower()


__all__ = ["fetch_list", "find_checksum"]
