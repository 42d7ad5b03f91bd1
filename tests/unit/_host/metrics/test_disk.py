# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk of metrics, read by a reader that was written from the format alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._host.metrics.disk import (
    LONGEST,
    SIZE,
    checksum,
    initial_disk,
    open_disk,
    update_disk,
)
from metrics_reader import parse_disk, read_disk
from refusal import refused

UUID = "d491271a-7fb7-473d-bbbd-d015e48d8f31"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Create the file of a domain."""
    (tmp_path / UUID).mkdir()
    path = tmp_path / UUID / "vhostmd0"
    path.write_bytes(initial_disk())
    return path


def open_file(file: Path) -> int:
    directory = os.open(file.parents[1], os.O_PATH)
    try:
        return open_disk(directory, UUID)
    finally:
        os.close(directory)


def test_a_new_disk_has_an_empty_document(file: Path) -> None:
    data = file.read_bytes()
    assert (len(data), parse_disk(data)) == (262144, b"<metrics></metrics>\n")
    assert data[:16] == b"mvbd" + bytes(4) + sum(b"<metrics></metrics>\n").to_bytes(4, "big") + b"\0\0\0\x14"
    assert not data[36:].strip(b"\0")


@pytest.mark.parametrize("document", [b"", b"\xff" * LONGEST, b"<metrics/>\n"], ids=["empty", "longest", "short"])
def test_a_reader_gets_the_last_document(file: Path, document: bytes) -> None:
    descriptor = open_file(file)
    for one in (b"older" * 100, document):
        update_disk(descriptor, one)
        assert read_disk(str(file)) == one
    os.close(descriptor)
    assert file.stat().st_size == SIZE
    # Even the checksum of the longest document is a positive number of 32 bits.
    assert 0 <= checksum(document) < 2**31


def test_a_longer_document_is_refused_and_the_disk_stays(file: Path) -> None:
    descriptor = open_file(file)
    with refused(ValueError, names=[LONGEST, LONGEST + 1]):
        update_disk(descriptor, b"x" * (LONGEST + 1))
    os.close(descriptor)
    assert read_disk(str(file)) == b"<metrics></metrics>\n"


def test_the_order_of_the_writes(file: Path, tmp_path: Path) -> None:
    """strace(1) sees the busy header, the document, and the free header, each at once."""
    log = tmp_path / "log"
    program = (
        "import os, sys\n"
        f"from {update_disk.__module__} import update_disk\n"
        "update_disk(os.open(sys.argv[1], os.O_WRONLY), b'<metrics/>')\n"
    )
    trace = ["strace", "-qq", "-xx", "-s", "32", "-e", "trace=pwrite64,fsync,fdatasync", "-e", "signal=none", "-o", log]
    subprocess.run([*trace, sys.executable, "-c", program, file], check=True)
    calls = log.read_text().splitlines()
    written = [bytes.fromhex(call.split('"')[1].replace("\\x", "")) for call in calls]
    tail = sum(b"<metrics/>").to_bytes(4, "big") + b"\0\0\0\x0a"
    assert written == [b"mvbd\0\0\0\x01" + tail, b"<metrics/>", b"mvbd\0\0\0\0" + tail]
    assert [call.rpartition(", ")[2].split(")")[0] for call in calls] == ["0", "16", "0"]


WRITER = """
import os, sys
from ansible_collections.granary.vmstore.plugins.module_utils._host.metrics.disk import update_disk
descriptor = os.open(sys.argv[1], os.O_WRONLY)
lengths = (9000, 100, 5000, 20000, 1, 4080, 4081, 700)
documents = [bytes([letter]) * length for letter, length in zip(b"abcdefgh", lengths)]
number = 0
while True:
    update_disk(descriptor, documents[number % 8])
    number += 1
    if number == 8:
        print("begun", flush=True)
"""


def test_no_torn_read_is_accepted(file: Path) -> None:
    """Another process writes all the time. Each document has only one letter."""
    with subprocess.Popen([sys.executable, "-c", WRITER, file], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout and writer.stdout.readline() == b"begun\n"
            accepted = rejected = 0
            while accepted < 50 or not rejected:
                document = read_disk(str(file))
                accepted += document is not None
                rejected += document is None
                assert document is None or len(set(document)) == 1
        finally:
            writer.kill()


def test_only_a_disk_of_metrics_is_opened(file: Path, tmp_path: Path) -> None:
    """QEMU's user could replace the file, for root to write to another file."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(SIZE))
    os.close(open_file(file))
    file.unlink()
    with refused(FileNotFoundError):
        open_file(file)
    for make in (
        lambda: file.symlink_to(secret),
        lambda: file.hardlink_to(secret),
        lambda: os.mkfifo(file),
        file.mkdir,
        lambda: file.write_bytes(bytes(SIZE - 1)),
    ):
        make()
        with refused(OSError):
            open_file(file)
        if file.is_dir():
            file.rmdir()
        else:
            file.unlink()
    file.parent.rmdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "vhostmd0").write_bytes(bytes(SIZE))
    file.parent.symlink_to("other")
    with refused(NotADirectoryError):
        open_file(file)
    assert secret.read_bytes() == bytes(SIZE)
