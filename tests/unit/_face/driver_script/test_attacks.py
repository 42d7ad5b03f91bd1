# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile documents, paths and images, passed to driver scripts in the same way as by a front-end."""

from __future__ import annotations

import base64
import bz2
import contextlib
import gzip
import http.server
import lzma
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

MIB = 2**20
ROOT = "DS_DRIVER_ACTION_DATA"

#: Command that limits the resources of an action. The longest document takes 184 MiB.
LIMITS = ("prlimit", f"--as={256 * MIB}:", "--cpu=30:", "--core=0")


def call(scripts: Any, action: str, xml: bytes) -> subprocess.CompletedProcess[bytes]:
    """Require that the action ends within the limits, with success or with an error in one line."""
    encoded = base64.b64encode(xml)
    done = subprocess.run([*LIMITS, scripts.path(action), "7"], input=encoded, capture_output=True, check=False)
    assert done.returncode in (0, 1)
    assert done.stderr.count(b"\n") == done.returncode and len(done.stderr) < 1000
    return done


def document(scripts: Any, size: int, inner: str = "") -> bytes:
    """Return a document of the given ``size`` for the action monitor; no action reads most of its text."""
    datastore = f"<DATASTORE><ID>100</ID><TYPE>0</TYPE><BASE_PATH>{scripts.store}</BASE_PATH></DATASTORE>"
    begin = f"<{ROOT}>{datastore}{inner}<IMAGE><NOTE>"
    end = f"</NOTE></IMAGE></{ROOT}>"
    return b"".join([begin.encode(), b"x" * (size - len(begin) - len(end)), end.encode()])


@pytest.mark.parametrize("size", [60 * MIB, 64 * MIB])
def test_a_long_document_is_read(scripts: Any, size: int) -> None:
    done = call(scripts, "monitor", document(scripts, size))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"USED_MB=")


@pytest.mark.parametrize("size", [64 * MIB + 1, 100 * 10**6, 100 * MIB])
def test_one_that_is_too_long_is_refused(scripts: Any, size: int) -> None:
    done = call(scripts, "monitor", document(scripts, size))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.endswith(b": a document of at most 64 MiB is expected.\n")


def test_one_without_an_end_is_refused(scripts: Any) -> None:
    """The action neither waits for the end of the document nor stores it."""
    with subprocess.Popen(["yes", "PERT"], stdout=subprocess.PIPE) as endless:
        done = subprocess.run(
            [*LIMITS, scripts.path("cp"), "7"], stdin=endless.stdout, capture_output=True, check=False
        )
        endless.kill()
    assert done.stderr.endswith(b": a document of at most 64 MiB is expected.\n")


#: Entities, each of which expands to ten times the previous one.
NAMES = "abcdefghij"


@pytest.mark.parametrize(
    "doctype",
    [
        "<!ENTITY a 'aaaaaaaaaa'>"
        + "".join(f"<!ENTITY {NAMES[number]} '{f'&{NAMES[number - 1]};' * 10}'>" for number in range(1, len(NAMES))),
        f"<!ENTITY j '{'x' * MIB}'>",
        "<!ENTITY j SYSTEM 'file:///etc/passwd'>",
        "<!ENTITY j SYSTEM 'http://127.0.0.1:1/x'>",
        "<!ENTITY % p SYSTEM 'file:///etc/passwd'> %p;",
    ],
    ids=["laughs", "quadratic", "file", "url", "parameter"],
)
def test_entities_are_refused(scripts: Any, doctype: str) -> None:
    for text in ("&j;", "&j;" * 1000):
        done = call(
            scripts, "cp", f"<!DOCTYPE x [{doctype}]><{ROOT}><IMAGE><PATH>{text}</PATH></IMAGE></{ROOT}>".encode()
        )
        assert done.returncode == 1
        assert (
            done.stderr
            == b"standard input: '<!DOCTYPE x' is not accepted: a document without a document type is expected.\n"
        )


@contextlib.contextmanager
def swap_link(path: Path, targets: list[Path]) -> Iterator[None]:
    """Make ``path`` a link to each of the ``targets`` in turn, as fast as possible."""
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for target in targets:
                (other := path.with_name("other")).symlink_to(target)
                other.rename(path)

    path.symlink_to(targets[0])
    (thread := threading.Thread(target=swap)).start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("swapped", ["file", "directory"])
def test_a_link_that_is_swapped_in_a_race_leads_nowhere_else(scripts: Any, swapped: str) -> None:
    for name in ("allowed", "secret"):
        (scripts.files / name).mkdir()
        (scripts.files / name / "x").write_bytes(name.encode() * 1000)
    targets = [
        scripts.files / name / "x" if swapped == "file" else scripts.files / name for name in ("allowed", "secret")
    ]
    link = scripts.files / "link"
    with swap_link(link, targets):
        results = [
            scripts("cp", I_PATH=link if swapped == "file" else link / "x", DT_RESTRICTED_DIRS=scripts.files / "secret")
            for _time in range(30)
        ]
    assert all(
        done.returncode == 0 or "the restricted directory" in done.stderr or "Could not open" in done.stderr
        for done in results
    )
    stored = [Path(done.stdout.split()[0]) for done in results if done.returncode == 0]
    assert scripts.stored() == sorted(path.name for path in stored)
    assert {path.read_bytes() for path in stored} <= {b"allowed" * 1000}


