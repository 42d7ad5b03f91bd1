# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Raw disks that are shorter than their own tables claim, and raw disks of any other content, which are accepted."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from pathlib import Path
from zlib import crc32

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._image.checked_image import check_image
from ansible_collections.granary.vmstore.plugins.module_utils._image.image_file import opened_file
from ansible_collections.granary.vmstore.plugins.module_utils._image.raw_tables import own_sizes
from refusal import refused

MIB = 1 << 20

#: Name of the superblock in messages, the command, its package, and the size in bytes of the disk.
FILE_SYSTEMS = [
    ("ext2/3/4", "mkfs.ext2 -q -F", "e2fsprogs", 20 * MIB),
    ("ext2/3/4", "mkfs.ext3 -q -F -b 1024", "e2fsprogs", 20 * MIB),
    ("ext2/3/4", "mkfs.ext4 -q -F -O 64bit", "e2fsprogs", 200 * MIB),
    ("ext2/3/4", "mkfs.ext4 -q -F -O ^64bit -b 4096", "e2fsprogs", 333 * MIB),
    ("XFS", "mkfs.xfs -q -f", "xfsprogs", 400 * MIB),
    ("XFS", "mkfs.xfs -q -f -m crc=0 -b size=1024", "xfsprogs", 400 * MIB),
    ("NTFS", "mkfs.ntfs -q -F -f", "ntfs-3g", 20 * MIB),
    ("FAT", "mkfs.vfat", "dosfstools", 4 * MIB),
    ("FAT", "mkfs.vfat -F 16", "dosfstools", 32 * MIB),
    ("FAT", "mkfs.vfat -F 32", "dosfstools", 64 * MIB),
    ("exFAT", "mkfs.exfat", "exfatprogs", 20 * MIB),
    ("btrfs", "mkfs.btrfs -q -f", "btrfs-progs", 200 * MIB),
    ("F2FS", "mkfs.f2fs -q -f", "f2fs-tools", 100 * MIB),
    ("swap", "mkswap", "util-linux", 10 * MIB),
]


def warnings_of(path: Path, verify: bool = True) -> tuple[str, ...]:
    with opened_file(str(path)) as descriptor:
        return check_image(descriptor, path=str(path), verify=verify)[1]


def assert_short(path: Path, table: str, told: int) -> None:
    length = path.stat().st_size
    with refused(
        InvalidInput,
        says=f"path: '{path}' is not accepted: a whole, sound image is expected, and by its {table} "
        f"the disk has {told} bytes, of which {length} are there; verify: false stores it "
        "nevertheless.",
    ):
        warnings_of(path)
    assert len(warnings_of(path, verify=False)) == 1


def sizes(data: bytes) -> list[tuple[str, int]]:
    return [
        (own.table, own.size) for own in own_sizes(lambda offset, size: data[offset : offset + size].ljust(size, b"\0"))
    ]


def disk(path: Path, size: int) -> Path:
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def patch(path: Path, offset: int, data: bytes) -> Path:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)
    return path


