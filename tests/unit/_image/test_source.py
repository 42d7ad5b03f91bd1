# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources over real connections: HTTP and TLS servers, a proxy and an sshd, all on the loopback interface."""

from __future__ import annotations

import contextlib
import email.utils
import errno
import os
import random
import re
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core import throttle
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CommandMissing,
    InvalidInput,
    StaleState,
    TransferFailed,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image import download
from ansible_collections.granary.vmstore.plugins.module_utils._image import fetch as fetching
from ansible_collections.granary.vmstore.plugins.module_utils._image.fetch import open_source, read_head
from ansible_collections.granary.vmstore.plugins.module_utils._image.http import limits
from ansible_collections.granary.vmstore.plugins.module_utils._image.source import Source
from refusal import refused
from ssh_hosts import ALIAS, free_port, make_key, server_command, wait_for_server, write_client

DATA = random.Random(4).randbytes(1_000_003)
ETAG = '"v1"'

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:
        self.close_connection = True
        self.server.asked.append(dict(self.headers, path=self.path))
        answers = self.server.answers
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # tests include clients that disconnect
            answers[min(len(self.server.asked), len(answers)) - 1](self)

    def do_CONNECT(self) -> None:
        """Act as a proxy that forwards both directions, whatever the name is."""
        self.server.asked.append(dict(self.headers, path=self.path))
        self.close_connection = True
        self.send_response(200)
        self.end_headers()
        with socket.create_connection(("127.0.0.1", self.server.behind)) as there:
            back = threading.Thread(target=pump, args=(there, self.connection))
            back.start()
            pump(self.connection, there)
            back.join()

    def log_message(self, *_args: object) -> None:
        """Keep the server's log out of pytest's output."""

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def reset(self) -> None:
        """Reset the connection: the client gets an error instead of an end."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def pump(here: socket.socket, there: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := here.recv(1 << 16):
            there.sendall(data)
    with contextlib.suppress(OSError):
        there.shutdown(socket.SHUT_WR)


class Site(ThreadingHTTPServer):
    """A server that sends the next of its answers for each request, and repeats the last one.

    ``asked`` has the headers of the requests, with their path. A test sets ``begun`` after the client's first read, and
    ``over`` at its end.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, *answers: Answer, tls: ssl.SSLContext | None = None, behind: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.behind = answers, behind
        self.asked: list[dict[str, str]] = []
        self.begun, self.over = threading.Event(), threading.Event()
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a client that doesn't trust the certificate."""


