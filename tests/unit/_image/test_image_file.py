# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
import random
import socket
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CommandMissing,
    FileAccessFailed,
    InvalidInput,
    TimedOut,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image import image_file
from ansible_collections.granary.vmstore.plugins.module_utils._image import qemu_img as qemu_img_command
from ansible_collections.granary.vmstore.plugins.module_utils._image.image_file import (
    HEAD_SIZE,
    LARGEST,
    ImageFile,
    opened_file,
    virtual_size,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.magic import sniff
from refusal import refused

MIB = 1 << 20
TIB = 1 << 40


def inspect(path: str, **options: object) -> ImageFile:
    with opened_file(path) as descriptor:
        return image_file.inspect(descriptor, path=path, **options)


#: Format, options of qemu-img create, size in bytes.
REAL_IMAGES = [
    ("raw", "", 100 * MIB),
    ("raw", "", 64 * TIB // 8),
    ("qcow2", "", 100 * MIB),
    ("qcow2", "", 64 * TIB),
    ("qcow2", "compat=0.10", 10 * MIB),
    ("qcow2", "cluster_size=512", 100 * MIB),
    ("qcow2", "cluster_size=2M,preallocation=metadata,extended_l2=on", 100 * MIB),
    ("qcow2", "preallocation=falloc,lazy_refcounts=on,compression_type=zstd", 10 * MIB),
    ("vmdk", "", 100 * MIB),
    ("vmdk", "", 2 * TIB),
    ("vmdk", "subformat=streamOptimized", 100 * MIB),
    ("vdi", "", 100 * MIB),
    ("vdi", "", 8 * TIB),
    ("vdi", "static=on", 10 * MIB),
    ("vhdx", "", 100 * MIB),
    ("vhdx", "", 2 * TIB),
    ("vhdx", "subformat=fixed", 10 * MIB),
    ("vpc", "", 100 * MIB),
    ("vpc", "", 200 << 30),
    ("vpc", "force_size=on", 100 * MIB),
]


def qemu_img(*arguments: object) -> str:
    return subprocess.run(["qemu-img", *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True).stdout


def create(path: Path, image_format: str = "qcow2", size: int = MIB, options: str = "") -> Path:
    qemu_img("create", "-q", "-f", image_format, *(["-o", options] if options else []), path, size)
    return path


def patch(path: Path, offset: int, data: bytes) -> Path:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)
    return path


def head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(HEAD_SIZE)


def vhd_footer(path: Path, offset: int, data: bytes) -> None:
    footer = head(patch(patch(path, offset, data), 64, bytes(4)))[:512]
    patch(path, 64, struct.pack(">I", ~sum(footer) & 0xFFFFFFFF))


@pytest.fixture
def refused_unseen(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], str]:
    """Return the reason of a refusal without qemu-img: code that runs qemu-img gets another error."""

    def reason(path: Path) -> str:
        with monkeypatch.context() as patched, pytest.raises(InvalidInput) as caught:
            patched.setenv("PATH", "/nowhere")
            inspect(str(path))
        return str(caught.value)

    return reason


# Formats of images


@pytest.mark.parametrize(("image_format", "options", "size"), REAL_IMAGES)
def test_real_images_are_what_qemu_img_says(tmp_path: Path, image_format: str, options: str, size: int) -> None:
    path = create(tmp_path / "image", image_format, size, options)
    told = json.loads(qemu_img("info", "--output=json", "-f", image_format, path))
    blocks = subprocess.run(["stat", "-c", "%b", path], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert told["virtual-size"] >= size
    assert inspect(str(path)) == ImageFile(image_format, told["virtual-size"], int(blocks) * 512)
    assert virtual_size(head(path), path.stat().st_size) == told["virtual-size"]


@pytest.mark.parametrize("image_format", ["qcow2", "vmdk", "vdi", "vhdx", "vpc"])
def test_the_length_of_the_whole_is_needed_for_raw_only(tmp_path: Path, image_format: str) -> None:
    assert virtual_size(head(create(tmp_path / "image", image_format)), None) >= MIB
    with refused(
        InvalidInput,
        says="source: 'http://x/y' is not accepted: its size isn't known, because neither its "
        "beginning nor the server has the size.",
    ):
        virtual_size(bytes(1024), None, option="source", path="http://x/y")


@pytest.mark.parametrize(
    ("creator", "by_geometry"), [(b"vpc ", True), (b"win ", False), (b"d2v ", False), (b"tap\0", False)]
)
def test_the_size_of_a_vhd_depends_on_who_made_it(tmp_path: Path, creator: bytes, by_geometry: bool) -> None:
    path = create(tmp_path / "image", "vpc", 100 * MIB)
    before = virtual_size(head(path), None)
    vhd_footer(path, 28, creator)
    vhd_footer(path, 48, struct.pack(">Q", before - 512))
    told = json.loads(qemu_img("info", "--output=json", "-f", "vpc", path))["virtual-size"]
    assert virtual_size(head(path), None) == told == (before if by_geometry else before - 512)


def test_what_is_not_a_disk_image_is_told_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "hello"
    file.write_text("hello\n")
    with tarfile.open(tmp_path / "tar", "w") as tar, zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        tar.add(file)
        archive.write(file)
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", "-o", tmp_path / "iso", file], check=True)
    contents = {
        "gzip": gzip.compress(b"x"),
        "bzip2": bz2.compress(b"x"),
        "xz": lzma.compress(b"x"),
        "zstd": subprocess.run(["zstd", "-q"], input=b"x", check=True, stdout=subprocess.PIPE).stdout,
        "raw": b"x",
        **{name: (tmp_path / name).read_bytes() for name in ("tar", "zip", "iso")},
    }
    for name, content in contents.items():
        assert sniff(content) == name
        assert virtual_size(content, len(content)) == len(content)
        (tmp_path / "image").write_bytes(content)
        told = inspect(str(tmp_path / "image"))
        assert (told.format, told.virtual_size) == ("raw", len(content))
    assert sniff((tmp_path / "empty.zip").read_bytes()) == "zip"
    assert sniff(b"") == "raw"


def test_a_magic_number_elsewhere_means_nothing(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"\0" * 512 + struct.pack(">4sIQ", b"QFI\xfb", 3, 100) + b"\0" * 1000)
    assert inspect(str(path)) == ImageFile("raw", 1528, path.stat().st_blocks * 512)


def test_an_image_in_use_can_be_inspected(tmp_path: Path) -> None:
    path = create(tmp_path / "image")
    with subprocess.Popen(["qemu-io", "-f", "qcow2", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdout.read(9) == b"qemu-io> "
        assert inspect(str(path)).virtual_size == MIB
        user.communicate(b"quit\n")


def test_version_2_has_no_features_where_version_3_has_them(tmp_path: Path) -> None:
    path = create(tmp_path / "image", options="compat=0.10")
    patch(path, 72, struct.pack(">II4s8x", 0x12345678, 4, b"name"))  # an unknown extension
    assert inspect(str(path)).virtual_size == MIB


# References to other files


@pytest.mark.parametrize(
    "name", ["/etc/passwd", 'json:{"driver":"file","filename":"/etc/shadow"}', "nbd://127.0.0.1:1/x", "image.base"]
)
@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_a_backing_file(tmp_path: Path, refused_unseen: Callable[[Path], str], name: str, compat: str) -> None:
    path = tmp_path / "image"
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-o", f"compat={compat}", "-F", "raw", "-b", name, path, MIB)
    assert (
        refused_unseen(path)
        == f"path: '{path}' is not accepted: an image that stands alone is expected, and this qcow2 image has a "
        "backing file."
    )


def test_an_external_data_file(tmp_path: Path, refused_unseen: Callable[[Path], str]) -> None:
    path = create(tmp_path / "image", options=f"data_file={tmp_path}/data")
    assert "has an external data file" in refused_unseen(path)
    name = b'json:{"driver":"file","filename":"/etc/shadow"}'
    header = struct.unpack(">I", head(path)[100:104])[0]
    patch(path, header, struct.pack(">II", 0x44415441, len(name)) + name + bytes(16))
    assert "has an external data file" in refused_unseen(path)


DESCRIPTOR = b"""# Disk DescriptorFile
version=1
CID=12345678
parentCID=ffffffff
createType="monolithicFlat"
RW 2048 FLAT "/etc/passwd" 0
"""


def test_a_vmdk_with_extents_elsewhere(tmp_path: Path, refused_unseen: Callable[[Path], str]) -> None:
    path = tmp_path / "image"
    path.write_bytes(DESCRIPTOR)
    assert "this vmdk image is a descriptor of other files" in refused_unseen(path)
    # Without a capacity in the header, qemu uses the descriptor in the same file.
    create(path, "vmdk")
    patch(patch(path, 12, bytes(8)), 512, DESCRIPTOR + bytes(512))
    assert "/etc/passwd" in qemu_img("info", "-f", "vmdk", path)
    assert "this vmdk image is a descriptor of other files" in refused_unseen(path)
    with refused(
        InvalidInput,
        says="path: 'image' is not accepted: a whole image is expected, and the beginning of this "
        "vmdk image doesn't have its size.",
    ):
        virtual_size(head(path), None)
    patch(path, 0, b"COWD")
    assert "this vmdk image is a descriptor of other files" in refused_unseen(path)


def test_differences_to_a_parent(tmp_path: Path) -> None:
    path = tmp_path / "image"
    create(tmp_path / "parent", "vmdk")
    qemu_img("create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", tmp_path / "parent", path)
    with refused(
        InvalidInput,
        says=f"path: '{path}' is not accepted: an image that stands alone is expected, and this vmdk "
        "image has a backing file.",
    ):
        inspect(str(path))
    vhd_footer(create(path, "vpc"), 60, struct.pack(">I", 4))
    assert qemu_img("info", "-f", "vpc", path)  # the guest would get a disk with holes in it
    with refused(
        InvalidInput,
        says=f"path: '{path}' is not accepted: an image that stands alone is expected, and this vpc "
        "image holds the differences to another image.",
    ):
        inspect(str(path))
    patch(patch(create(path, "vdi"), 76, struct.pack("<I", 4)), 424, b"parent" * 4)
    with refused(
        InvalidInput,
        says=f"path: '{path}' is not accepted: a vdi image that qemu-img reads in 10 s of CPU time and "
        f"512 MiB is expected (*).",
    ):
        inspect(str(path))
    create(path, "vhdx")
    patch(
        path, head(path).index(bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")) - 32 + 65536 + 4, struct.pack("<I", 2)
    )
    with refused(
        InvalidInput,
        says=f"path: '{path}' is not accepted: a vhdx image that qemu-img reads in 10 s of CPU time "
        f"and 512 MiB is expected (qemu-img: Could not open '{path}': Could not open '{path}': "
        "Invalid argument).",
    ):
        inspect(str(path))


# Incomplete images


def test_only_a_regular_file_is_opened(tmp_path: Path, refused_unseen: Callable[[Path], str]) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening it would wait for a writer
    (tmp_path / "link").symlink_to(create(tmp_path / "image"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path in (
            tmp_path / "fifo",
            tmp_path / "link",
            tmp_path / "socket",
            tmp_path,
            Path("/dev/zero"),
            Path("/dev/kmsg"),
        ):
            assert refused_unseen(path) == f"image: '{path}' is not accepted: a regular file is expected."


def test_a_path_that_leads_nowhere(tmp_path: Path) -> None:
    with refused(FileAccessFailed, says=f"Could not read {tmp_path}/none: No such file or directory."):
        inspect(f"{tmp_path}/none")


def test_a_file_is_named_as_the_user_named_it(tmp_path: Path) -> None:
    path = tmp_path / "-o $(id) 'x' ü"
    assert inspect(str(create(path))).virtual_size == MIB
    with refused(InvalidInput, option="path", value=str(path), names=["7"]) as caught:
        inspect(str(patch(path, 4, b"\0\0\0\x07")))
    assert "/proc/" not in str(caught.value)


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (36, b"\xff" * 4),  # entries of the L1 table: 32 GiB
        (40, b"\xff" * 8),  # its offset
        (40, struct.pack(">Q", 1 << 30)),
        (48, struct.pack(">Q", 1 << 30)),  # offset of the refcount table
        (60, b"\xff" * 4),  # snapshots
        (64, struct.pack(">Q", 1 << 30)),  # offset of their table
    ],
)
def test_tables_behind_the_end(tmp_path: Path, refused_unseen: Callable[[Path], str], offset: int, data: bytes) -> None:
    path = patch(create(tmp_path / "image"), offset, data)
    assert "is not whole: its tables lie behind its end" in refused_unseen(path)


def test_an_interrupted_copy_of_an_image(tmp_path: Path, refused_unseen: Callable[[Path], str]) -> None:
    path = create(tmp_path / "image")
    os.truncate(path, 3 * 65536)
    assert "is not whole: its tables lie behind its end" in refused_unseen(path)


@pytest.mark.parametrize(
    ("image_format", "offset", "data"),
    [
        ("qcow2", 24, struct.pack(">Q", LARGEST + 512)),
        ("qcow2", 24, b"\xff" * 8),
        ("vmdk", 12, struct.pack("<Q", LARGEST // 512 + 1)),
        ("vdi", 368, struct.pack("<QII", 1 << 50, MIB, 0) + struct.pack("<I", 1 << 29)),
        ("vhdx", 0x310008, struct.pack("<Q", LARGEST + 512)),
        ("vpc", 28, b"win " + bytes(16) + b"\x7f" * 8),
    ],
)
def test_an_absurd_size(tmp_path: Path, image_format: str, offset: int, data: bytes) -> None:
    path = create(tmp_path / "image", image_format)
    patch(path, offset, data)
    with refused(
        InvalidInput,
        says="path: 'image' is not accepted: its virtual size is * bytes, and at most 70368744177664 "
        "(64 TiB) are accepted.",
    ):
        virtual_size(head(path), None)
    os.truncate(path, 8 << 30)  # holes for all tables
    with pytest.raises(InvalidInput):
        inspect(str(path))


def test_a_raw_file_can_be_too_large_as_well() -> None:
    assert virtual_size(b"", LARGEST) == LARGEST
    with refused(
        InvalidInput,
        option="path",
        value="image",
        names=[70368744177665],
    ):
        virtual_size(b"", LARGEST + 1)


@pytest.mark.parametrize("image_format", ["qcow2", "vmdk", "vdi", "vhdx", "vpc"])
def test_hostile_headers_end_in_an_answer_or_a_refusal(tmp_path: Path, image_format: str) -> None:
    path = create(tmp_path / "image", image_format)
    whole = head(path)
    chance = random.Random(image_format)
    spots = [*range(4, 128), *range(320, 400), *range(512, 600)]
    if image_format == "vhdx":
        spots += [
            *range(192 << 10, (192 << 10) + 80),
            *range(3 * MIB, 3 * MIB + 208),
            *range(3 * MIB + 65536, 3 * MIB + 65580),
        ]
    for round_number in range(2000):
        hostile = bytearray(whole[: chance.choice([len(whole), chance.randrange(4, 600)])])
        for spot in chance.sample([spot for spot in spots if spot < len(hostile)] or [3], 1):
            value = chance.choice([b"\0", b"\xff", b"\x7f", b"\x80"]) * chance.choice([1, 2, 4, 8])
            hostile[spot : spot + len(value)] = value
        with contextlib.suppress(InvalidInput):
            assert 0 <= virtual_size(bytes(hostile), len(hostile)) <= LARGEST
        if round_number % 40 == 0:
            path.write_bytes(hostile)
            with contextlib.suppress(InvalidInput):
                assert 0 <= inspect(str(path)).virtual_size <= LARGEST


# Limits


def with_bitmaps(path: Path, count: int, size: int, granularity: int) -> Path:
    """Create a sound qcow2 image with bitmaps of ``1 << granularity`` bytes a bit, which qemu loads when it opens the
    file.

    All bitmaps share one table.
    """
    create(path, size=size)
    cluster, entries = 65536, max(1, (size >> granularity) // 8 // 65536)
    table = -(-path.stat().st_size // cluster) * cluster
    directory = table + -(-entries * 8 // cluster) * cluster
    entry = b"".join(
        struct.pack(">QIIBBHI8s", table, entries, 2, 1, granularity, 8, 0, b"%08d" % number) for number in range(count)
    )
    patch(path, directory, entry + bytes(-len(entry) % cluster))
    patch(
        path,
        struct.unpack(">I", head(path)[100:104])[0],
        struct.pack(">IIIIQQQ", 0x23852875, 24, count, 0, len(entry), directory, 0),
    )
    return patch(path, 88, struct.pack(">Q", 1))


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_qemu_is_stopped_when_it_takes_too_much_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = with_bitmaps(tmp_path / "image", 8, 2 * TIB, 9)
    assert path.stat().st_size < MIB
    running = children()  # other tests of the process may have left some that hung
    with refused(
        InvalidInput,
        says=f"path: '{path}' is not accepted: a qcow2 image that qemu-img reads in 10 s of CPU time "
        "and 512 MiB is expected (*).",
    ):
        inspect(str(path))
    assert children() == running
    monkeypatch.setattr(qemu_img_command, "MEMORY", TIB)  # only the limit prevented the read
    assert inspect(str(path)).virtual_size == 2 * TIB


def test_qemu_is_stopped_when_it_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = with_bitmaps(tmp_path / "image", 65535, MIB, 16)  # more than 30 s of CPU time, for comparing names
    monkeypatch.setattr(qemu_img_command, "MEMORY", 2 << 30)  # the memory in use at that time differs between runs
    running = children()
    with refused(TimedOut, names=["'qemu-img'"]):
        inspect(str(path), timeout=0.2)
    assert children() == running
    monkeypatch.setattr(qemu_img_command, "CPU_SECONDS", 1)
    with refused(InvalidInput, option="path", value=str(path)):
        inspect(str(path), timeout=600)
    assert children() == running


def test_a_missing_qemu_img_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = create(tmp_path / "image")
    monkeypatch.setenv("PATH", "/nowhere")
    with refused(CommandMissing, names=["'qemu-img'", "package qemu-utils"]):
        inspect(str(path))
