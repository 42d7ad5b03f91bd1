# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of gzip(1), bzip2(1), xz(1), zstd(1), tar(1) and Python's zip, and manipulated versions of them."""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import os
import random
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.command import CHUNK
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CommandMissing,
    InvalidInput,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image import decompress as decompress_module
from ansible_collections.granary.vmstore.plugins.module_utils._image.decompress import decompress
from refusal import refused

TOOLS = ("gzip", "bzip2", "xz", "zstd")
#: Content of an image: half of it is incompressible.
DATA = random.Random(4).randbytes(300_000) + bytes(300_000)
MIB = 1 << 20


def pack(tool: str, data: bytes, *options: str) -> bytes:
    if shutil.which(tool) is None:
        pytest.fail(f"{tool} is not installed: apt-get install {'xz-utils' if tool == 'xz' else tool}")
    return subprocess.run([tool, "-c", *options], input=data, capture_output=True, check=True).stdout


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def unpack(data: bytes, *, size: int = 10_000, limit: int = 10 * MIB, path: str = "/srv/image") -> bytes:
    return b"".join(decompress(pieces(data, size), limit=limit, path=path))


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("tar")
    (directory / "image").write_bytes(DATA)
    return subprocess.run(["tar", "-C", directory, "-c", "image"], capture_output=True, check=True).stdout


@pytest.mark.parametrize("size", [1000, 1 << 20])
@pytest.mark.parametrize("tool", TOOLS)
def test_comes_out_as_it_went_in(tool: str, size: int) -> None:
    assert unpack(pack(tool, DATA), size=size) == DATA


@pytest.mark.parametrize("tool", TOOLS)
def test_even_byte_by_byte(tool: str) -> None:
    assert unpack(pack(tool, DATA[-310_000:]), size=1) == DATA[-310_000:]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("size", [7, 1 << 20])
def test_members_follow_one_another(tool: str, size: int) -> None:
    members = pack(tool, b"one " * 500) + pack(tool, b"") + pack(tool, b"two")
    assert unpack(members, size=size) == b"one " * 500 + b"two"


@pytest.mark.parametrize("tool", ["gzip", "xz"])
def test_zeros_behind_the_end_are_padding(tool: str) -> None:
    assert unpack(pack(tool, b"one") + bytes(512) + pack(tool, b"two") + bytes(1024)) == b"onetwo"


@pytest.mark.parametrize("data", [b"", b"x", DATA, bytes(1 << 16), b"QFI\xfb" + bytes(600)])
def test_what_is_not_compressed_stays_as_it_is(data: bytes) -> None:
    assert unpack(data) == data


@pytest.mark.parametrize("tool", TOOLS)
def test_a_stream_that_ends_early_is_refused(tool: str) -> None:
    stream = pack(tool, b"some bytes that matter" * 100)
    # zstd(1) alone knows why it failed.
    why = "is damaged, ends too early or goes on behind its end (*)" if tool == "zstd" else "ends too early"
    sentence = f"path: '/srv/image' is not accepted: a whole {tool} stream is expected, and this one {why}."
    for length in range(20, len(stream), 1 if tool != "zstd" else 7):
        with refused(InvalidInput, says=sentence):
            unpack(stream[:length])
    with refused(InvalidInput, says=sentence):
        unpack(stream + stream[:20])


@pytest.mark.parametrize("tool", TOOLS)
def test_what_follows_the_end_is_refused(tool: str) -> None:
    with refused(InvalidInput, option="path", names=[tool]):
        unpack(pack(tool, DATA) + b"garbage that is no member")