Serve = Callable[..., Site]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(download, "PAUSES", (0, 0))
    sites: list[Site] = []

    def start(*answers: Answer, **options: object) -> Site:
        sites.append(Site(*answers, **options))
        threading.Thread(target=sites[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return sites[-1]

    yield start
    for site in sites:
        site.over.set()
        site.shutdown()
        site.server_close()


def send_whole(handler: Handler) -> None:
    handler.head(200, Content_Length=len(DATA), ETag=ETAG)
    handler.wfile.write(DATA)


def ranges(handler: Handler) -> None:
    """Send the requested range, like a server that supports resuming."""
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
    if wanted is None or handler.headers.get("If-Range", ETAG) != ETAG:
        send_whole(handler)
        return
    part = DATA[int(wanted[1]) : int(wanted[2] or len(DATA)) + 1]
    handler.head(
        206,
        Content_Length=len(part),
        Content_Range=f"bytes {wanted[1]}-{int(wanted[1]) + len(part) - 1}/{len(DATA)}",
        ETag=ETAG,
    )
    handler.wfile.write(part)


def send_and_break(length: int, *, reset: bool = False, **headers: object) -> Answer:
    """Return an answer that sends ``length`` bytes of the data and ends, or resets the connection after the client's
    first read.
    """

    def answer(handler: Handler) -> None:
        handler.head(200, Content_Length=len(DATA), **(headers or {"ETag": ETAG}))
        handler.wfile.write(DATA[:length])
        if reset:
            handler.server.begun.wait(60)
            handler.reset()

    return answer


def stalls(handler: Handler) -> None:
    handler.head(200, Content_Length=len(DATA), ETag=ETAG)
    handler.wfile.write(DATA[:1000])
    handler.wfile.flush()
    handler.server.over.wait(60)


def send_chunks(*parts: bytes, end: bytes = b"0\r\n\r\n") -> Answer:
    def answer(handler: Handler) -> None:
        handler.head(200, Transfer_Encoding="chunked")
        handler.wfile.write(b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + end)

    return answer


def redirect(url: str, status: int = 302) -> Answer:
    return lambda handler: handler.head(status, Location=url, Content_Length=0)


def fetch(url: str, log: Callable[[str], None] = str, **options: float) -> bytes:
    with open_source(url, log=log, **options) as chunks:
        return b"".join(chunks)


# Kinds of sources


@pytest.mark.parametrize(
    ("path", "scheme", "shown"),
    [
        ("/srv/a b@c?d#e", "", "/srv/a b@c?d#e"),
        ("/srv/http://host/x", "", "/srv/http://host/x"),
        ("http://host/x%20y", "http", "http://host/x%20y"),
        ("HTTPS://User:secret@host:8443/a@b?token=secret#secret", "https", "https://host:8443/a@b?..."),
        ("http://[::1]:80/x", "http", "http://[::1]:80/x"),
        ("ssh://me@host:2222/srv/image", "ssh", "ssh://host:2222/srv/image"),
    ],
)
def test_sources(path: str, scheme: str, shown: str) -> None:
    parsed = Source(path)
    assert (parsed.scheme, parsed.redacted) == (scheme, shown)
    assert "secret" not in repr(parsed)


@pytest.mark.parametrize(
    "path",
    [
        *("", "image", "../image", "/srv/../etc/shadow", "/srv/a\nb", "/srv/\0", "~/image", "host:/image", "-o"),
        *(
            "file:///etc/shadow",
            "ftp://host/x",
            "data://x",
            "s3://bucket/x",
            "rsync://100/3",
            "://host/x",
            "ht tp://host/x",
        ),
        *(
            "http://",
            "http:///x",
            "http://host:port/x",
            "http://host:0/x",
            "http://host:70000/x",
            "http://[::1/x",
            "http://:80/x",
        ),
        *(f"http://{'a' * 64}.example/x", "http://a..b/x", "http://./x"),
        *(
            "http://host/a b",
            "http://host/a\nb",
            "http://host/a\r\nX: y",
            "http://host/\u00e9",
            "http://host/\0",
            "http://ho\tst/x",
        ),
        *(
            "ssh://host",
            "ssh://host/../etc",
            "ssh://host/%2e%2e/x",
            "ssh://host/a%0ab",
            "ssh://host/%ff",
            "ssh://host/x?y",
            "ssh://host/x#y",
        ),
        *(
            "ssh://-oProxyCommand=x/y",
            "ssh://%2dhost/y",
            "ssh://-oProxyCommand=x@host/y",
            "ssh://a;b@host/x",
            "ssh://me:pw@host/x",
            "ssh:///x",
        ),
    ],
)
def test_what_is_no_source_is_refused(path: str, serve: Serve) -> None:
    with refused(InvalidInput, option="path") as caught:
        Source(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        "http://me:secret@host/a b",
        "http://me:se/secret@host/x",
        "http://me:secret@host:x/",
        "ssh://me:secret@host/x",
        "http://host:x/?k=secret",
    ],
)
def test_refusals_show_no_password(path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Source(path)
    assert "secret" not in str(caught.value) + repr(caught.value.value)


@pytest.mark.parametrize("use", [fetch, lambda path: read_head(path, 10)])
def test_a_local_path_is_not_for_here(use: Callable[[str], object]) -> None:
    with refused(
        InvalidInput, says="path: '/etc/hostname' is not accepted: a URL with http, https or ssh is expected."
    ):
        use("/etc/hostname")


# HTTP


def test_download(serve: Serve) -> None:
    site, told = serve(send_whole), []
    assert fetch(f"{site.url}/image?signature=secret#here", told.append) == DATA
    assert [asked["path"] for asked in site.asked] == ["/image?signature=secret"]
    assert told == [f"Downloading {site.url}/image?... ({len(DATA)} bytes)"]


def test_chunked_and_unknown_lengths(serve: Serve) -> None:
    site = serve(send_chunks(DATA[:10], DATA[10:]))
    assert fetch(site.url) == DATA

    def old(handler: Handler) -> None:
        handler.head(200, Connection="close")
        handler.wfile.write(DATA)

    old_site, told = serve(old), []
    assert fetch(old_site.url, told.append) == DATA
    assert told == [
        f"Downloading {old_site.url} (the server gives no length, so that a connection that ends too early can't be "
        "noticed)"
    ]


def in_advance(*statuses: int, then: Answer = ranges) -> Answer:
    """Send informational responses before the final one (RFC 9110 15.2)."""

    def answer(handler: Handler) -> None:
        for status in statuses:
            handler.wfile.write(f"HTTP/1.1 {status} Early\r\nLink: </style.css>; rel=preload\r\n\r\n".encode())
        then(handler)

    return answer


@pytest.mark.parametrize("statuses", [(100,), (102,), (103,), (100, 102, 103, 103), (199,), (100,) * 50 + (103,) * 50])
def test_answers_in_advance_are_skipped(serve: Serve, statuses: tuple[int, ...]) -> None:
    site = serve(in_advance(*statuses))
    assert fetch(site.url) == DATA
    assert read_head(site.url, 1000, timeout=5) == (DATA[:1000], len(DATA))
    assert len(site.asked) == 2


@pytest.mark.parametrize("status", [100, 103])
def test_answers_in_advance_are_limited(serve: Serve, status: int) -> None:
    site = serve(in_advance(*[status] * 101))
    for use in (fetch, lambda url: read_head(url, 1000, timeout=5)):
        with refused(
            TransferFailed,
            says="Could not read http://127.0.0.1:*: the server sent * informational responses, and no final one.",
        ):
            use(site.url)
    assert len(site.asked) == 2


def test_another_protocol_is_no_file(serve: Serve) -> None:
    with refused(
        TransferFailed, says="Could not read http://127.0.0.1:*: the server returned 101 Switching Protocols."
    ):
        fetch(serve(in_advance(101)).url)


def test_an_empty_file(serve: Serve) -> None:
    site = serve(lambda handler: handler.head(200, Content_Length=0))
    assert fetch(site.url) == b""
    assert read_head(site.url, 10) == (b"", 0)
    assert read_head(serve(lambda handler: handler.head(416, Content_Length=0)).url, 10) == (b"", 0)


@pytest.mark.parametrize("reset", [True, False])
def test_a_broken_connection_is_resumed(serve: Serve, reset: bool) -> None:
    def again(handler: Handler) -> None:
        start = int(re.search(r"\d+", handler.headers["Range"])[0])
        handler.head(
            206, Content_Length=len(DATA) - start, Content_Range=f"bytes {start}-{len(DATA) - 1}/{len(DATA)}", ETag=ETAG
        )
        handler.wfile.write(DATA[start : start + 100_000])

    site, told = serve(send_and_break(300_000, reset=reset), again, again, again, again, ranges), []

    def log(line: str) -> None:
        told.append(line)
        site.begun.set()

    assert fetch(f"{site.url}/image", log) == DATA
    assert "Range" not in site.asked[0]
    assert {asked["If-Range"] for asked in site.asked[1:]} == {ETAG}
    assert len(site.asked) == 6, "attempts that get somewhere don't count"
    assert re.fullmatch(rf"The download of {site.url}/image broke after \d+ bytes \(.*\) and is resumed", told[1])


def test_a_stalled_connection_is_resumed(serve: Serve) -> None:
    site = serve(stalls, ranges)
    assert fetch(site.url, timeout=1) == DATA
    assert site.asked[1]["Range"] == "bytes=1000-"


def test_a_server_that_comes_back_is_waited_for(serve: Serve) -> None:
    site = serve(send_and_break(1000), lambda handler: handler.head(503, Content_Length=0), ranges)
    assert fetch(site.url) == DATA


def test_a_part_instead_of_the_whole_is_not_enough(serve: Serve) -> None:
    def part(handler: Handler) -> None:
        handler.head(206, Content_Length=10, Content_Range=f"bytes 0-9/{len(DATA)}", ETag=ETAG)
        handler.wfile.write(DATA[:10])

    assert fetch(serve(part, ranges).url) == DATA
    with pytest.raises(TransferFailed):
        fetch(serve(part).url)


def send_unasked(content_range: str, length: int) -> Answer:
    def answer(handler: Handler) -> None:
        handler.head(206, Content_Length=length, Content_Range=content_range, ETag=ETAG)
        handler.wfile.write(DATA[:length])

    return answer


@pytest.mark.parametrize(
    ("content_range", "length"),
    [("bytes 0-9/*", 10), ("bytes 500-999/1000", 500), ("bytes 0-999/1000", 1000), ("bytes 1000-1999/1000003", 1000)],
)
def test_a_part_that_nobody_asked_for_is_not_the_file(serve: Serve, content_range: str, length: int) -> None:
    site = serve(send_unasked(content_range, length))
    with refused(
        TransferFailed,
        says="Could not read http://127.0.0.1:*: the server sent a part of the file where all of it was asked for.",
    ):
        fetch(site.url)
    assert len(site.asked) == 1 + len(download.PAUSES)


@pytest.mark.parametrize(
    ("content_range", "length"), [("bytes 0-10/10", 11), ("bytes 0-10/5", 11), ("bytes 0-0/0", 1), ("bytes 5-4/10", 0)]
)
def test_a_range_that_is_none_is_refused(serve: Serve, content_range: str, length: int) -> None:
    for use in (fetch, lambda url: read_head(url, 20)):
        site = serve(send_unasked(content_range, length))
        with refused(TransferFailed, names=[site.url, ValueError.__name__]):
            use(site.url)


def more_than_asked(**headers: object) -> Answer:
    """Send the rest of the data, and the same amount again. Without a length, the end of the connection ends the
    response.
    """

    def answer(handler: Handler) -> None:
        start = int(re.search(r"\d+", handler.headers["Range"])[0])
        handler.head(206, Content_Range=f"bytes {start}-{len(DATA) - 1}/{len(DATA)}", ETag=ETAG, **headers)
        chunk = DATA[start:] + DATA
        handler.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(chunk), chunk) if "Transfer_Encoding" in headers else chunk)

    return answer


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        (
            {"Content_Length": 2 * len(DATA) - 1000},
            f"{2 * len(DATA) - 1000} bytes where its Content-Range has {len(DATA) - 1000}",
        ),
        ({}, f"more than the {len(DATA) - 1000} bytes that its Content-Range has"),
        ({"Transfer_Encoding": "chunked"}, f"more than the {len(DATA) - 1000} bytes that its Content-Range has"),
    ],
    ids=str,
)
def test_a_server_that_sends_more_than_its_range_is_refused(
    serve: Serve, headers: dict[str, object], sent: str
) -> None:
    site = serve(send_and_break(1000), more_than_asked(**headers))
    with refused(TransferFailed, says=f"Could not read {site.url}: the server sends {sent}."):
        fetch(site.url)
    assert len(site.asked) == 2


