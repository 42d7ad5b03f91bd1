# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""What gzip(1), bzip2(1), xz(1), zstd(1), tar(1) and Python's zip make, and what somebody made of that."""

from __future__ import annotations

import itertools
import lzma
import os
import random
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.command import CHUNK
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import CommandFailed, InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._image.decompress import decompressed

TOOLS = ("gzip", "bzip2", "xz", "zstd")
#: Bytes of an image: half of it doesn't compress.
DATA = random.Random(4).randbytes(300_000) + bytes(300_000)
MIB = 1 << 20


def packed(tool: str, data: bytes, *options: str) -> bytes:
    if shutil.which(tool) is None:
        pytest.fail(f"{tool} is not installed: apt-get install {'xz-utils' if tool == 'xz' else tool}")
    return subprocess.run([tool, "-c", *options], input=data, capture_output=True, check=True).stdout


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def unpacked(data: bytes, *, size: int = 10_000, limit: int = 10 * MIB, path: str = "/srv/image") -> bytes:
    return b"".join(decompressed(pieces(data, size), limit=limit, path=path))


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("tar")
    (directory / "image").write_bytes(DATA)
    return subprocess.run(["tar", "-C", directory, "-c", "image"], capture_output=True, check=True).stdout


@pytest.mark.parametrize("size", [1000, 1 << 20])
@pytest.mark.parametrize("tool", TOOLS)
def test_comes_out_as_it_went_in(tool: str, size: int) -> None:
    assert unpacked(packed(tool, DATA), size=size) == DATA


@pytest.mark.parametrize("tool", TOOLS)
def test_even_byte_by_byte(tool: str) -> None:
    assert unpacked(packed(tool, DATA[-310_000:]), size=1) == DATA[-310_000:]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("size", [7, 1 << 20])
def test_members_follow_one_another(tool: str, size: int) -> None:
    members = packed(tool, b"one " * 500) + packed(tool, b"") + packed(tool, b"two")
    assert unpacked(members, size=size) == b"one " * 500 + b"two"


@pytest.mark.parametrize("tool", ["gzip", "xz"])
def test_zeros_behind_the_end_are_padding(tool: str) -> None:
    assert unpacked(packed(tool, b"one") + bytes(512) + packed(tool, b"two") + bytes(1024)) == b"onetwo"


@pytest.mark.parametrize("data", [b"", b"x", DATA, bytes(1 << 16), b"QFI\xfb" + bytes(600)])
def test_what_is_not_compressed_stays_as_it_is(data: bytes) -> None:
    assert unpacked(data) == data


@pytest.mark.parametrize("tool", TOOLS)
def test_a_stream_that_ends_early_is_refused(tool: str) -> None:
    stream = packed(tool, b"some bytes that matter" * 100)
    for length in range(20, len(stream), 1 if tool != "zstd" else 7):
        with pytest.raises(InvalidInput, match=f"a whole {tool} stream is expected.* ends too early"):
            unpacked(stream[:length])
    with pytest.raises(InvalidInput, match="ends too early"):
        unpacked(stream + stream[:20])


@pytest.mark.parametrize("tool", TOOLS)
def test_what_follows_the_end_is_refused(tool: str) -> None:
    with pytest.raises(InvalidInput, match=f"a whole {tool} stream is expected.* goes on behind its end"):
        unpacked(packed(tool, DATA) + b"garbage that is no member")


