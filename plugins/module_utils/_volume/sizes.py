# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sizes of disks in bytes, by the rules of KubeVirt and of its importer (CDI)."""

from __future__ import annotations

from fractions import Fraction

from .._core.errors import NoSpace
from .._model.volume_disks import BlockSize

#: Bytes of the unit to which sizes are rounded down.
MIB = 1024 * 1024

#: Bytes that a new host disk leaves free in its file system.
RESERVE = 131072
#: Percentage by which a new host disk can be smaller than requested.
TOLERANCE = 10
#: The part of a file system's size for its own data (CDI).
OVERHEAD = Fraction(6, 100)


def round_down(size: int) -> int:
    """Return a size without the last part of a MiB."""
    return size - size % MIB


def empty_disk_size(capacity: int) -> int:
    """Return the size of an empty disk. A capacity below 1 MiB has no size: 0."""
    return round_down(capacity)


def host_disk_size(path: str, capacity: int, free: int, reserve: int = RESERVE, tolerance: int = TOLERANCE) -> int:
    """Return the size of a new host disk.

    :arg path: the path of the disk, for the error.
    :arg free: bytes that are free in the file system. ``reserve`` of them stay free.
    :arg tolerance: percentage by which the disk can be smaller than ``capacity``, if the space doesn't suffice.
    :raises NoSpace: the space is below the tolerance.
    """
    available = max(0, free - reserve)
    if capacity <= available:
        return capacity
    lowest = capacity * (100 - tolerance) // 100
    if available < lowest:
        raise NoSpace(
            f"The host disk {path} needs at least {lowest} bytes ({capacity} bytes with a tolerance of {tolerance} %), "
            f"and its file system has {available} bytes left ({reserve} bytes are reserved)."
        )
    return available


def is_tolerated(capacity: int, size: int) -> bool:
    """Return whether a host disk became smaller than requested, of which the user is warned."""
    return size < capacity


def claim_capacity(requested: int | None, provided: int) -> int:
    """Return the capacity of a claim: the smaller one of the requested size and of the provided size."""
    return provided if requested is None else min(requested, provided)


def expanded_size(capacity: int, allocated: int, free: int, overhead: Fraction = OVERHEAD) -> int:
    """Return the size to which a guest's disk in a file grows.

    :arg capacity: the capacity of the claim.
    :arg allocated: bytes that the file occupies now.
    :arg free: bytes that are free in the file system.
    :arg overhead: the part for the data of the file system itself, from 0 to 1.
    """
    return round_down(int((1 - overhead) * min(capacity, allocated + free)))


def usable_size(available: int, overhead: Fraction = OVERHEAD) -> int:
    """Return the largest size of an imported disk in a file system with ``available`` bytes, as CDI does."""
    with_overhead = Fraction(available) / (1 + overhead)
    return round_down(-(-with_overhead.numerator // with_overhead.denominator))


def matched_block_size(logical: int, physical: int, granularity: int | None = None) -> BlockSize:
    """Return the sizes of blocks for a disk that has those of its volume.

    :arg granularity: the bytes of the smallest part that the volume discards; ``None`` or 0 for a volume that discards
        nothing. QEMU needs a multiple of the logical size, so the physical size replaces another number.
    """
    if granularity and granularity % logical:
        granularity = physical
    return BlockSize(logical, physical, granularity or None)


__all__ = [
    "MIB",
    "OVERHEAD",
    "RESERVE",
    "TOLERANCE",
    "claim_capacity",
    "empty_disk_size",
    "expanded_size",
    "host_disk_size",
    "is_tolerated",
    "matched_block_size",
    "round_down",
    "usable_size",
]
