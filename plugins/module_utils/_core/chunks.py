# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The content of an open file, piece by piece."""

from __future__ import annotations

import os
from collections.abc import Iterator

#: Size of one read in bytes.
CHUNK = 1 << 20


def read_chunks(descriptor: int) -> Iterator[bytes]:
    """Yield the content of an open file."""
    offset = 0
    while True:
        data = os.pread(descriptor, CHUNK, offset)
        if not data:
            return
        offset += len(data)
        yield data


__all__ = ["read_chunks"]
