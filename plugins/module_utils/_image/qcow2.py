# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The header of a qcow2 image (QEMU, docs/interop/qcow2.txt, "Header")."""

from __future__ import annotations

import struct

from .._core.records import dataclass

MAGIC = b"QFI\xfb"
#: Number of bytes at the beginning of a file that contain all fields.
HEADER_SIZE = 112
#: Size of the shortest header, that of version 2, in bytes.
_SHORTEST = 72
#: Bits of incompatible features.
_DIRTY, _CORRUPT, _EXTERNAL_DATA_FILE, _EXTENDED_L2 = 1, 2, 4, 16
#: Upper bound of the refcount order: 64 bits for each reference count.
_LARGEST_REFCOUNT_ORDER = 6
#: Lower bound of an entry in the table of internal snapshots, in bytes.
_SNAPSHOT_ENTRY = 40


@dataclass(frozen=True)
class Qcow2Header:
    """The fields that the collection uses, with offsets and sizes in bytes. Their values are unchecked.

    :arg backing_offset: position of the name of the backing file; 0 without one.
    :arg snapshots: number of internal snapshots.
    """

    version: int
    backing_offset: int
    backing_length: int
    cluster_bits: int
    virtual_size: int
    is_encrypted: bool
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    snapshots: int
    snapshots_offset: int
    features: int
    refcount_order: int
    is_zstd: bool

    @classmethod
    def parse(cls, head: bytes) -> Qcow2Header:
        """Read the header from the first :data:`HEADER_SIZE` bytes of a file, or more.

        :raises ValueError: ``head`` is no complete qcow2 header.
        """
        if len(head) < _SHORTEST or not head.startswith(MAGIC):
            raise ValueError("no qcow2 header")
        version, backing, length, bits, size, crypt, entries, l1, refcounts, snapshots, table = struct.unpack_from(
            ">4xIQIIQIIQQ4xIQ", head
        )
        features, order, own_length = 0, 4, _SHORTEST
        if version >= 3:
            features, order, own_length = struct.unpack_from(">Q16xII", head.ljust(HEADER_SIZE, b"\0"), 72)
        return cls(
            version,
            backing,
            length,
            bits,
            size,
            crypt != 0,
            entries,
            l1,
            refcounts,
            snapshots,
            table,
            features,
            order,
            own_length > 104 and head[104:105] == b"\1",
        )

    @property
    def external_reference(self) -> str | None:
        """Return the image's dependency on another file, as a part of a sentence, or ``None`` without such a
        dependency.
        """
        if self.backing_offset:
            return "has a backing file"
        return "has an external data file" if self.has_external_data else None

    @property
    def has_external_data(self) -> bool:
        return bool(self.features & _EXTERNAL_DATA_FILE)

    @property
    def tables_end(self) -> int:
        """Return the end of the last table that the header names, in bytes. A complete file isn't shorter."""
        return max(
            self.l1_offset + 8 * self.l1_entries,
            self.refcount_offset,
            self.snapshots_offset + _SNAPSHOT_ENTRY * self.snapshots,
        )

    @property
    def refcount_bits(self) -> int:
        return int(1 << min(self.refcount_order, _LARGEST_REFCOUNT_ORDER))

    @property
    def is_dirty(self) -> bool:
        """Return whether the reference counts are behind (lazy refcounts). This is no damage."""
        return bool(self.features & _DIRTY)

    @property
    def is_corrupt(self) -> bool:
        """Return whether qemu marked the image as damaged."""
        return bool(self.features & _CORRUPT)

    @property
    def has_subclusters(self) -> bool:
        return bool(self.features & _EXTENDED_L2)


__all__ = ["HEADER_SIZE", "MAGIC", "Qcow2Header"]
