# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fetch the bytes of an image from a URL: over HTTP, over ssh, or with the front-end's downloader."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from types import MappingProxyType
from urllib.parse import urlsplit

from .._core.command import stream
from .._core.errors import InvalidInput, StaleState, TransferFailed, VmstoreError
from .._core.throttle import sustain, throttle
from .._core.words import MODULE, Words
from .._remote.ssh import CONNECT_TIMEOUT, ssh_command
from .source import Source, remote_path

#: Interval between two lines of progress in seconds.
PROGRESS_EVERY = 10.0

#: The line before the data, because a login shell may print a banner, and the upper bound of the banner in bytes.
MARK = "granary.vmstore begins here"
LONGEST_BANNER = 64 << 10

#: The script that copies a file of another host. Size and modification time are compared only for regular files, and
#: only if stat(1) has the options.
CHANGED = "it changed while it was copied"
CONSENT = "copy it when nothing writes to it, or give {} to store what comes out"
COPY = "; ".join(
    (
        '[ -f "$1" ] || exec cat -- "$1"',
        'before=$(stat -L -c "%s %y" -- "$1" 2>/dev/null)',
        'cat -- "$1" || exit',
        f'[ "$(stat -L -c "%s %y" -- "$1" 2>/dev/null)" = "$before" ] || {{ echo {CHANGED} >&2; exit 1; }}',
    )
)


@contextmanager
def open_source(
    path: str,
    *,
    bandwidth: int | None = None,
    timeout: float = 30,
    limit: int | None = None,
    verify: bool = True,
    downloader: str | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
    ca: str | None = None,
    log: Callable[[str], object],
    warn: Callable[[str], object] = str,
    words: Words = MODULE,
) -> Iterator[Iterator[bytes]]:
    """Yield an iterator over the bytes at a URL. The connection opens with the first byte.

    :arg bandwidth: upper bound in bytes a second.
    :arg timeout: upper bound of the pause between two bytes in seconds.
    :arg limit: upper bound of the length in bytes. A file with a larger Content-Length is refused at once.
    :arg verify: whether a file of an ssh source is refused if it changes during the copy. Otherwise ``warn`` is called
        with a sentence.
    :arg downloader: see :class:`Source`, also for ``headers`` and ``ca``.
    :arg log: is called with lines of progress, without credentials.
    :arg words: names of the user's options for errors.
    :raises InvalidInput: a local path, or a URL that :class:`Source` refuses.
    :raises TransferFailed: the server can't be reached, refuses the request, sends hardly any data, or ends too early.
    :raises StaleState: the file changed while it was copied.
    :raises CommandFailed: ssh(1) is missing or stalled.
    """
    source = _remote(path, downloader, headers, ca)
    chunks: Iterator[bytes]
    if source.is_for_downloader:
        from .downloader import read_with_downloader

        chunks = read_with_downloader(str(downloader), path, source.redacted)
    elif source.scheme == "ssh":
        chunks = _copy_over_ssh(source, timeout, verify, warn, words)
    else:
        from .download import download  # HTTP and TLS load slowly

        chunks = download(source, timeout, log, limit)
    with closing(_report(throttle(chunks, bandwidth), source, log)) as reported:
        yield reported


def read_head(
    path: str,
    size: int,
    *,
    timeout: float = 30,
    limit: int | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
    ca: str | None = None,
) -> tuple[bytes, int | None]:
    """Return the first ``size`` bytes at a URL, or all bytes of a shorter file, and the length of the whole in bytes if
    known.

    :arg limit: see :func:`open_source`.
    :arg headers: see :class:`Source`, also for ``ca``.
    :raises InvalidInput, TransferFailed, CommandFailed: see :func:`open_source`.
    """
    source = _remote(path, None, headers, ca)
    if source.scheme != "ssh":
        from .download import download_head

        return download_head(source, size, timeout, limit)
    answer = b""
    for chunk in _over_ssh(source, f'stat -L -c %s -- "$1" && exec head -c {size} -- "$1"', timeout):
        answer += chunk
        if len(answer) > size + 20:
            break
    length, _newline, head = answer.partition(b"\n")
    if not length.isdigit() or len(head) > size:
        raise TransferFailed(f"Could not read {source.redacted}: the host's output isn't that of stat and head.")
    return head, int(length)


def _remote(path: str, downloader: str | None, headers: Mapping[str, str], ca: str | None) -> Source:
    source = Source(path, downloader, headers, ca)
    if not source.scheme:
        raise InvalidInput("path", path, "a URL with http, https or ssh is expected")
    return source


def _copy_over_ssh(
    source: Source, timeout: float, verify: bool, warn: Callable[[str], object], words: Words
) -> Iterator[bytes]:
    try:
        yield from _over_ssh(source, COPY, timeout, words)
    except StaleState:
        if verify:
            raise
        warn(f"{source.redacted} changed while it was copied, and the copy can be a mixture of both states.")


def _over_ssh(source: Source, script: str, timeout: float, words: Words = MODULE) -> Iterator[bytes]:
    """Run a POSIX sh ``script`` on the other host with the path as ``$1``, and yield its output."""
    parts = urlsplit(source.path)
    user = f"{parts.username}@" if parts.username else ""
    command = (
        f"exec env LC_ALL=C sh -c {shlex.quote(f'echo {MARK}; {script}')} sh {shlex.quote(remote_path(parts.path))}"
    )
    argv = ssh_command(f"{user}{parts.hostname}", command, port=parts.port)

    def failed(reason: str) -> VmstoreError:
        if reason == CHANGED:
            return StaleState(f"Could not read {source.redacted}: {reason}; {CONSENT.format(words.unverified)}.")
        return TransferFailed(f"Could not read {source.redacted}: {reason}.")

    with closing(stream(argv, failed=failed, timeout=max(timeout, CONNECT_TIMEOUT + 5))) as chunks:
        yield from _skip_banner(sustain(chunks, failed), failed)


def _skip_banner(chunks: Iterator[bytes], failed: Callable[[str], VmstoreError]) -> Iterator[bytes]:
    """Yield the bytes behind the line :data:`MARK`."""
    banner, mark = b"", f"{MARK}\n".encode()
    for chunk in chunks:
        banner += chunk
        _banner, found, rest = banner.partition(mark)
        if found:
            if rest:
                yield rest
            break
        if len(banner) > LONGEST_BANNER:
            raise failed("the host writes something else than the file")
    else:
        raise failed("the host doesn't run the command")
    yield from chunks


def _report(chunks: Iterator[bytes], source: Source, log: Callable[[str], object]) -> Generator[bytes, None, None]:
    """Yield ``chunks``, and log the progress."""
    total, logged = 0, time.monotonic()
    for chunk in chunks:
        total += len(chunk)
        if time.monotonic() - logged >= PROGRESS_EVERY:
            log(f"{total >> 20} MiB of {source.redacted} so far")
            logged = time.monotonic()
        yield chunk


__all__ = ["open_source", "read_head"]