@pytest.mark.parametrize(("name", "command", "package", "size"), FILE_SYSTEMS)
def test_a_file_system(tmp_path: Path, name: str, command: str, package: str, size: int) -> None:
    path = disk(tmp_path / "disk", size)
    program, *arguments = command.split()
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        pytest.fail(f"{program} is missing: install the package {package}")
    subprocess.run([found, *arguments, path], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert not warnings_of(path)
    with open(path, "rb") as file:
        ((table, told),) = sizes(file.read(MIB))
    assert table == f"{name} superblock"
    assert size - 2 * MIB <= told <= size
    os.truncate(path, told)
    assert not warnings_of(path)
    os.truncate(path, told - 1)
    assert_short(path, table, told)
    os.truncate(path, size // 2)
    assert_short(path, table, told)
    os.truncate(path, size + 12345)
    assert not warnings_of(path)


def test_squashfs(tmp_path: Path) -> None:
    """The superblock has version 4 (squashfs_fs.h of the kernel)."""
    block = struct.pack("<4sIIIIHHHHHHQQ", b"hsqs", 1, 0, 131072, 0, 1, 17, 0, 1, 4, 0, 0, 3 * MIB)
    path = patch(disk(tmp_path / "disk", 3 * MIB), 0, block)
    assert not warnings_of(path)
    os.truncate(path, 2 * MIB)
    assert_short(path, "squashfs superblock", 3 * MIB)


def mbr(*entries: tuple[int, int, int, int]) -> bytes:
    """Return an MBR with status, type, first sector and number of sectors of each partition."""
    return bytes(446) + b"".join(struct.pack("<B3xB3xII", *entry) for entry in entries).ljust(64, b"\0") + b"\x55\xaa"


def gpt(size: int, sector: int, **changes: int) -> bytes:
    """Return the protective MBR and the header of a GPT on a disk of ``size`` bytes."""
    last = size // sector - 1
    header = struct.pack("<8sIIII", b"EFI PART", 0x10000, 92, 0, 0) + struct.pack(
        "<QQQQ16sQIII", 1, last, 34, last - 33, b"guid" * 4, 2, 128, 128, 0
    )
    header = header[:16] + struct.pack("<I", crc32(header)) + header[20:]
    return mbr((0, 0xEE, 1, min(last, 0xFFFFFFFF))).ljust(sector, b"\0") + header.ljust(sector, b"\0")


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_gpt(tmp_path: Path, sector: int) -> None:
    path = patch(disk(tmp_path / "disk", 10 * MIB), 0, gpt(10 * MIB, sector))
    assert not warnings_of(path)
    os.truncate(path, 10 * MIB - 1)
    assert_short(path, "GPT", 10 * MIB)
    patch(path, sector + 24, b"\2")  # the checksum doesn't match
    assert not warnings_of(path)


def test_a_gpt_of_an_earlier_use(tmp_path: Path) -> None:
    path = patch(patch(disk(tmp_path / "disk", 10 * MIB), 0, gpt(100 * MIB, 512)), 0, mbr((0x80, 0x83, 2048, 2048)))
    assert not warnings_of(path)


def test_an_mbr(tmp_path: Path) -> None:
    path = patch(disk(tmp_path / "disk", 10 * MIB), 0, mbr((0x80, 0x83, 2048, 2048), (0, 0x82, 4096, 16384)))
    assert not warnings_of(path)
    os.truncate(path, 10 * MIB - 1)
    assert_short(path, "MBR", 10 * MIB)


@pytest.mark.parametrize(
    "sector",
    [
        mbr(),
        mbr((1, 0x83, 2048, 1 << 30)),
        mbr((0, 0, 2048, 1 << 30)),
        mbr((0, 0x83, 0, 1 << 30)),
        mbr((0, 0x83, 2048, 0)),
        mbr((0, 0x83, 2048, 1 << 30), (0, 0x83, 4096, 1 << 30)),
        mbr((0x80, 0x83, 2048, 4096), (0x80, 0x83, 8192, 1 << 30)),
        mbr((0, 0xEE, 1, 1 << 30)),
        mbr((0, 0x83, 2048, 1 << 30))[:-1] + b"\0",
    ],
)
def test_what_is_no_mbr(sector: bytes) -> None:
    assert not sizes(sector)


def test_a_boot_sector_is_no_mbr(tmp_path: Path) -> None:
    path = disk(tmp_path / "disk", 4 * MIB)
    subprocess.run(["/usr/sbin/mkfs.vfat", path], check=True, stdout=subprocess.DEVNULL)
    patch(path, 446, mbr((0, 0x83, 2048, 1 << 30))[446:])
    assert not warnings_of(path)


def iso(path: Path, *options: str) -> Path:
    (path.parent / "content").write_bytes(random.Random(0).randbytes(MIB))
    command = ["xorriso", "-as", "mkisofs", "-quiet", *options, "-o", path, path.parent / "content"]
    if shutil.which("xorriso") is None:
        pytest.fail("xorriso is missing: install the package xorriso")
    subprocess.run(list(map(str, command)), check=True, stderr=subprocess.DEVNULL)
    return path


@pytest.mark.parametrize("options", [(), ("-partition_offset", "16"), ("-J", "-no-pad")])
def test_an_iso_image(tmp_path: Path, options: tuple[str, ...]) -> None:
    path = iso(tmp_path / "iso", *options)
    assert not warnings_of(path)
    ((table, told),) = [one for one in sizes(path.read_bytes()) if one[0].startswith("ISO")]
    os.truncate(path, told - 1)
    assert_short(path, table, told)


def test_a_hybrid_with_a_partition_behind_the_volume(tmp_path: Path) -> None:
    partition = disk(tmp_path / "partition", MIB)
    path = iso(tmp_path / "iso", "-append_partition", "2", "0xef", str(partition), "-appended_part_as_gpt")
    assert not warnings_of(path)
    tables = dict(sizes(path.read_bytes()))
    assert sorted(tables) == ["GPT", "ISO 9660 volume descriptor"]
    os.truncate(path, tables["GPT"] - 1)
    assert_short(path, "GPT", tables["GPT"])


def test_random_content_has_no_tables() -> None:
    """The random content includes single numbers of a table by chance."""
    choose = random.Random("raw")
    magics = (
        (510, b"\x55\xaa"),
        (1080, b"\x53\xef"),
        (0, b"XFSB"),
        (3, b"NTFS    "),
        (32769, b"CD001"),
        (65600, b"_BHRfS_M"),
        (512, b"EFI PART"),
        (0, b"hsqs"),
    )
    for _round in range(300):
        data = bytearray(choose.randbytes(80 << 10))
        for offset, magic in choose.sample(magics, choose.randrange(4)):
            data[offset : offset + len(magic)] = magic
        assert not sizes(data)
