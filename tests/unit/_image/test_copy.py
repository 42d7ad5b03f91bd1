# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies from file to file, verified with cmp, du, filefrag and sha256sum."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CommandFailed,
    InvalidInput,
    NoSpace,
    StaleState,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.throttle import throttle
from ansible_collections.granary.vmstore.plugins.module_utils._image import copy as copying
from ansible_collections.granary.vmstore.plugins.module_utils._image.copy import (
    copy_local,
    creation_options,
    write_stream,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.room import capacity, room
from refusal import refused

MEBIBYTE = 2**20


@contextlib.contextmanager
def open_files(source: Path, target: Path) -> Iterator[tuple[int, int]]:
    with open(source, "rb") as reading, open(target, "x+b") as writing:
        yield reading.fileno(), writing.fileno()


def output(*argv: object) -> str:
    return subprocess.run([str(each) for each in argv], check=True, stdout=subprocess.PIPE, text=True).stdout


def get_allocated_kib(path: Path) -> int:
    """Return the allocated size in KiB."""
    return int(output("du", "--block-size=1K", path).split()[0])


@pytest.fixture
def source(tmpfs: Path) -> Path:
    """Write 5 MiB and 3 bytes: data, a hole, data with unaligned ends, a hole at the end."""
    path = tmpfs / "source"
    with open(path, "wb") as file:
        file.write(random.Random(1).randbytes(MEBIBYTE))
        file.seek(3 * MEBIBYTE + 100)
        file.write(b"x" * 5000)
        file.truncate(5 * MEBIBYTE + 3)
    return path


@pytest.mark.parametrize("options", [{}, {"bandwidth": 10**9}, {"digests": "sha256"}])
def test_a_copy_is_the_same_and_keeps_holes(source, tmp_path, options):
    digest = hashlib.new(options["digests"]) if "digests" in options else None
    if digest is not None:
        options = {"digests": [digest]}
    with open_files(source, tmp_path / "target") as (reading, writing):
        copy_local(reading, writing, **options)
    assert output("cmp", source, tmp_path / "target") == ""
    assert get_allocated_kib(tmp_path / "target") <= get_allocated_kib(source) == 1024 + 8
    if digest is not None:
        assert output("sha256sum", tmp_path / "target").split()[0] == digest.hexdigest()


@pytest.mark.parametrize("options", [{}, {"bandwidth": 10**9}])
def test_without_sparse_holes_get_storage(source, tmp_path, options):
    with open_files(source, tmp_path / "target") as (reading, writing):
        copy_local(reading, writing, sparse=False, **options)
    assert output("cmp", source, tmp_path / "target") == ""
    assert get_allocated_kib(tmp_path / "target") >= 5 * 1024


def test_an_empty_file(tmp_path):
    (tmp_path / "empty").touch()
    for number, options in enumerate([{}, {"bandwidth": 1}, {"sparse": False}]):
        with open_files(tmp_path / "empty", tmp_path / f"target{number}") as (reading, writing):
            copy_local(reading, writing, **options)
        assert (tmp_path / f"target{number}").stat().st_size == 0


def test_zeros_become_holes_where_the_file_system_tells_no_holes(datastore):
    """On the simulated datastore lseek(2) reports all of a file as data."""
    path = datastore.path()
    subprocess.run(["truncate", "-s", "1M", str(path / "source")], check=True)
    with open_files(path / "source", path / "target") as (reading, writing):
        copy_local(reading, writing)
    assert (path / "target").stat().st_size == MEBIBYTE
    assert get_allocated_kib(path / "target") == 0


def test_data_is_shared_and_read_once_for_the_checksum(xfs):
    data = random.Random(2).randbytes(2 * MEBIBYTE)
    (xfs / "source").write_bytes(data)
    digest = hashlib.sha256()
    with open_files(xfs / "source", xfs / "target") as (reading, writing):
        copy_local(reading, writing, digests=[digest])
        os.fsync(writing)
    assert "shared" in output("filefrag", "-v", xfs / "target")
    assert digest.hexdigest() == output("sha256sum", xfs / "source").split()[0]


def test_between_file_systems(source, xfs):
    with open_files(source, xfs / "target") as (reading, writing):
        copy_local(reading, writing)
    assert output("cmp", source, xfs / "target") == ""
    assert get_allocated_kib(xfs / "target") < 2 * 1024  # XFS may preallocate some space at the end of a file


def test_a_full_file_system(source, tmpfs):
    os.truncate(source, 64 * MEBIBYTE)
    with (
        refused(NoSpace, says="Could not write an image: No space left on device. Nothing was changed."),
        open_files(source, tmpfs / "target") as (reading, writing),
    ):
        copy_local(reading, writing, sparse=False)
    (tmpfs / "target").unlink()
    with refused(NoSpace, names=[os.strerror(errno.ENOSPC)]), open(tmpfs / "target", "xb") as file:
        write_stream((b"x" * MEBIBYTE for _number in range(65)), file.fileno())


def test_a_source_that_becomes_shorter(source, tmp_path, monkeypatch):
    real = os.pread

    def shorten(descriptor: int, size: int, position: int) -> bytes:
        os.truncate(source, 10)
        return real(descriptor, size, position)

    monkeypatch.setattr(os, "pread", shorten)
    with refused(StaleState), open_files(source, tmp_path / "target") as (reading, writing):
        copy_local(reading, writing, bandwidth=10**9)


@pytest.mark.parametrize("seed", range(20))
def test_a_stream_of_any_chunks(tmp_path, seed):
    """The file is the sum of all chunks, and has holes exactly for blocks of zeros."""
    choose = random.Random(seed)
    data = b"".join(
        choose.choice([bytes, choose.randbytes])(choose.choice([1, 4095, 4096, 10_000, 2 * MEBIBYTE]))
        for _number in range(30)
    )
    ends = sorted(choose.sample(range(len(data)), 50))
    chunks = [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]
    digest = hashlib.md5()
    with open(tmp_path / "target", "xb") as file:
        assert write_stream(iter(chunks), file.fileno(), digests=[digest]) == len(data)
    assert (tmp_path / "target").read_bytes() == data
    assert output("md5sum", tmp_path / "target").split()[0] == digest.hexdigest()
    blocks = sum(any(data[start : start + 4096]) for start in range(0, len(data), 4096))
    assert (
        0 <= get_allocated_kib(tmp_path / "target") - blocks * 4 <= 16
    )  # a file system may count its own blocks for many extents


def test_a_stream_without_sparse(tmp_path):
    with open(tmp_path / "target", "xb") as file:
        write_stream(iter([bytes(MEBIBYTE)]), file.fileno(), sparse=False)
    assert get_allocated_kib(tmp_path / "target") == 1024


def test_a_stream_has_a_limit_that_holes_do_not_count_for(tmp_path):
    data = [b"x" * MEBIBYTE, bytes(5 * MEBIBYTE), b"x" * MEBIBYTE]
    with open(tmp_path / "target", "xb") as file:
        assert write_stream(data, file.fileno(), limit=2 * MEBIBYTE) == 7 * MEBIBYTE
    for more, sparse in ([*data, b"x"], True), (data, False):
        (tmp_path / "target").unlink()
        sentence = (
            "Could not store http://host/x: it has more data than the 2097152 bytes that there is room for. Nothing "
            "was changed."
        )
        with refused(NoSpace, says=sentence), open(tmp_path / "target", "xb") as file:
            write_stream(more, file.fileno(), limit=2 * MEBIBYTE, sparse=sparse, path="http://host/x")


def test_the_room_of_a_file_system(tmpfs):
    """The room is the free space, less 16 MiB on a small file system."""
    directory = os.open(tmpfs, os.O_RDONLY)
    try:
        whole, free = capacity(directory), room(directory)
        assert (whole, free) == (capacity(str(tmpfs)), room(str(tmpfs)))
        assert free == pytest.approx(whole - 16 * MEBIBYTE, abs=8192)
        (tmpfs / "taken").write_bytes(bytes(20 * MEBIBYTE))
        assert capacity(directory) == whole
        assert room(directory) == pytest.approx(free - 20 * MEBIBYTE, abs=8192)
        (tmpfs / "more").write_bytes(bytes(30 * MEBIBYTE))
        assert room(directory) == pytest.approx((whole - 50 * MEBIBYTE) // 2, abs=8192)
    finally:
        os.close(directory)


def test_a_file_system_that_does_not_know_its_size():
    assert os.statvfs("/proc").f_blocks == 0
    assert room("/proc") == capacity("/proc") == 64 << 40


def test_what_a_stream_raises_is_not_blamed_on_the_image(tmp_path):
    def chunks() -> Iterator[bytes]:
        yield b"x"
        raise ConnectionResetError("the other side")

    with pytest.raises(ConnectionResetError), open(tmp_path / "target", "xb") as file:
        write_stream(chunks(), file.fileno())


def test_bandwidth(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    assert list(throttle([b"x" * 1000] * 5, 100)) == [b"x" * 1000] * 5
    assert now[0] == 50
    assert list(throttle([b"x"], None)) == [b"x"]


def convert(source: Path, source_format: str, target: Path | str, target_format: str, **options: object) -> None:
    with open(source, "rb") as reading, open(target, "ab") as writing:
        path = f"/proc/self/fd/{reading.fileno()}"
        copying.convert(
            path,
            source_format,
            writing.fileno(),
            target_format,
            reads={reading.fileno(): str(source)},
            timeout=60,
            **options,
        )


@pytest.mark.parametrize("image_format", ["qcow2", "vmdk"])
def test_convert(source, tmp_path, image_format):
    convert(source, "raw", tmp_path / "target", image_format)
    assert (
        output("qemu-img", "compare", "-f", "raw", "-F", image_format, source, tmp_path / "target")
        == "Images are identical.\n"
    )
    if image_format == "qcow2":
        output("qemu-img", "check", tmp_path / "target")


def test_convert_never_guesses_a_format(tmp_path):
    """A raw disk stays raw, even if its guest wrote a qcow2 header to it."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "source"), "1M"], check=True)
    convert(tmp_path / "source", "raw", tmp_path / "target", "raw")
    size = (tmp_path / "source").stat().st_size
    assert (tmp_path / "target").read_bytes()[:size] == (tmp_path / "source").read_bytes()


def test_convert_with_options_and_without_sparse(source, tmp_path):
    convert(source, "raw", tmp_path / "target", "qcow2", options="cluster_size=2M,compat=0.10", sparse=False)
    told = output("qemu-img", "info", tmp_path / "target")
    assert "cluster_size: 2097152" in told
    assert "compat: 0.10" in told
    assert get_allocated_kib(tmp_path / "target") >= 5 * 1024


def test_convert_writes_to_the_same_file_while_it_is_locked(source, tmp_path):
    from ansible_collections.granary.vmstore.plugins.module_utils._image.new_image import new_image

    with new_image(str(tmp_path)) as part:
        convert(source, "raw", part.file, "qcow2")
        assert (tmp_path / part.name).stat().st_ino == os.fstat(part.fd).st_ino
        assert os.pread(part.fd, 3, 0) == b"QFI"


def test_convert_fails(tmp_path):
    (tmp_path / "source").write_bytes(b"QFI\xfb\0\0\0\3".ljust(1024, b"\0"))
    with refused(CommandFailed, names=["'qemu-img'", tmp_path / "source"]):
        convert(tmp_path / "source", "qcow2", tmp_path / "target", "raw")
    (tmp_path / "source").write_bytes(b"no image".ljust(1024, b"\0"))
    with refused(
        InvalidInput,
        says=f"image: '{tmp_path}/source' is not accepted: a qcow2 image with a size in its header is expected.",
    ):
        convert(tmp_path / "source", "qcow2", tmp_path / "target", "raw")


HOSTILE = [
    "backing_file=/etc/shadow",
    "data_file=x",
    "-o cluster_size=1M",
    "cluster_size=1M,",
    "compat=1.1;id",
    "cluster_size=$(id)",
    "compat=1.1\n",
]


@pytest.mark.parametrize("options", HOSTILE)
def test_options_that_are_refused(options):
    with refused(
        InvalidInput,
        says=f"qcow2_options: {options!r} is not accepted: name=value[,name=value...] is expected, "
        "with names of cluster_size, compat, compression_type, extended_l2, lazy_refcounts, "
        "nocow, preallocation, refcount_bits.",
    ):
        creation_options(options)


def test_the_kernel_may_not_know_copy_file_range(source, tmp_path, monkeypatch):
    def unknown(*_arguments: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(copying.os, "copy_file_range", unknown)
    with open_files(source, tmp_path / "target") as (reading, writing):
        copy_local(reading, writing)
    assert output("cmp", source, tmp_path / "target") == ""
    assert get_allocated_kib(tmp_path / "target") <= 1024 + 8