@pytest.mark.parametrize("tool", TOOLS)
def test_a_damaged_stream_is_refused(tool: str) -> None:
    stream = bytearray(pack(tool, DATA, *(["--check"] if tool == "zstd" else [])))
    stream[len(stream) // 2] ^= 1
    why = "damaged, ends too early or goes" if tool == "zstd" else "damaged or goes"
    with refused(
        InvalidInput,
        says=f"path: '/srv/image' is not accepted: a whole {tool} stream is expected, and this one is {why} on behind "
        "its end (*).",
    ):
        unpack(bytes(stream))


@pytest.mark.parametrize("tool", TOOLS)
def test_a_bomb_is_stopped_at_the_limit(tool: str) -> None:
    bomb = pack(tool, bytes(256 * MIB))
    out = 0
    with refused(
        InvalidInput,
        says=f"path: '/srv/image' is not accepted: at most {5 * MIB} bytes are expected, and it "
        "expands to more than that.",
    ):
        for chunk in decompress([bomb], limit=5 * MIB, path="/srv/image"):
            assert len(chunk) <= CHUNK, "what is held at once doesn't grow with the bomb"
            out += len(chunk)
    assert 4 * MIB < out <= 5 * MIB


@pytest.mark.parametrize("tool", TOOLS)
def test_as_many_bytes_as_the_limit_are_none_too_many(tool: str) -> None:
    assert unpack(pack(tool, DATA), limit=len(DATA)) == DATA
    with pytest.raises(InvalidInput):
        unpack(pack(tool, DATA), limit=len(DATA) - 1)


def test_what_is_not_compressed_has_the_limit_too() -> None:
    with refused(
        InvalidInput,
        says="path: '/srv/image' is not accepted: at most 5 bytes are expected, and it has more than that.",
    ):
        for _ignored in decompress(itertools.repeat(b"1234"), limit=5, path="/srv/image"):
            pass


def make_greedy(tool: str, window_log: int = 30) -> bytes:
    """Create a small stream whose header requests a gigabyte of memory, or less."""
    if tool == "zstd":
        cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with (
            cat,
            subprocess.Popen(["zstd", "-c", f"--long={window_log}"], stdin=cat.stdout, stdout=subprocess.PIPE) as zstd,
        ):
            cat.stdin.write(DATA)
            cat.stdin.close()
            return zstd.stdout.read()
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    return lzma.compress(b"little", filters=filters)


@pytest.mark.parametrize(
    ("tool", "accepted"),
    [
        ("xz", "a whole xz stream is expected, and this one is damaged or goes on behind its end (*emory*)"),
        ("zstd", "zstd data that takes at most 256 MiB of memory is expected, and this asks for 1024 MiB"),
    ],
)
def test_a_stream_that_asks_for_much_memory_is_refused(tool: str, accepted: str) -> None:
    with refused(InvalidInput, says=f"path: '/srv/image' is not accepted: {accepted}."):
        unpack(make_greedy(tool))


@pytest.mark.parametrize(
    ("tool", "level"),
    [("xz", "-9e"), ("zstd", "-19"), ("zstd", "--ultra -22 --long=27"), ("bzip2", "-9"), ("gzip", "-9")],
)
def test_the_highest_levels_are_taken(tool: str, level: str) -> None:
    assert unpack(pack(tool, DATA, *level.split())) == DATA


def test_as_much_memory_as_the_limit_is_none_too_much() -> None:
    assert unpack(make_greedy("zstd", 28)) == DATA


def test_zstd_itself_keeps_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompress_module, "ZSTD_MEMORY", 64 * MIB)
    with refused(
        InvalidInput,
        says="path: '/srv/image' is not accepted: a whole zstd stream is expected, and this one is "
        "damaged, ends too early or goes on behind its end (/*stdin*\\ : Decoding error (36) : "
        "Allocation error : not enough memory).",
    ):
        unpack(make_greedy("zstd", 27))


# Trailing data that zstd(1) would accept after a frame


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize("tool", ["gzip", "xz", "lzma", "lz4"])
def test_other_compressions_do_not_follow_a_frame(tool: str, size: int) -> None:
    if tool == "xz":
        other = make_greedy("xz")
    elif tool == "lzma":
        other = lzma.compress(b"little", lzma.FORMAT_ALONE)
    else:
        other = gzip.compress(b"little") if tool == "gzip" else b"\x04\x22\x4d\x18" + bytes(20)
    for skippable in (b"", SKIPPABLE):
        with refused(
            InvalidInput,
            says="path: '/srv/image' is not accepted: a whole zstd stream is expected, and this one is "
            "damaged, ends too early or goes on behind its end (what follows a frame is no zstd "
            "frame).",
        ):
            unpack(pack("zstd", DATA) + skippable + other, size=size)


