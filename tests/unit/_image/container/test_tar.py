# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tar archives read as a stream: those of GNU tar in all its formats, and hostile ones."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.byte_stream import (
    ByteStream,
    FileStream,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.tar import (
    BadArchive,
    read_entries,
)
from container_images import make_tar, special
from refusal import refused

#: Options of tar(1) for each format, sparse or not.
FORMATS = [
    [f"--format={kind}", *sparse]
    for kind in ("gnu", "pax")
    for sparse in (
        [],
        ["--sparse"],
        *([["--sparse", f"--sparse-version={version}"] for version in ("0.0", "0.1")] if kind == "pax" else []),
    )
] + [["--format=ustar"], ["--format=v7"]]

DEEP = "d" * 90 + "/" + "e" * 90


def in_pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def content_of(data: bytes, *, most: int = 100, size: int = 1000) -> dict[str, bytes | str]:
    """Return the content of the files by name, and the type of all other entries."""
    stream = ByteStream(in_pieces(data, size))
    return {
        entry.name: b"".join(entry.read(stream)) if entry.kind == "0" else entry.kind
        for entry in read_entries(stream, most=most)
    }


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a sparse file that has more pieces of data than a header of tar, and a long name."""
    root = tmp_path_factory.mktemp("tree")
    with (root / "sparse").open("wb") as file:
        for number in range(60):
            file.seek(number << 17)
            file.write(os.urandom(5000))
        file.truncate((8 << 20) + 1)
    (root / DEEP).parent.mkdir()
    (root / DEEP).write_bytes(b"deep")
    (root / "link").symlink_to("t" * 150)
    return root


@pytest.mark.parametrize("options", FORMATS, ids=" ".join)
@pytest.mark.parametrize("size", [511, 1 << 20])
def test_archives_of_gnu_tar(tree: Path, options: list[str], size: int) -> None:
    names = ["sparse"] if options == ["--format=v7"] else ["sparse", DEEP]
    names += [] if options[0] in ("--format=v7", "--format=ustar") else ["link"]
    data = subprocess.run(["tar", "-C", tree, *options, "-cf", "-", *names], stdout=subprocess.PIPE, check=True).stdout
    if "--sparse" in options:
        assert len(data) < 1 << 20
    found = content_of(data, size=size)
    assert list(found) == names
    assert found["sparse"] == (tree / "sparse").read_bytes()
    assert found.get(DEEP, b"deep") == b"deep"
    assert found.get("link", "2") == "2"


def test_entries_that_are_not_read_are_skipped(tmp_path: Path) -> None:
    data = make_tar(("a", b"1" * 700), special("b", tarfile.DIRTYPE), ("c", b"2"))
    (tmp_path / "archive").write_bytes(data)
    with (tmp_path / "archive").open("rb") as file:
        for stream in (ByteStream(in_pieces(data, 100)), FileStream(file.fileno())):
            assert [(entry.name, entry.kind, entry.stored) for entry in read_entries(stream, most=3)] == [
                ("a", "0", 700),
                ("b/", "5", 0),
                ("c", "0", 1),
            ]
    with refused(BadArchive, says="an archive with at most 2 entries is expected"):
        content_of(data, most=2)


def header(name: str = "x", kind: bytes = b"0", size: int = 0, **fields: object) -> bytes:
    """Return a header with any size, without its data."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def damaged(data: bytes, position: int, replacement: bytes) -> bytes:
    """Return an archive with other bytes, and with the right checksum of the first header."""
    changed = bytearray(data)
    changed[position : position + len(replacement)] = replacement
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed[:512])
    return bytes(changed)


PAX = b"x"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (header(size=1), "it ends too early"),
        (header(size=1 << 62), None),
        (header()[:-1], None),
        (header(kind=b"L", size=600)[:512] + b"a" * 512, None),
        (header(kind=PAX, size=512) + b"9 path=x\n".ljust(512, b"\0"), None),
        (b"y" + header()[1:], "a header has a wrong checksum"),
        (b"x" * 512, None),
        (damaged(header(), 124, b"99999999999"), "a header has an invalid number"),
        (header(kind=b"L", size=(1 << 20) + 1), "an entry with at most 1048576 bytes of headers is expected"),
        (header(kind=PAX, size=1 << 40), None),
        ((header(kind=b"K", size=1) + b"a".ljust(512, b"\0")) * 20, "an entry with at most 16 headers is expected"),
        *(
            (header(kind=PAX, size=512) + text.ljust(512, b"\0") + header(), says)
            for text, says in [
                (b"9 path=", "an extended header is damaged"),
                (b"0 a=\n", None),
                (b"700 a=\n", None),
                (b"-9 path=x\n", None),
                (b"99999999999999999999 path=x\n", None),
                (b"path=x\n", None),
                (b"12 size=1e9\n", None),
            ]
        ),
    ],
)
def test_damaged_archives_are_refused(data: bytes, says: str | None) -> None:
    with refused(BadArchive, says=says):
        content_of(data)


def sparse_pax(lines: str, real: int, data: bytes = b"") -> bytes:
    """Return a sparse file in the format 1.0 of GNU, with any map."""
    body = lines.encode()
    body += bytes(-len(body) % 512) + data
    info = tarfile.TarInfo("x")
    info.size = len(body)
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(real)}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(body))
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (sparse_pax("1\n100\n5\n", 104, b"abcde"), "the map of a sparse file is damaged"),
        (sparse_pax("2\n10\n5\n12\n1\n", 100, b"abcdef"), None),
        (sparse_pax("", 100), None),
        (sparse_pax("1" * 600, 100), None),
        (sparse_pax("1048577\n", 100), "a sparse file with at most 1048576 pieces is expected"),
        (sparse_pax("x\n", 100), None),
        (sparse_pax("1\n0\n2000000\n", 4000000, b"abc"), None),
        # The data of the file reaches into the next entry.
        (sparse_pax("1\n0\n1500\n", 4000, b"abc"), "a sparse file has more data than its size"),
    ],
)
def test_damaged_maps_are_refused(data: bytes, says: str | None) -> None:
    with refused(BadArchive, says=says):
        content_of(data)


def test_a_sparse_file_of_any_size_takes_no_memory() -> None:
    """The reader of the file refuses its size, before the zeros are counted."""
    stream = ByteStream([sparse_pax("0\n", 1 << 60)])
    (entry,) = read_entries(stream, most=2)
    assert (entry.size, entry.stored) == (1 << 60, 512)