def test_what_follows_an_answer_is_not_read(serve: Serve) -> None:
    def more(handler: Handler) -> None:
        send_whole(handler)
        handler.wfile.write(DATA)

    assert fetch(serve(more).url) == DATA


def test_attempts_are_in_proportion_to_what_came(serve: Serve) -> None:
    def a_little(handler: Handler) -> None:
        start = int(re.search(r"\d+", handler.headers["Range"])[0])
        handler.head(
            206, Content_Length=len(DATA) - start, Content_Range=f"bytes {start}-{len(DATA) - 1}/{len(DATA)}", ETag=ETAG
        )
        handler.wfile.write(DATA[start : start + 1000])

    site = serve(send_and_break(1000), a_little)
    with refused(
        TransferFailed, says="Could not read http://127.0.0.1:*: the connection was closed * bytes too early."
    ):
        fetch(site.url)
    assert len(site.asked) == 1 + len(download.PAUSES)


def test_a_file_that_there_is_no_room_for_is_refused_at_once(serve: Serve) -> None:
    site = serve(send_whole)
    assert fetch(site.url, limit=len(DATA)) == DATA
    with refused(
        TransferFailed,
        says=f"Could not read {site.url}: the file has {len(DATA)} bytes, and there is room for 1000 bytes at most.",
    ):
        fetch(site.url, limit=1000)


def test_attempts_end(serve: Serve) -> None:
    site = serve(send_and_break(1000), lambda handler: handler.reset())
    with refused(TransferFailed, says=f"Could not read {site.url}: Connection reset by peer."):
        fetch(site.url)
    assert len(site.asked) == 1 + len(download.PAUSES)


MODIFIED = "Sat, 01 Aug 2026 10:00:00 GMT"


