# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Signs of a raw disk: a boot sector, a partition table, a file system, or a volume manager."""

from __future__ import annotations

import struct
from collections.abc import Callable

#: Name, offsets, magic number, from the documents and headers of each: UEFI 5.3.2, ECMA-119 8.4, ECMA-167 2/9.1,
#: include/linux and fs/ of Linux, lvm2, cryptsetup, mdadm, Apple's TN1150 and APFS reference, FreeBSD's sys, OpenZFS.
_SIGNS: tuple[tuple[str, tuple[int, ...], bytes], ...] = (
    ("ISO 9660", (32769,), b"CD001"),
    ("High Sierra", (32777,), b"CDROM"),
    ("UDF", (32769,), b"BEA01"),
    ("UDF", (32769,), b"NSR0"),
    ("boot sector", (510,), b"\x55\xaa"),
    ("GPT", (512, 4096), b"EFI PART"),
    ("XFS", (0,), b"XFSB"),
    ("btrfs", (65600,), b"_BHRfS_M"),
    ("F2FS", (1024,), b"\x10\x20\xf5\xf2"),
    ("swap", (4086, 8182, 16374, 32758, 65526), b"SWAPSPACE2"),
    ("swap", (4086, 8182, 16374, 32758, 65526), b"SWAP-SPACE"),
    ("hibernation", (4086, 8182, 16374, 32758, 65526), b"S1SUSPEND"),
    ("LVM", (0, 512, 1024, 1536), b"LABELONE"),
    ("LVM 1", (0,), b"HM\1\0"),
    ("LUKS", (0,), b"LUKS\xba\xbe"),
    ("BitLocker", (3,), b"-FVE-FS-"),
    ("md RAID", (0, 4096), b"\xfc\x4e\x2b\xa9"),
    ("squashfs", (0,), b"hsqs"),
    ("squashfs", (0,), b"sqsh"),
    ("EROFS", (1024,), b"\xe2\xe1\xf5\xe0"),
    ("cramfs", (0, 512), b"\x45\x3d\xcd\x28"),
    ("cramfs", (0, 512), b"\x28\xcd\x3d\x45"),
    ("romfs", (0,), b"-rom1fs-"),
    ("NTFS", (3,), b"NTFS    "),
    ("exFAT", (3,), b"EXFAT   "),
    ("ReFS", (3,), b"ReFS\0\0\0\0"),
    ("FAT", (54,), b"FAT1"),
    ("FAT", (82,), b"FAT32   "),
    ("HPFS", (8192,), b"\x49\xe8\x95\xf9\xc5\xe9\x53\xfa"),
    ("HFS+", (1024,), b"H+\0\4"),
    ("HFSX", (1024,), b"HX\0\5"),
    ("APFS", (32,), b"NXSB"),
    ("UFS", (9564,), b"\x54\x19\x01\0"),
    ("UFS", (9564,), b"\0\x01\x19\x54"),
    ("UFS 2", (9564, 66908), b"\x19\x01\x54\x19"),
    ("UFS 2", (9564, 66908), b"\x19\x54\x01\x19"),
    ("ZFS", tuple(range(128 << 10, 256 << 10, 1024)), b"\x0c\xb1\xba\0\0\0\0\0"),
    ("ZFS", tuple(range(128 << 10, 256 << 10, 1024)), b"\0\0\0\0\0\xba\xb1\x0c"),
    ("bcache", (4120,), bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")),
    ("bcachefs", (4120,), bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")),
    ("BSD disklabel", (0, 64, 512), b"\x57\x45\x56\x82"),
    ("BSD disklabel", (0, 64, 512), b"\x82\x56\x45\x57"),
    ("Apple partition map", (512, 2048), b"PM\0\0"),
    ("SGI volume header", (0,), b"\x0b\xe5\xa9\x41"),
    ("AIX label", (0,), b"\xc9\xc2\xd4\xc1"),
    ("Amiga rigid disk block", (0, 512), b"RDSK"),
    ("Amiga file system", (0,), b"DOS\0"),
    ("Amiga file system", (0,), b"DOS\1"),
    ("VMFS", (1 << 20,), b"\x0d\xd0\x01\xc0"),
    ("JFS", (32768,), b"JFS1"),
    ("ReiserFS", (8244, 65588), b"ReIsEr"),
    ("Reiser4", (65536,), b"ReIsEr4"),
    ("OCFS2", (1024, 2048, 4096, 8192), b"OCFSV2"),
    ("GFS2", (65536,), b"\x01\x16\x19\x70"),
    ("VxFS", (1024,), b"\xf5\xfc\x01\xa5"),
    ("BFS", (0,), b"\xce\xfa\xad\x1b"),
    ("VDO", (0,), b"dmvdo001"),
    ("dm-integrity", (0,), b"integrt\0"),
    ("dm-verity", (0,), b"verity\0\0"),
    ("dm-snapshot", (0,), b"SnAp\1\0\0\0"),
    ("Stratis", (516,), b"!Stra0tis\x86\xff\x02"),
    ("BlueStore", (0,), b"bluestore block device"),
    ("Oracle ASM", (32,), b"ORCLDISK"),
)


def _is_ext(head: bytes) -> bool:
    """Return whether ``head`` is ext2, ext3 or ext4 (Documentation/filesystems/ext4 of Linux): two bytes of magic, a
    block size up to 64 KiB, and a number of inodes.
    """
    if head[1080:1082] != b"\x53\xef":
        return False
    inodes, block_size = struct.unpack_from("<I20xI", head, 1024)
    return bool(inodes > 0 and block_size <= 6)


def _is_fat(head: bytes) -> bool:
    """Return whether ``head`` is a boot sector of FAT without its signature, such as on old floppy disks (Microsoft's
    FAT specification 1.03): sectors, clusters and media are valid.
    """
    if len(head) < 512 or head[0] not in (0xEB, 0xE9):
        return False
    sector, cluster, reserved, fats = struct.unpack_from("<HBHB", head, 11)
    return (
        sector in (512, 1024, 2048, 4096)
        and cluster > 0
        and cluster & (cluster - 1) == 0
        and reserved > 0
        and fats in (1, 2)
        and head[21] >= 0xF0
    )


def _is_hfs(head: bytes) -> bool:
    """Return whether ``head`` is HFS (Inside Macintosh: Files): two bytes of signature, and blocks of whole sectors."""
    if head[1024:1026] != b"BD" or len(head) < 1048:
        return False
    block = struct.unpack_from(">I", head, 1044)[0]
    return bool(block > 0 and block % 512 == 0)


def _is_minix(head: bytes) -> bool:
    """Return whether ``head`` is the file system of MINIX (include/uapi/linux/minix_fs.h): two bytes of magic, and a
    number of inodes.
    """
    if len(head) < 1056:
        return False
    one, three = struct.unpack_from("<16xH6xH", head, 1024)
    return one in (0x137F, 0x138F, 0x2468, 0x2478) and any(head[1024:1026]) or three == 0x4D5A and any(head[1024:1028])


def _is_nilfs(head: bytes) -> bool:
    """Return whether ``head`` is NILFS2 (include/uapi/linux/nilfs2_ondisk.h): revision 2 and two bytes of magic."""
    return head[1024:1032] == b"\2\0\0\0\0\0\x34\x34"


def _is_sun(head: bytes) -> bool:
    """Return whether ``head`` is a label of Sun: two bytes of magic, and a sector whose words cancel out
    (block/partitions/sun.c of Linux).
    """
    if head[508:510] != b"\xda\xbe" or len(head) < 512:
        return False
    total = 0
    for word in struct.unpack_from(">256H", head):
        total ^= word
    return total == 0


#: Structures with a short magic number, recognised by their fields.
_STRUCTURES: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    ("ext", _is_ext),
    ("FAT", _is_fat),
    ("HFS", _is_hfs),
    ("MINIX", _is_minix),
    ("NILFS2", _is_nilfs),
    ("Sun disk label", _is_sun),
)


def disk_sign(head: bytes) -> str | None:
    """Return the name of the first sign that ``head`` is the beginning of a disk, or ``None`` without a sign.

    The last sign is that of VMFS, at 1 MiB.
    """
    for name, offsets, magic in _SIGNS:
        if any(head.startswith(magic, offset) for offset in offsets):
            return name
    return next((name for name, matches in _STRUCTURES if matches(head)), None)


__all__ = ["disk_sign"]
