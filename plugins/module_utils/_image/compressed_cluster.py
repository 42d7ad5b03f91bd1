# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compressed clusters of qcow2 (QEMU, docs/interop/qcow2.txt). Tables have their length only in sectors, so
completeness is detected by decompression.
"""

from __future__ import annotations

import zlib

#: Window size of the deflate streams, as a power of two; negative for streams without a header.
_WINDOW = -12
_FRAME = b"\x28\xb5\x2f\xfd"
_RLE = 1


def is_whole_deflate(data: bytes, cluster: int) -> bool:
    """Return whether ``data`` decompresses to a cluster of ``cluster`` bytes (RFC 1951)."""
    try:
        return len(zlib.decompressobj(_WINDOW).decompress(data, cluster)) == cluster
    except zlib.error:
        return False


def is_whole_zstd(data: bytes) -> bool:
    """Return whether ``data`` contains all blocks of its frame (RFC 8878, 3.1.1)."""
    if len(data) < 5 or not data.startswith(_FRAME):
        return False
    flags = data[4]
    is_single = flags >> 5 & 1
    end = 5 + (1 - is_single) + (0, 1, 2, 4)[flags & 3] + (is_single, 2, 4, 8)[flags >> 6]
    is_last = False
    while not is_last:
        header = int.from_bytes(data[end : end + 3], "little")
        is_last = bool(header & 1)
        end += 3 + (1 if header >> 1 & 3 == _RLE else header >> 3)
        if end > len(data):
            return False
    return end + 4 * (flags >> 2 & 1) <= len(data)


__all__ = ["is_whole_deflate", "is_whole_zstd"]