SKIPPABLE = b"\x5a\x2a\x4d\x18\x05\0\0\0\xfd7zXZ"


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_skippable_frames_are_skipped(size: int) -> None:
    one, two = pack("zstd", b"one"), pack("zstd", b"two", "--no-check")
    assert unpack(one + SKIPPABLE + SKIPPABLE + two + SKIPPABLE, size=size) == b"onetwo"


def test_a_parallel_compressor() -> None:
    if shutil.which("pzstd") is None:
        pytest.fail("pzstd is not installed: apt-get install zstd")
    data = random.Random(5).randbytes(1000) * 40_000
    done = subprocess.run(["pzstd", "-1", "-p", "4", "-c", "-q"], input=data, capture_output=True, check=True)
    assert done.stdout.count(b"\x50\x2a\x4d\x18") > 1
    assert unpack(pack("zstd", b"first") + done.stdout, limit=50 * MIB) == b"first" + data


@pytest.mark.parametrize(
    "options", ["-1", "-3 --no-check", "-19 --long=25", "--fast=5", "-B1024 --stream-size=600000", "--rsyncable -T2"]
)
def test_frames_of_all_kinds(options: str) -> None:
    for data in (b"", b"x", bytes(300), bytes(10 * MIB), DATA, DATA[:66_000], random.Random(6).randbytes(70_000)):
        words = options.replace("600000", str(len(data))).split()
        assert unpack(pack("zstd", data, *words), size=100_000, limit=20 * MIB) == data


@pytest.mark.parametrize("block", [b"\x07\0\0", b"\x05\0\x20"], ids=["type", "size"])
def test_a_block_without_a_valid_header_is_refused(block: bytes) -> None:
    with refused(
        InvalidInput,
        says="path: '/srv/image' is not accepted: a whole zstd stream is expected, and this one is "
        "damaged, ends too early or goes on behind its end (a block has no valid header).",
    ):
        unpack(b"\x28\xb5\x2f\xfd\x20\x05" + block + bytes(100))


# Streams of excessive cost


@pytest.mark.parametrize("tool", TOOLS)
def test_members_without_content_are_limited(tool: str) -> None:
    with refused(
        InvalidInput,
        says=f"path: '/srv/image' is not accepted: {tool} data is expected, and more than 10000 of its "
        "members or frames are empty.",
    ):
        unpack(pack(tool, DATA) + pack(tool, b"") * 200_000, size=1 << 20)


@pytest.mark.parametrize("tool", TOOLS)
def test_small_members_are_not(tool: str) -> None:
    member = pack(tool, b"x")
    assert (
        unpack((member + pack(tool, b"") + b"\0" * (tool in ("gzip", "bzip2"))) * 20_000, size=1 << 20) == b"x" * 20_000
    )


def test_blocked_gzip() -> None:
    """bgzip(1) writes members of at most 64 KiB, and an empty one at the end of each file (SAM/BAM
    specification, 4.1).
    """
    data = DATA * 20
    blocks = b"".join(gzip.compress(piece) for piece in pieces(data, 65_280))
    assert unpack((blocks + gzip.compress(b"")) * 3, size=1 << 20, limit=100 * MIB) == data * 3


def long_name() -> Iterator[bytes]:
    """Return a gzip header with an endless file name (RFC 1952, 2.3.1)."""
    return itertools.chain([b"\x1f\x8b\x08\x08" + bytes(6)], itertools.repeat(b"x" * 65536))


def padding() -> Iterator[bytes]:
    return itertools.chain([lzma.compress(b"little")], itertools.repeat(bytes(65536)))


def empty_blocks() -> Iterator[bytes]:
    return itertools.chain([b"\x28\xb5\x2f\xfd\x00\x58"], itertools.repeat(bytes(3) * 20000))