@pytest.mark.parametrize("tool", TOOLS)
def test_a_damaged_stream_is_refused(tool: str) -> None:
    stream = bytearray(packed(tool, DATA, *(["--check"] if tool == "zstd" else [])))
    stream[len(stream) // 2] ^= 1
    with pytest.raises(InvalidInput, match=f"a whole {tool} stream is expected.* damaged"):
        unpacked(bytes(stream))


@pytest.mark.parametrize("tool", TOOLS)
def test_a_bomb_is_stopped_at_the_limit(tool: str) -> None:
    bomb = packed(tool, bytes(256 * MIB))
    out = 0
    with pytest.raises(InvalidInput, match=f"at most {5 * MIB} bytes are expected, and it expands to more than that"):
        for chunk in decompressed([bomb], limit=5 * MIB, path="/srv/image"):
            assert len(chunk) <= CHUNK, "what is held at once doesn't grow with the bomb"
            out += len(chunk)
    assert 4 * MIB < out <= 5 * MIB


@pytest.mark.parametrize("tool", TOOLS)
def test_as_many_bytes_as_the_limit_are_none_too_many(tool: str) -> None:
    assert unpacked(packed(tool, DATA), limit=len(DATA)) == DATA
    with pytest.raises(InvalidInput):
        unpacked(packed(tool, DATA), limit=len(DATA) - 1)


def test_what_is_not_compressed_has_the_limit_too() -> None:
    with pytest.raises(InvalidInput, match="at most 5 bytes are expected, and it has more than that"):
        for _ignored in decompressed(itertools.repeat(b"1234"), limit=5, path="/srv/image"):
            pass


def greedy(tool: str) -> bytes:
    """A small stream whose header asks for a gigabyte of memory."""
    if tool == "zstd":
        cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with cat, subprocess.Popen(["zstd", "-c", "--long=30"], stdin=cat.stdout, stdout=subprocess.PIPE) as zstd:
            cat.stdin.write(DATA)
            cat.stdin.close()
            return zstd.stdout.read()
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    return lzma.compress(b"little", filters=filters)


@pytest.mark.parametrize("tool", ["xz", "zstd"])
def test_a_stream_that_asks_for_much_memory_is_refused(tool: str) -> None:
    with pytest.raises(InvalidInput, match=r"(?i)memory"):
        unpacked(greedy(tool))


@pytest.mark.parametrize(("tool", "level"), [("xz", "-9e"), ("zstd", "-19"), ("zstd", "--ultra -22 --long=27"), ("bzip2", "-9"), ("gzip", "-9")])
def test_the_highest_levels_are_taken(tool: str, level: str) -> None:
    assert unpacked(packed(tool, DATA, *level.split())) == DATA


def a_zip() -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("image", DATA)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_archives_are_refused(tar: bytes, size: int) -> None:
    for data, kind in ((tar, "tar"), (a_zip(), "zip")):
        with pytest.raises(InvalidInput, match=f"^path: '/srv/image' is not accepted: an image is expected, and this is a {kind} archive: unpack it"):
            unpacked(data, size=size)


@pytest.mark.parametrize("tool", TOOLS)
def test_so_are_compressed_ones(tar: bytes, tool: str) -> None:
    for data, kind in ((tar, "tar"), (a_zip(), "zip")):
        with pytest.raises(InvalidInput, match=f"this is a {kind} archive"):
            unpacked(packed(tool, data))


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_a_disk_is_no_archive_though_it_begins_like_one(size: int) -> None:
    """What tells that it is a disk, the magic number of btrfs, lies far behind."""
    disk = b"\x1f\x9d\x90" + b"\7" * 65597 + b"_BHRfS_M" + DATA
    assert unpacked(disk, size=size) == disk
    with pytest.raises(InvalidInput, match="this is compressed with compress: decompress it first"):
        unpacked(disk.replace(b"_BHRfS_M", b"12345678"), size=size)


def test_compressed_twice_is_refused() -> None:
    with pytest.raises(InvalidInput, match="compressed once is expected, and inside xz there is gzip again"):
        unpacked(packed("xz", packed("gzip", DATA)))


def test_reads_no_more_than_it_must() -> None:
    given = []

    def chunks() -> Iterator[bytes]:
        for piece in pieces(packed("gzip", os.urandom(10 * MIB)), 1000):
            given.append(piece)
            yield piece

    assert next(decompressed(chunks(), limit=20 * MIB, path="/srv/image"))
    assert len(given) < 5


def test_errors_show_no_password() -> None:
    with pytest.raises(InvalidInput, match=r"'https://host/image\?\.\.\.' is not accepted") as caught:
        unpacked(b"1234", limit=1, path="https://user:secret@host/image?signature=secret")
    assert "secret" not in str(caught.value) + repr(caught.value.value)


def test_a_missing_zstd_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = packed("zstd", DATA)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandFailed, match="'zstd' is not installed on this host: install the package zstd"):
        unpacked(stream)
