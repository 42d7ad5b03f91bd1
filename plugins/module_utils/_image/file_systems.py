# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read the length of a file system from its superblock, for a raw disk without partitions.

Sizes are compared with the file, so a superblock counts only if its other fields are valid, too.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from .table_file import Read

#: Page sizes in bytes. A swap area has its mark at the end of the first page (mkswap(8)).
_PAGE_SIZES = (4096, 8192, 16384, 32768, 65536)


def file_system_size(read: Read) -> tuple[str, int | None]:
    """Return the name and the bytes of the file system at the beginning of a disk. The bytes are ``None`` for an
    unknown file system.

    :raises OSError: the disk can't be read.
    """
    for name, size_of in _FILE_SYSTEMS.items():
        size = size_of(read)
        if size:
            return name, size
    return "", None


def is_boot_sector(sector: bytes) -> bool:
    """Return whether the first sector of a disk belongs to a file system, and isn't an MBR."""
    return any(
        size_of(lambda offset, size: sector[offset : offset + size].ljust(size, b"\0"))
        for size_of in (_ntfs, _exfat, _fat)
    )


def _is_power(value: int, least: int, most: int) -> bool:
    return least <= value <= most and value & (value - 1) == 0


def _ext(read: Read) -> int | None:
    """Return the bytes of ext2, ext3 or ext4 (Linux, Documentation/filesystems/ext4/super.rst)."""
    block = read(1024, 1024)
    inodes, blocks, first, shift, per_group, inodes_per_group = struct.unpack_from("<II12xII4xI4xI", block)
    magic, revision, features = struct.unpack_from("<56xH18xI16xI", block)
    high = struct.unpack_from("<I", block, 336)[0]
    if magic != 0xEF53 or shift > 6 or revision > 1 or first != (shift == 0) or not per_group or not inodes_per_group:
        return None
    blocks += high << 32 if features & 0x80 else 0
    groups = -(-(blocks - first) // per_group)
    return blocks << (10 + shift) if inodes == groups * inodes_per_group else None


def _xfs(read: Read) -> int | None:
    """Return the bytes of XFS (Linux, fs/xfs/libxfs/xfs_format.h: struct xfs_dsb)."""
    block = read(0, 512)
    size, blocks, per_group, groups = struct.unpack_from(">4xIQ68xII", block)
    shift = block[120]
    if not block.startswith(b"XFSB") or not _is_power(size, 512, 65536) or size != 1 << shift:
        return None
    return blocks * size if (groups - 1) * per_group < blocks <= groups * per_group else None


def _ntfs(read: Read) -> int | None:
    """Return the bytes of NTFS (Linux, fs/ntfs3/ntfs.h: struct NTFS_BOOT). The header doesn't count the last sector, a
    copy of the first.
    """
    sector = read(0, 512)
    size, sectors = struct.unpack_from("<H", sector, 11)[0], struct.unpack_from("<Q", sector, 40)[0]
    reserved = any(sector[14:21]) or any(sector[22:24]) or any(sector[32:36])
    if (
        sector[3:11] != b"NTFS    "
        or sector[510:] != b"\x55\xaa"
        or not _is_power(size, 256, 4096)
        or not sector[13]
        or reserved
    ):
        return None
    return int(sectors * size)


def _exfat(read: Read) -> int | None:
    """Return the bytes of exFAT (Microsoft, exFAT file system specification, 3.1)."""
    sector = read(0, 512)
    sectors = struct.unpack_from("<Q", sector, 72)[0]
    if (
        sector[:11] != b"\xeb\x76\x90EXFAT   "
        or any(sector[11:64])
        or sector[510:] != b"\x55\xaa"
        or not 9 <= sector[108] <= 12
    ):
        return None
    return int(sectors << sector[108])


def _fat(read: Read) -> int | None:
    """Return the bytes of FAT (Microsoft, General Overview of On-Disk Format: fatgen103, "Boot Sector and BPB")."""
    sector = read(0, 512)
    size, cluster, reserved, tables, roots, short, media, long_table = struct.unpack_from("<HBHBHHBH", sector, 11)
    sectors = short or struct.unpack_from("<I", sector, 32)[0]
    name = sector[54:62] if long_table else sector[82:90]
    known = (b"FAT12   ", b"FAT16   ", b"FAT     ") if long_table else (b"FAT32   ",)
    if (
        sector[510:] != b"\x55\xaa"
        or sector[0] not in (0xEB, 0xE9)
        or name not in known
        or media not in (0xF0, *range(0xF8, 0x100))
    ):
        return None
    if (
        not _is_power(size, 512, 4096)
        or not _is_power(cluster, 1, 128)
        or not reserved
        or tables not in (1, 2)
        or bool(roots) != bool(long_table)
    ):
        return None
    return int(sectors * size)


def _btrfs(read: Read) -> int | None:
    """Return the bytes of btrfs on this device (Linux, include/uapi/linux/btrfs_tree.h: struct btrfs_super_block)."""
    block = read(65536, 4096)
    own, sector, node = struct.unpack_from("<Q", block, 48)[0], *struct.unpack_from("<II", block, 144)
    device, size = struct.unpack_from("<QQ", block, 201)
    if (
        block[64:72] != b"_BHRfS_M"
        or own != 65536
        or not device
        or not _is_power(sector, 4096, 65536)
        or not _is_power(node, 4096, 65536)
    ):
        return None
    return int(size)


def _f2fs(read: Read) -> int | None:
    """Return the bytes of F2FS (Linux, include/linux/f2fs_fs.h: struct f2fs_super_block)."""
    block = read(1024, 1024)
    magic, major, sector, per_block, shift, segment, blocks = struct.unpack_from("<IH2xIIII12xQ", block)
    if (
        magic != 0xF2F52010
        or major != 1
        or not 9 <= sector <= 12
        or shift != sector + per_block
        or not 12 <= shift <= 16
        or segment != 9
    ):
        return None
    return int(blocks << shift)


def _squashfs(read: Read) -> int | None:
    """Return the bytes of squashfs (Linux, fs/squashfs/squashfs_fs.h: struct squashfs_super_block)."""
    size, shift, major, minor, used = struct.unpack("<12xI6xH4xHH8xQ", read(0, 48))
    is_one = read(0, 4) == b"hsqs" and (major, minor) == (4, 0) and 12 <= shift <= 20 and size == 1 << shift
    return int(used) if is_one else None


def _swap(read: Read) -> int | None:
    """Return the bytes of swap space (Linux, include/linux/swap.h: union swap_header)."""
    for page in _PAGE_SIZES:
        version, last = struct.unpack("<II", read(1024, 8))
        if read(page - 10, 10) == b"SWAPSPACE2" and version == 1:
            return int(last + 1) * page
    return None


_FILE_SYSTEMS: dict[str, Callable[[Read], int | None]] = {
    "ext2/3/4": _ext,
    "XFS": _xfs,
    "NTFS": _ntfs,
    "exFAT": _exfat,
    "FAT": _fat,
    "btrfs": _btrfs,
    "F2FS": _f2fs,
    "squashfs": _squashfs,
    "swap": _swap,
}

__all__ = ["file_system_size"]