def large_skippable_frame() -> Iterator[bytes]:
    return itertools.chain(
        [pack("zstd", b"little") + b"\x50\x2a\x4d\x18\xff\xff\xff\xff"], itertools.repeat(bytes(65536))
    )


@pytest.mark.parametrize("endless", [long_name, padding, empty_blocks, large_skippable_frame])
def test_data_of_which_nothing_comes_out_is_limited(
    endless: Callable[[], Iterator[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decompress_module, "MOST_INPUT", 10 * MIB)
    with refused(
        InvalidInput,
        says="path: '/srv/image' is not accepted: * data is expected, and of the first 10* bytes only * come out.",
    ):
        for _ignored in decompress(endless(), limit=MIB, path="/srv/image"):
            pass


@pytest.mark.parametrize(
    ("tool", "compress"), [("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)]
)
def test_time_is_limited(tool: str, compress: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompress_module, "CPU_SECONDS", 0)
    monkeypatch.setattr(decompress_module, "BYTES_PER_CPU_SECOND", 1 << 60)
    with refused(
        InvalidInput,
        says=f"path: '/srv/image' is not accepted: {tool} data that takes at most 0 seconds of CPU "
        "time so far is expected.",
    ):
        unpack(compress(DATA))


def test_so_is_that_of_zstd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompress_module, "CPU_SECONDS", 1)
    monkeypatch.setattr(decompress_module, "BYTES_PER_CPU_SECOND", 1 << 60)
    with refused(
        InvalidInput,
        option="path",
        names=["zstd", "SIGKILL"],
    ):
        for _ignored in decompress(itertools.repeat(pack("zstd", DATA, "-19")), limit=1 << 50, path="/srv/image"):
            pass


def a_zip() -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("image", DATA)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_archives_are_refused(tar: bytes, size: int) -> None:
    for data, kind in ((tar, "tar"), (a_zip(), "zip")):
        with refused(
            InvalidInput,
            says=f"path: '/srv/image' is not accepted: an image is expected, and this is a {kind} archive: "
            "unpack it and give the path of the image; format: raw stores it as it is.",
        ):
            unpack(data, size=size)


@pytest.mark.parametrize("tool", TOOLS)
def test_so_are_compressed_ones(tar: bytes, tool: str) -> None:
    for data, kind in ((tar, "tar"), (a_zip(), "zip")):
        with refused(InvalidInput, option="path", names=[kind]):
            unpack(pack(tool, data))


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_a_disk_is_no_archive_though_it_begins_like_one(size: int) -> None:
    """The sign of the disk, the magic number of btrfs, is far from the beginning."""
    disk = b"\x1f\x9d\x90" + b"\7" * 65597 + b"_BHRfS_M" + DATA
    assert unpack(disk, size=size) == disk
    with refused(
        InvalidInput,
        says="path: '/srv/image' is not accepted: an image is expected, and this is compressed with "
        "compress: decompress it first; format: raw stores it as it is.",
    ):
        unpack(disk.replace(b"_BHRfS_M", b"12345678"), size=size)


def test_compressed_twice_is_refused() -> None:
    with refused(
        InvalidInput,
        says="path: '/srv/image' is not accepted: an image that is compressed once is expected, and "
        "inside xz there is gzip again.",
    ):
        unpack(pack("xz", pack("gzip", DATA)))


def test_reads_no_more_than_it_must() -> None:
    given = []

    def chunks() -> Iterator[bytes]:
        for piece in pieces(pack("gzip", os.urandom(10 * MIB)), 1000):
            given.append(piece)
            yield piece

    assert next(decompress(chunks(), limit=20 * MIB, path="/srv/image"))
    assert len(given) < 5


def test_errors_show_no_password() -> None:
    with refused(InvalidInput, option="path", value="https://host/image?...") as caught:
        unpack(b"1234", limit=1, path="https://user:secret@host/image?signature=secret")
    assert "secret" not in str(caught.value) + repr(caught.value.value)


def test_a_missing_zstd_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = pack("zstd", DATA)
    monkeypatch.setenv("PATH", str(tmp_path))
    with refused(CommandMissing, names=["'zstd'", "package zstd"]):
        unpack(stream)
