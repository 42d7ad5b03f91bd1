# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read the length of a raw disk from its own partition tables, file system or volume descriptor.

A raw disk can contain any data, so a table counts only if all of its fields are valid.
"""

from __future__ import annotations

import struct
from zlib import crc32

from .._core.records import dataclass
from .file_systems import file_system_size, is_boot_sector
from .table_file import Read

#: Sector sizes for which a GPT can be written, in bytes.
_SECTOR_SIZES = (512, 4096)
#: Upper bound of a GPT header in bytes. UEFI 2.10, table 5-5, reserves the rest of the sector.
_GPT_HEADER = 92
#: MBR (UEFI 2.10, 5.2): offset of the four entries and of the signature.
_ENTRIES, _SIGNATURE = 446, 510
#: Type of the MBR entry for a GPT.
_PROTECTIVE = 0xEE
#: Offset of the primary volume descriptor in bytes (ECMA-119, 8.4).
_DESCRIPTOR = 32768


@dataclass(frozen=True)
class OwnSize:
    """The minimum size of a disk in bytes, and the name of the table with this size."""

    size: int
    table: str


def own_sizes(read: Read) -> list[OwnSize]:
    """Return the sizes in the tables of a raw disk: partition tables, a file system, and the volume descriptor of an
    ISO image, which can be a hybrid.

    :raises OSError: the disk can't be read.
    """
    partitions = mbr_size(read)
    # A GPT beside an MBR without an entry for the GPT is left from an earlier use of the disk.
    sizes = {"GPT": None if partitions else max((gpt_size(read, sector) for sector in _SECTOR_SIZES), key=int)}
    volume = iso_size(read)
    if volume:  # the MBR of a hybrid exists only for firmware, and is often longer than the file
        sizes["ISO 9660 volume descriptor"] = volume
    elif partitions:
        sizes["MBR"] = partitions
    else:
        name, size = file_system_size(read)
        sizes[f"{name} superblock"] = size
    return [OwnSize(size, table) for table, size in sizes.items() if size]


def gpt_size(read: Read, sector: int) -> int:
    """Return the bytes up to the end of the backup header (UEFI 2.10, 5.3.2), or 0 without a valid header in the second
    sector.
    """
    header = read(sector, sector)
    length, checksum, own, backup = struct.unpack_from("<8x4xII4xQQ", header)
    if not header.startswith(b"EFI PART") or not _GPT_HEADER <= length <= sector or own != 1:
        return 0
    if crc32(header[:16] + bytes(4) + header[20:length]) != checksum:
        return 0
    return int(backup + 1) * sector


def mbr_size(read: Read) -> int | None:
    """Return the bytes up to the end of the last partition, or ``None`` unless the first sector is an MBR without a
    GPT.
    """
    sector = read(0, 512)
    if is_boot_sector(sector):
        return None
    entries = [
        (sector[at], sector[at + 4], *struct.unpack_from("<II", sector, at + 8))
        for at in range(_ENTRIES, _SIGNATURE, 16)
    ]
    used = sorted((start, count) for _status, kind, start, count in entries if kind)
    if sector[_SIGNATURE:] != b"\x55\xaa" or not used:
        return None
    if any(
        status not in (0, 0x80) or kind == _PROTECTIVE or (not kind and (start or count))
        for status, kind, start, count in entries
    ):
        return None
    if sum(status == 0x80 for status, *_rest in entries) > 1:
        return None
    free = 1  # partitions begin behind the sector of the MBR
    for start, count in used:
        if start < free or not count:
            return None
        free = start + count
    return free * 512


def iso_size(read: Read) -> int | None:
    """Return the bytes of the volume, or ``None`` without a primary volume descriptor."""
    descriptor = read(_DESCRIPTOR, 2048)
    if not descriptor.startswith(b"\x01CD001\x01"):
        return None
    # Each number is stored twice, in both byte orders.
    (blocks, size), (swapped, swapped_size) = (
        struct.unpack_from("<I44xH", descriptor, 80),
        struct.unpack_from(">I42xH", descriptor, 84),
    )
    if blocks != swapped or size != swapped_size or size not in (512, 1024, 2048):
        return None
    return int(blocks * size)


__all__ = ["OwnSize", "gpt_size", "iso_size", "mbr_size", "own_sizes"]
