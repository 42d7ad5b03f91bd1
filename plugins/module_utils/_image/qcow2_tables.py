# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The clusters that the tables of a qcow2 image refer to (QEMU, docs/interop/qcow2.txt).

The tables of internal snapshots aren't counted.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

from .compressed_cluster import is_whole_deflate, is_whole_zstd
from .qcow2 import Qcow2Header
from .table_file import Allocation, TableFile

#: Cluster sizes that QEMU accepts, as powers of two.
_CLUSTER_BITS = range(9, 22)
#: Bit masks of an entry.
_OFFSET = (1 << 56) - 512
_COMPRESSED = 1 << 62
_ZERO = 1
_SECTOR = 512
#: Number of subclusters of a cluster, which an extended entry allocates separately.
_SUBCLUSTERS = 32
#: Upper bound of the compressed clusters that share the last sector of a file. More are invalid, and slow to check.
_MOST_LAST = 64


class _Compressed(NamedTuple):
    """The byte at which a compressed cluster begins, and the end of its last sector."""

    offset: int
    end: int


def qcow2_allocation(file: TableFile, header: Qcow2Header) -> Allocation:
    """Return the allocation of the active tables. The time is proportional to the stored bytes of the tables.

    :raises OSError: the file can't be read.
    :raises ValueError: qemu-img doesn't support the cluster size.
    """
    if header.cluster_bits not in _CLUSTER_BITS:
        raise ValueError(header.cluster_bits)
    cluster = 1 << header.cluster_bits
    found = Allocation(file.length, cluster)
    width = 16 if header.has_subclusters else 8
    per_table = cluster // width
    tables = -(-header.virtual_size // (cluster * per_table))
    found.add_tables([header.l1_offset], 8 * header.l1_entries)
    l1 = (
        (first + number, entry & _OFFSET)
        for first, piece in file.entries(header.l1_offset, tables, "Q", "big")
        for number, entry in enumerate(piece)
    )
    last: set[_Compressed] = set()
    for table, offset in l1:
        if found.is_shared():  # the result is final
            break
        if not offset:
            continue
        found.add_tables([offset], cluster)
        for first, piece in file.entries(offset, cluster // 8, "Q", "big"):
            number = table * per_table + first * 8 // width
            entries, bitmaps = (piece[::2], piece[1::2]) if header.has_subclusters else (piece, None)
            _count(found, header, number, entries, bitmaps)
            last |= _count_compressed(found, header, entries)
            if len(last) > _MOST_LAST:
                last = {max(last, key=lambda one: one.end)}
    for one in last:
        data = file.read(one.offset, max(file.length - one.offset, 0)) if one.end - file.length < _SECTOR else b""
        is_whole = is_whole_zstd(data) if header.is_zstd else is_whole_deflate(data, cluster)
        found.end = max(found.end, file.length if is_whole else one.end)
    return found


def _count(found: Allocation, header: Qcow2Header, first: int, entries: array[int], bitmaps: array[int] | None) -> None:
    """Count the uncompressed clusters of entries.

    :arg first: number of the first entry in the whole image.
    """
    # Clusters of zeros may have storage, and compressed clusters have another kind of offset. With subclusters, bit 0
    # is unused.
    plain = [entry & _OFFSET for entry in entries if entry & _OFFSET and not entry & (_COMPRESSED | _ZERO)]
    end = None
    if plain and max(plain) + found.block > found.length:
        end = max(
            (entry & _OFFSET) + _needed(header, number, bitmaps[number - first] if bitmaps else None)
            for number, entry in enumerate(entries, first)
            if entry & _OFFSET and not entry & (_COMPRESSED | _ZERO)
        )
    found.add_blocks(plain, end)


def _count_compressed(found: Allocation, header: Qcow2Header, entries: array[int]) -> set[_Compressed]:
    """Count compressed clusters, and return the clusters that may end behind the file.

    An entry has an offset, and the number of sectors that follow the first one. The data ends somewhere in the last
    sector, and the file may end in the same sector.
    """
    width = 70 - header.cluster_bits
    clusters = [
        _Compressed(
            entry & ((1 << width) - 1),
            (entry & ((1 << width) - 1) | _SECTOR - 1) + 1 + ((entry & (_COMPRESSED - 1)) >> width) * _SECTOR,
        )
        for entry in entries
        if entry & _COMPRESSED
    ]
    found.data += found.block * len(clusters)
    # Clusters can share a sector, so each counts with the minimum size of its data.
    found.inside += sum(max(one.end - _SECTOR + 1 - one.offset, 1) for one in clusters if one.offset < found.length)
    found.end = max([found.end, *(min(one.end, found.length) for one in clusters)])
    return {one for one in clusters if one.end > found.length}


def _needed(header: Qcow2Header, number: int, bitmap: int | None) -> int:
    """Return the number of bytes of a cluster that a guest can read. The limit is the end of the disk and, with
    subclusters, the end of the last allocated one.
    """
    cluster = 1 << header.cluster_bits
    readable = max(min(cluster, header.virtual_size - number * cluster), 0)
    if bitmap is None:
        return readable
    return min(readable, (bitmap & ((1 << _SUBCLUSTERS) - 1)).bit_length() * cluster // _SUBCLUSTERS)


__all__ = ["qcow2_allocation"]
