# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""LIMIT_TRANSFER_BW: bytes no faster than allowed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator


def paced(chunks: Iterable[bytes], bandwidth: int | None) -> Iterator[bytes]:
    """``chunks``, held back so that on average at most ``bandwidth`` bytes a second pass; ``None`` is no limit."""
    began, passed = time.monotonic(), 0
    for chunk in chunks:
        yield chunk
        if bandwidth:
            passed += len(chunk)
            time.sleep(max(0.0, began + passed / bandwidth - time.monotonic()))


__all__ = ["paced"]