SMALL = (
    "unshare",
    "-m",
    "sh",
    "-ec",
    'mount -t tmpfs -o size=16m tmpfs "$0"; "$@"; rc=$?; [ -z "$(ls -A "$0")" ] || echo left >&2; exit $rc',
)


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True).stdout


@pytest.mark.parametrize("action", ["cp", "stat"])
@pytest.mark.parametrize("compress", [bz2.compress, gzip.compress, lzma.compress, zstd])
def test_a_decompression_bomb_is_stopped(scripts: Any, compress: Callable[[bytes], bytes], action: str) -> None:
    """The file system of 16 MiB gets 256 MiB of zeros, which would be holes."""
    (path := scripts.files / "bomb").write_bytes(compress(bytes(256 * MIB)))
    assert path.stat().st_size < MIB
    done = scripts(action, within=[*LIMITS, *SMALL, scripts.store], I_PATH=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "expands to more than that" in done.stderr


class Endless(http.server.BaseHTTPRequestHandler):
    """A server that sends data without end, after the header lines in ``told``."""

    told = ""

    def do_GET(self) -> None:
        self.wfile.write(f"HTTP/1.1 200 OK\r\n{self.told}\r\n".encode())
        block = b"".join(number.to_bytes(8, "big") for number in range(1, 8193))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while True:
                self.wfile.write(block)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (
            "",
            r"Could not store http://127\.0\.0\.1:\d+/x: it has more data than the \d+ bytes that there is room for\. "
            r"Nothing was changed\.",
        ),
        (
            "Content-Length: 1099511627776\r\n",
            r"Could not read http://127\.0\.0\.1:\d+/x: the file has 1099511627776 bytes, and there is room for \d+ "
            r"bytes at most\.",
        ),
    ],
    ids=["unknown", "told"],
)
@pytest.mark.parametrize(
    "elements", [{"D_TYPE": 2, "I_TYPE": 3}, {"DT_NO_DECOMPRESS": "YES"}, {}], ids=["file", "undecompressed", "image"]
)
def test_endless_data_does_not_fill_a_datastore(
    scripts: Any, monkeypatch: pytest.MonkeyPatch, told: str, why: str, elements: dict[str, object]
) -> None:
    monkeypatch.setattr(Endless, "told", told)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        (thread := threading.Thread(target=server.serve_forever)).start()
        try:
            done = scripts(
                "cp",
                within=[*LIMITS, *SMALL, scripts.store],
                I_PATH=f"http://127.0.0.1:{server.server_address[1]}/x",
                **elements,
            )
            assert (done.returncode, done.stdout) == (1, "")
            # On an empty file system, an image reaches the size of the whole file system at nearly the same time.
            assert (
                re.fullmatch(why, done.stderr) or not elements and "at most 16777216 bytes are expected" in done.stderr
            )
            if not told:
                done = scripts(
                    "stat",
                    within=[*LIMITS, *SMALL, scripts.store],
                    I_PATH=f"http://127.0.0.1:{server.server_address[1]}/x",
                    **elements,
                )
                assert "at most 16777216 bytes are expected, and it has more than that" in done.stderr
        finally:
            server.shutdown()
            thread.join()


def test_a_billion_clusters(scripts: Any) -> None:
    """One image really has so many clusters, the other only claims them in its header."""
    real = scripts.files / "real.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", real, str(10**9 * 65536)], check=True)
    assert scripts("stat", within=LIMITS, I_PATH=real).stdout == f"{10**9 // 16}\n"
    done = scripts("cp", within=LIMITS, I_PATH=real)
    assert done.returncode == 0, done.stderr
    os.unlink(done.stdout.split()[0])
    # 60 TiB of zeros are a hole, if the file system supports such a file.
    done = scripts("cp", within=LIMITS, I_PATH=real, DT_DRIVER="raw")
    assert len(scripts.stored()) == (1 if done.returncode == 0 else 0)
    if done.returncode == 0:
        assert Path(done.stdout.split()[0]).stat().st_blocks < 100
        os.unlink(done.stdout.split()[0])
    said = scripts.files / "said.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", said, "1M"], check=True)
    with said.open("r+b") as file:
        for offset, value, length in ((24, 10**9 * 65536, 8), (36, 10**9, 4)):  # size, entries of the first table
            file.seek(offset)
            file.write(value.to_bytes(length, "big"))
    done = scripts("cp", within=LIMITS, I_PATH=said)
    assert (done.returncode, done.stdout, scripts.stored()) == (1, "", [])
    assert str(said) in done.stderr


def test_the_safe_directories_of_a_datastore_replace_the_default(
    scripts: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The test is /var/tmp without SAFE_DIRS. Only the datastore can declare safe directories in it."""
    path = Path("/var/tmp") / f"granary-{tmp_path_factory.getbasetemp().name}-{os.getpid()}"
    path.write_bytes(b"x" * 512)
    try:
        assert scripts("cp", I_PATH=path).returncode == 0
        assert scripts("cp", I_PATH=path, DT_SAFE_DIRS=f"{scripts.files} {path.parent}").returncode == 0
        done = scripts("cp", I_PATH=path, DT_SAFE_DIRS=scripts.files)
    finally:
        path.unlink()
    assert done.returncode == 1
    assert "it lies in the restricted directory /var" in done.stderr