def test_last_modified_will_do(serve: Serve) -> None:
    site = serve(send_and_break(1000, Last_Modified=MODIFIED), ranges)
    with refused(
        TransferFailed,
        says="Could not read http://127.0.0.1:*: the connection broke after 1000 bytes, and the "
        "server can't go on there or has another file now.",
    ):  # `ranges` compares the ETag only and sends the whole file
        fetch(site.url)
    assert site.asked[1]["If-Range"] == MODIFIED


@pytest.mark.parametrize(
    "headers",
    [{"ETag": 'W/"v1"', "Last_Modified": MODIFIED}, {"X": "y"}, {"Last_Modified": "soon"}, {"Last_Modified": "now"}],
)
def test_what_may_have_changed_is_not_resumed(serve: Serve, headers: dict[str, str]) -> None:
    if headers.get("Last_Modified") == "now":
        # The file may change again within the second of its date.
        headers = {"Last_Modified": email.utils.formatdate(time.time() + 60, usegmt=True)}
    site = serve(send_and_break(1000, **headers), ranges)
    with refused(TransferFailed, names=[site.url]):
        fetch(site.url)
    assert len(site.asked) == 1


def other(handler: Handler) -> None:
    handler.head(200, Content_Length=5, ETag='"v2"')
    handler.wfile.write(b"other")


def partly(start: int, total: int, **headers: str) -> Answer:
    def answer(handler: Handler) -> None:
        handler.head(206, Content_Length=total - start, Content_Range=f"bytes {start}-{total - 1}/{total}", **headers)
        handler.wfile.write(DATA[start:total])

    return answer


@pytest.mark.parametrize(
    "second", [other, partly(999, len(DATA)), partly(1000, len(DATA) - 1), partly(1000, len(DATA), ETag='"v2"')]
)
def test_two_files_are_never_mixed(serve: Serve, second: Answer) -> None:
    site = serve(send_and_break(1000), second)
    with refused(TransferFailed, names=[site.url, 1000]):
        fetch(site.url)


@pytest.mark.parametrize(
    "answer",
    [
        send_and_break(1000, X="y"),
        send_chunks(b"abc", end=b""),
        send_chunks(b"abc", end=b"5\r\nab"),
        send_chunks(end=b"zz\r\n"),
    ],
)
def test_an_answer_that_ends_early_is_an_error(serve: Serve, answer: Answer) -> None:
    site = serve(answer)
    with refused(TransferFailed, says=f"Could not read {site.url}: the connection was closed *too early."):
        fetch(site.url)


def raw(answer: bytes) -> Answer:
    return lambda handler: handler.wfile.write(answer)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda handler: handler.send_error(404, "\x1b[31mred"), "the server returned 404 Not Found"),
        (lambda handler: handler.head(599, Content_Length=0), "the server returned 599"),
        (lambda handler: handler.head(204), "the server returned 204 No Content, which comes without a file"),
        (
            lambda handler: handler.head(206, Content_Range="bytes 0-x/y"),
            "the server's response is not valid HTTP (ValueError)",
        ),
        (lambda handler: handler.head(304), "the server returned 304 Not Modified"),
        (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc"), "the connection was closed too early"),
        (lambda handler: handler.reset(), "Connection reset by peer"),
        (raw(b""), "Remote end closed connection without response"),
        (raw(b"SSH-2.0-\x1b[31mred\r\n\r\n"), "the server's response is not valid HTTP (BadStatusLine)"),
        (raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000), "the server's response is not valid HTTP (HTTPException)"),
        (
            raw(b"HTTP/1.1 302 Found\r\nLocation: http://[::1/\r\n\r\n"),
            "the server's response is not valid HTTP (ValueError)",
        ),
    ],
)
@pytest.mark.parametrize("use", [fetch, lambda url: read_head(url, 10)])
def test_refusals_and_nonsense(serve: Serve, answer: Answer, why: str, use: Callable[[str], object]) -> None:
    site = serve(answer)
    with refused(TransferFailed, says=f"Could not read {site.url}: {why}."):
        use(site.url)
    assert len(site.asked) == 1, "there is nothing to resume"


def test_nobody_there(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with refused(TransferFailed, says=f"Could not read http://127.0.0.1:{port}/: Connection refused."):
        fetch(f"http://127.0.0.1:{port}/")


def test_a_server_that_is_silent(serve: Serve) -> None:
    with refused(TransferFailed, says="Could not read http://127.0.0.1:*: the server sent nothing for 0.1 seconds."):
        fetch(serve(lambda handler: handler.server.over.wait(60)).url, timeout=0.1)


# Codings


def send_coded(**headers: str) -> Answer:
    def answer(handler: Handler) -> None:
        handler.head(200, Content_Length=len(DATA), **headers)
        handler.wfile.write(DATA)

    return answer


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP", "bzip2", "xz", "zstd", "identity", "none", ""])
def test_what_the_content_tells_is_passed_on(serve: Serve, coding: str) -> None:
    assert fetch(serve(send_coded(Content_Encoding=coding)).url) == DATA


@pytest.mark.parametrize(
    "coding", ["br", "deflate", "dcb", "dcz", "compress", "aes128gcm", "gzip, br", "gzip, gzip", "\x1b[31mred"]
)
def test_an_unknown_coding_is_refused_by_name(serve: Serve, coding: str) -> None:
    site = serve(send_coded(Content_Encoding=coding))
    for use in (fetch, lambda url: read_head(url, 10)):
        with refused(
            TransferFailed, names=[site.url, f"Content-Encoding '{coding.replace(chr(27), '?')}'", "bzip2, gzip"]
        ):
            use(site.url)


@pytest.mark.parametrize("coding", ["gzip, chunked", "gzip", "chunked, chunked"])
def test_an_unknown_coding_of_the_transfer_is_refused_by_name(serve: Serve, coding: str) -> None:
    def answer(handler: Handler) -> None:
        handler.head(200, Transfer_Encoding=coding)
        handler.wfile.write(b"5\r\nabcde\r\n0\r\n\r\n")

    with refused(
        TransferFailed,
        says="Could not read http://127.0.0.1:*: the server sends it with the Transfer-Encoding "
        f"'{coding}', which is not supported.",
    ):
        fetch(serve(answer).url)


@pytest.mark.parametrize("lengths", [("x",), ("5", "6"), ("-1",), ("5, 6",)])
def test_a_length_that_is_none_is_refused(serve: Serve, lengths: tuple[str, ...]) -> None:
    headers = "".join(f"Content-Length: {length}\r\n" for length in lengths)
    site = serve(raw(f"HTTP/1.1 200 OK\r\n{headers}\r\nabcde".encode()))
    with refused(TransferFailed, names=[site.url, ValueError.__name__]):
        fetch(site.url)


# Servers without an end


def send_drops(begin: bytes, drop: bytes) -> Answer:
    """Return an answer that starts immediately, and then sends small drops."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(begin)
        while not handler.server.over.wait(0.02):
            handler.wfile.write(drop)

    return answer


def flooding(begin: bytes, flood: bytes) -> Answer:
    def answer(handler: Handler) -> None:
        handler.wfile.write(begin)
        while not handler.server.over.is_set():
            handler.wfile.write(flood * 1000)

    return answer


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("use", [fetch, lambda url: read_head(url, 10)])
@pytest.mark.parametrize(("begin", "drop"), [(b"", CONTINUE), (b"", b"H"), (OK, b"x"), (OK, b"X: y\r\n")])
def test_an_answer_that_does_not_begin_is_given_up(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, begin: bytes, drop: bytes, use: Callable[[str], object]
) -> None:
    monkeypatch.setattr(limits, "BEGINNING", 0.3)
    site = serve(send_drops(begin, drop))
    with refused(
        TransferFailed, says=f"Could not read {site.url}: the server did not begin its response within 0.3 seconds."
    ):
        use(site.url)
    assert len(site.asked) == 1


def test_redirects_count_as_the_beginning(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(handler: Handler) -> None:
        handler.server.over.wait(0.2)
        handler.head(302, Location=f"/{len(handler.server.asked)}", Content_Length=0)

    monkeypatch.setattr(limits, "BEGINNING", 0.3)
    site = serve(slow)
    with refused(TransferFailed, names=[site.url, limits.BEGINNING]):
        fetch(site.url)
    assert len(site.asked) <= 2


def test_so_does_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server accepts no connection, because its queue is full."""
    monkeypatch.setattr(limits, "BEGINNING", 0.3)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _number in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with refused(TransferFailed, names=[url, limits.BEGINNING]):
            fetch(url, timeout=10)


def test_so_does_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def proxy(listener: socket.socket) -> None:
        connection, _address = listener.accept()
        with contextlib.suppress(OSError), connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while not over.wait(0.02):
                connection.sendall(b"X: y\r\n")

    monkeypatch.setattr(limits, "BEGINNING", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=proxy, args=(listener,))
        thread.start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{listener.getsockname()[1]}")
        try:
            with refused(TransferFailed, names=["https://images.example/image", limits.BEGINNING]):
                fetch("https://images.example/image")
        finally:
            over.set()
            thread.join()


@pytest.mark.parametrize(
    ("begin", "flood"),
    [(CHUNKED + b"0\r\n", b"X: y\r\n"), (CHUNKED, b"1;" + b"x" * 10_000 + b"\r\nx\r\n")],
    ids=["trailer", "extension"],
)
def test_what_is_not_the_file_is_limited(serve: Serve, begin: bytes, flood: bytes) -> None:
    site = serve(flooding(begin, flood))
    with refused(
        TransferFailed,
        says="Could not read http://127.0.0.1:*: the server sent more than 1048576 bytes beside the file.",
    ):
        fetch(site.url)


def test_chunks_of_one_byte_are_taken(serve: Serve) -> None:
    assert fetch(serve(send_chunks(*[b"x"] * 300_000)).url) == b"x" * 300_000


@pytest.mark.parametrize("use", [fetch, lambda url: read_head(url, 10_000)])
@pytest.mark.parametrize(
    ("begin", "drop"),
    [
        (OK + b"Content-Length: 1000000\r\n\r\n", b"x"),
        (OK + b"\r\n", b"x"),
        (CHUNKED, b"1\r\nx\r\n"),
        (CHUNKED + b"1;", b"x"),
        (CHUNKED + b"1\r\nx\r\n0\r\n", b"X: y\r\n"),
    ],
)
def test_a_server_that_sends_next_to_nothing_is_given_up(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, begin: bytes, drop: bytes, use: Callable[[str], object]
) -> None:
    monkeypatch.setattr(throttle, "RATE_PERIOD", 0.3)
    site = serve(send_drops(begin, drop))
    with refused(
        TransferFailed,
        says="Could not read http://127.0.0.1:*: the server is too slow: it sent * bytes in * "
        "seconds, and at least 1024 bytes a second are expected.",
    ):
        use(site.url)
    assert len(site.asked) == 1


def test_time_that_this_side_takes_does_not_count(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "RATE_PERIOD", 0.6)
    monkeypatch.setattr(throttle, "MINIMUM_RATE", 100 << 20)
    assert fetch(serve(send_whole).url, bandwidth=len(DATA)) == DATA


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(serve: Serve, status: int) -> None:
    target = serve(ranges)
    assert fetch(serve(redirect(f"{target.url}/there", status)).url) == DATA
    assert target.asked[0]["path"] == "/there"


@pytest.mark.parametrize(
    "url",
    ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:text/plain,x", "ssh://host/x", "http://me:pw@127.0.0.1/x"],
)
def test_to_other_schemes_they_are_not(serve: Serve, url: str) -> None:
    site = serve(redirect(url))
    with refused(TransferFailed, names=[site.url]) as caught:
        fetch(site.url)
    assert len(site.asked) == 1
    assert "pw" not in str(caught.value)


def test_circles_end(serve: Serve) -> None:
    site = serve(redirect("/"))
    with refused(
        TransferFailed,
        says="Could not read http://127.0.0.1:*/: the server redirects in a circle, too often, or to "
        "something else than http or https.",
    ):
        fetch(f"{site.url}/")


def test_the_body_of_a_redirect_is_not_read(serve: Serve) -> None:
    target = serve(send_whole)

    def endless(handler: Handler) -> None:
        handler.head(302, Location=target.url)
        while True:
            handler.wfile.write(bytes(1 << 20))

    assert fetch(serve(endless).url) == DATA


def test_a_resumed_download_is_redirected_again(serve: Serve) -> None:
    target = serve(send_and_break(1000), ranges)
    assert fetch(serve(redirect(target.url)).url) == DATA
    assert (target.asked[1]["Range"], target.asked[1]["If-Range"]) == ("bytes=1000-", ETAG)


def test_the_password_reaches_the_server_only(serve: Serve) -> None:
    target, told = serve(send_and_break(1000), lambda handler: handler.send_error(403)), []
    site = serve(redirect(target.url))
    with refused(
        TransferFailed, says="Could not read http://127.0.0.1:*: the server returned 403 Forbidden."
    ) as caught:
        fetch(site.url.replace("//", "//me:sec%40ret@"), told.append)
    assert site.asked[0]["Authorization"] == f"Basic {b64encode(b'me:sec@ret').decode()}"
    assert "Authorization" not in target.asked[0]
    assert len(target.asked) == 2, "a refusal is final"
    assert "ret" not in str(caught.value).replace("return", "") and not any("me:" in line for line in told)


# TLS, proxies


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    openssl = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test".split()
    names = "subjectAltName=IP:127.0.0.1,DNS:images.example"
    subprocess.run(
        [*openssl, "-addext", names, "-keyout", tmp_path / "key", "-out", tmp_path / "cert"],
        check=True,
        capture_output=True,
    )
    return tmp_path / "cert"


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key"))
    return context


def test_the_password_goes_along_to_the_same_server_only(serve: Serve) -> None:
    other = serve(send_whole)
    site = serve(redirect("/moved"), redirect(f"{other.url}/elsewhere"))
    assert fetch(site.url.replace("//", "//me:word@")) == DATA
    assert [asked.get("Authorization") for asked in site.asked] == ["Basic bWU6d29yZA=="] * 2
    assert "Authorization" not in other.asked[0]


def test_a_redirect_from_https_to_http_is_refused(
    serve: Serve, tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    plain = serve(send_whole)
    with refused(
        TransferFailed,
        says="Could not read https://127.0.0.1:*: the server redirects from https to "
        f"{plain.url}/x?..., where anybody on the way can change it: give that URL to accept this.",
    ):
        fetch(serve(redirect(f"{plain.url}/x?secret=1"), tls=tls).url)
    assert plain.asked == []
    assert fetch(serve(redirect(serve(send_whole, tls=tls).url)).url) == DATA


def test_what_a_proxy_passed_on_is_the_file(serve: Serve) -> None:
    def passed_on(handler: Handler) -> None:
        handler.head(203, Content_Length=len(DATA))
        handler.wfile.write(DATA)

    assert fetch(serve(passed_on).url) == DATA


@pytest.mark.parametrize("status", [201, 202, 204, 205])
def test_a_success_without_a_file_is_none(serve: Serve, status: int) -> None:
    site = serve(lambda handler: handler.head(status))
    with refused(
        TransferFailed,
        says=f"Could not read http://127.0.0.1:*: the server returned {status} *, which comes without a file.",
    ):
        fetch(site.url)
    assert len(site.asked) == 1


def busy(status: int, after: str) -> Answer:
    return lambda handler: handler.head(status, Retry_After=after, Content_Length=0)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("after", ["0", "1", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_busy_server_is_asked_again(serve: Serve, monkeypatch: pytest.MonkeyPatch, status: int, after: str) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    told: list[str] = []
    assert fetch(serve(busy(status, after), busy(status, after), send_whole).url, told.append) == DATA
    assert pauses == [1.0, 1.0]
    assert f"the server returned {status} " in told[0] and told[0].endswith("; the request is repeated in 1 seconds")


@pytest.mark.parametrize("after", ["301", "", "soon", "99999999999"])
def test_a_server_that_is_busy_for_too_long_is_given_up(serve: Serve, after: str) -> None:
    site = serve(busy(503, after))
    with refused(TransferFailed, names=[site.url, 503]):
        fetch(site.url)
    assert len(site.asked) == 1


def test_a_server_is_not_busy_for_ever(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.time, "sleep", lambda _seconds: None)
    site = serve(busy(503, "100"))
    with refused(
        TransferFailed, says="Could not read http://127.0.0.1:*: the server returned 503 Service Unavailable."
    ):
        fetch(site.url)
    assert len(site.asked) == 4


def test_a_certificate_that_nobody_vouches_for_is_refused(serve: Serve, tls: ssl.SSLContext) -> None:
    site = serve(send_whole, tls=tls)
    for use in (fetch, lambda url: read_head(url, 10)):
        with refused(TransferFailed, names=[site.url, "certificate"]):
            use(site.url)
    with refused(
        TransferFailed,
        says="Could not read http://127.0.0.1:*: the server's certificate is not trusted (*).",
    ):
        fetch(serve(redirect(site.url)).url)
    assert site.asked == []


def test_one_that_the_host_trusts_is_not(
    serve: Serve, tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    site = serve(send_and_break(1000), ranges, tls=tls)
    assert fetch(site.url) == DATA
    with refused(TransferFailed, names=["https://localhost:", "certificate", "'localhost'"]):
        fetch(site.url.replace("127.0.0.1", "localhost"))


def test_proxies(serve: Serve, tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    plain, secret = serve(send_and_break(1000), ranges), serve(send_and_break(1000), ranges, tls=tls)

    def relay(handler: Handler) -> None:
        with socket.create_connection(("127.0.0.1", plain.server_port)) as there:
            headers = "".join(f"{name}: {value}\r\n" for name, value in handler.headers.items())
            there.sendall(f"GET {urlsplit(handler.path).path} HTTP/1.1\r\n{headers}\r\n".encode())
            pump(there, handler.connection)

    proxy = serve(relay, behind=secret.server_port)
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", proxy.url)
        assert fetch(f"{scheme}://images.example/image") == DATA
    assert [asked["path"] for asked in proxy.asked] == ["http://images.example/image"] * 2 + ["images.example:443"] * 2
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert fetch(plain.url) == DATA
    assert len(proxy.asked) == 4


# The beginning of a source


@pytest.mark.parametrize("answer", [ranges, send_whole])
def test_head(serve: Serve, answer: Answer) -> None:
    site = serve(answer)
    assert read_head(site.url, 70_000) == (DATA[:70_000], len(DATA))
    assert site.asked[0]["Range"] == "bytes=0-69999"
    assert read_head(site.url, 2 * len(DATA)) == (DATA, len(DATA))


def test_head_of_what_has_no_end(serve: Serve) -> None:
    def endless(handler: Handler) -> None:
        handler.head(200)
        while True:
            handler.wfile.write(bytes(1 << 20))

    assert read_head(serve(endless).url, 70_000) == (bytes(70_000), None)


def test_head_from_somewhere_else_is_refused(serve: Serve) -> None:
    with pytest.raises(TransferFailed):
        read_head(serve(partly(5, 10)).url, 10)


def test_head_of_which_only_a_part_comes_is_refused(serve: Serve) -> None:
    with refused(
        TransferFailed, says="Could not read http://127.0.0.1:*: the server's response is not valid HTTP (ValueError)."
    ):
        read_head(serve(send_unasked(f"bytes 0-9/{len(DATA)}", 10)).url, 70_000)


def test_head_that_ends_early_is_refused(serve: Serve) -> None:
    site = serve(send_and_break(1000))
    with refused(TransferFailed, names=[site.url, len(DATA) - 1000]):
        read_head(site.url, 70_000)


# Bandwidth and progress


def test_bandwidth(serve: Serve) -> None:
    began = time.monotonic()
    assert fetch(serve(send_whole).url, bandwidth=4 * len(DATA)) == DATA
    assert time.monotonic() - began >= 0.2, "a quarter of a second, but for what a clock may miss"


def test_progress(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PROGRESS_EVERY", 0)
    told: list[str] = []
    site = serve(send_whole)
    fetch(f"{site.url}/image", told.append)
    assert f"0 MiB of {site.url}/image so far" in told[1:]


# ssh


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start an sshd and return the start of its URL.

    The configuration of the ``ssh`` program has the address and the keys of the server.
    """
    make_key(tmp_path / "host")
    (tmp_path / "authorized_keys").write_text(make_key(tmp_path / "key"))
    port = free_port()
    binaries = write_client(tmp_path, f"Host store.example\n  Port {port}\n  User nobody\n", key="key")
    monkeypatch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    server = subprocess.Popen(server_command(tmp_path, "PermitRootLogin yes", port=port))
    try:
        wait_for_server(port, server)
        yield "ssh://root@store.example"
    finally:
        server.terminate()
        server.wait()


def test_ssh(host: str, tmp_path: Path) -> None:
    image = tmp_path / "it's $(touch pwned) `id` -n & \\ é?#"
    image.write_bytes(DATA)
    url = host + str(image).translate({ord(" "): "%20", ord("é"): "%C3%A9", ord("?"): "%3F", ord("#"): "%23"})
    assert fetch(url) == DATA
    assert read_head(url, 70_000) == (DATA[:70_000], len(DATA))
    assert read_head(url, len(DATA) + 1) == (DATA, len(DATA))


def test_ssh_says_what_is_wrong(host: str, tmp_path: Path) -> None:
    for use in (fetch, lambda url: read_head(url, 10)):
        with refused(TransferFailed, says="Could not read ssh://store.example/nowhere: * No such file or directory."):
            use(f"{host}/nowhere")
        with refused(TransferFailed, names=[f"ssh://store.example{tmp_path}", os.strerror(errno.EISDIR)]):
            use(f"{host}{tmp_path}")
    with refused(TransferFailed, names=["ssh://store.example/nowhere", os.strerror(errno.EACCES)]):
        fetch(f"{host.replace('root@', '')}/nowhere")
    with refused(TransferFailed, names=["ssh://store.example:1/nowhere", os.strerror(errno.ECONNREFUSED)]):
        fetch(f"{host}:1/nowhere")
    (tmp_path / "known_hosts").write_text(f"{ALIAS} {(tmp_path / 'key.pub').read_text()}")
    with refused(TransferFailed, names=["ssh://store.example/nowhere", "Host key"]):
        fetch(f"{host}/nowhere")


def test_ssh_that_breaks_is_an_error(host: str, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(bytes(64 << 20))
    with (
        refused(TransferFailed, names=[f"ssh://store.example{tmp_path}/image", "Killed"]),
        open_source(f"{host}{tmp_path}/image", log=str) as chunks,
    ):
        next(chunks)
        running = subprocess.run(["pgrep", "-af", "^cat"], capture_output=True, text=True, check=True).stdout
        reader = re.search(rf"^(\d+) cat -- {tmp_path}/image$", running, re.M)
        os.kill(int(reader[1]), 9)
        for _ignored in chunks:
            pass


@pytest.fixture
def image(host: str, tmp_path: Path) -> tuple[str, Path]:
    """Return the URL of a file larger than the buffers of pipes and sockets, and the file."""
    path = tmp_path / "image"
    path.write_bytes(bytes(64 << 20))
    return f"{host}{path}", path


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(bytes(path.stat().st_size))
    other.rename(path)


@pytest.mark.parametrize("change", [grow, replace, Path.unlink, os.utime])
def test_a_file_that_changes_while_it_is_copied_over_ssh_is_refused(
    image: tuple[str, Path], change: Callable[[Path], object]
) -> None:
    url, path = image
    sentence = (
        f"Could not read {url.replace('root@', '')}: it changed while it was copied; "
        f"{fetching.CONSENT.format('verify: false')}."
    )
    with refused(StaleState, says=sentence), open_source(url, log=str) as chunks:
        next(chunks)
        change(path)
        for _ignored in chunks:
            pass


def test_unless_that_is_accepted(image: tuple[str, Path]) -> None:
    (url, path), warnings = image, []
    with open_source(url, verify=False, log=str, warn=warnings.append) as chunks:
        length = len(next(chunks))
        grow(path)
        assert length + sum(map(len, chunks)) == (64 << 20) + 4
    assert warnings == [
        f"{url.replace('root@', '')} changed while it was copied, and the copy can be a mixture of both states."
    ]


def test_a_file_that_does_not_change_needs_no_consent(image: tuple[str, Path]) -> None:
    warnings: list[str] = []
    with open_source(image[0], verify=False, log=str, warn=warnings.append) as chunks:
        assert sum(map(len, chunks)) == 64 << 20
    assert warnings == []


def replace_command(tmp_path: Path, command: str) -> None:
    """Run a command instead of the requested one, like sshd(8) for a key with a command."""
    (keys := tmp_path / "authorized_keys").write_text(f'command="{command}" {keys.read_text()}')


def test_what_a_login_shell_prints_is_not_in_the_image(host: str, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(DATA)
    replace_command(tmp_path, r"echo 'welcome'; printf '\377\n'; eval \"$SSH_ORIGINAL_COMMAND\"")
    assert fetch(f"{host}{tmp_path}/image") == DATA
    assert read_head(f"{host}{tmp_path}/image", 1000) == (DATA[:1000], len(DATA))
    assert fetch(f"{host}/dev/null") == b""


@pytest.mark.parametrize(
    ("command", "why"),
    [("exec yes", "the host writes something else than the file"), ("echo bye", "the host doesn't run the command")],
)
def test_a_host_that_does_something_else(host: str, tmp_path: Path, command: str, why: str) -> None:
    replace_command(tmp_path, command)
    for use in (fetch, lambda url: read_head(url, 10)):
        with refused(TransferFailed, says=f"Could not read ssh://store.example/x: {why}."):
            use(f"{host}/x")


def test_ssh_without_a_stat_that_compares(host: str, image: tuple[str, Path], tmp_path: Path) -> None:
    """Systems other than Linux have such a stat."""
    replace_command(tmp_path, rf"PATH={tmp_path}/odd:$PATH; eval \"$SSH_ORIGINAL_COMMAND\"")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "stat").write_text("#!/bin/sh\necho illegal option >&2\nexit 1\n")
    (tmp_path / "odd" / "stat").chmod(0o755)
    assert fetch(image[0]) == bytes(64 << 20)
    with refused(TransferFailed, says=f"Could not read ssh://store.example{tmp_path}/image: illegal option."):
        read_head(image[0], 10)


def test_ssh_that_sends_next_to_nothing_is_given_up(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "RATE_PERIOD", 0.3)
    os.mkfifo(tmp_path / "pipe")
    over = threading.Event()

    def drip() -> None:
        with contextlib.suppress(BrokenPipeError), (tmp_path / "pipe").open("wb", buffering=0) as pipe:
            while not over.wait(0.02):
                pipe.write(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        with refused(
            TransferFailed,
            says=f"Could not read ssh://store.example{tmp_path}/pipe: it sent * bytes in * seconds, and at least 1024 "
            "bytes a second are expected.",
        ):
            fetch(f"{host}{tmp_path}/pipe")
    finally:
        over.set()
        thread.join()


def test_time_that_this_side_takes_does_not_count_over_ssh(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "RATE_PERIOD", 0.6)
    monkeypatch.setattr(throttle, "MINIMUM_RATE", 100 << 20)
    (tmp_path / "image").write_bytes(DATA)
    assert fetch(f"{host}{tmp_path}/image", bandwidth=len(DATA)) == DATA


def test_ssh_is_stopped_with_its_source(host: str, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(bytes(64 << 20))
    with open_source(f"{host}{tmp_path}/image", log=str) as chunks:
        next(chunks)
    assert (
        subprocess.run(
            ["pgrep", "-f", f"^{shutil.which('ssh', path='/usr/bin')} -F {tmp_path}"], check=False
        ).returncode
        == 1
    )


def test_a_missing_ssh_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with refused(CommandMissing, names=["'ssh'"]):
        fetch("ssh://host/x")
