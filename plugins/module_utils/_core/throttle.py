# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rate of a transfer. LIMIT_TRANSFER_BW limits the rate, and a transfer fails when the other side sends too
slowly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from .errors import VmstoreError

#: Lower bound of the rate at which another side sends, in bytes a second.
MINIMUM_RATE = 1024

#: Time of waiting over which the rate is averaged, in seconds.
RATE_PERIOD = 60.0


def throttle(chunks: Iterable[bytes], bandwidth: int | None) -> Iterator[bytes]:
    """Yield ``chunks``, on average at most ``bandwidth`` bytes a second; ``None`` is no limit."""
    began, passed = time.monotonic(), 0
    for chunk in chunks:
        yield chunk
        if bandwidth:
            passed += len(chunk)
            time.sleep(max(0.0, began + passed / bandwidth - time.monotonic()))


class MinimumRate:
    """The bytes that another side sends, compared with the time that this side waits for them.

    The time that this side works, for a slow disk or a bandwidth limit, doesn't count.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._bytes = 0

    def add_wait(self, seconds: float) -> None:
        self._seconds += seconds

    def add_bytes(self, count: int) -> None:
        self._bytes += count

    def reason(self) -> str | None:
        """Return the reason to stop waiting; ``None`` as long as bytes come fast enough."""
        if self._seconds < RATE_PERIOD:
            return None
        seconds, count = self._seconds, self._bytes
        self._seconds, self._bytes = 0.0, 0
        if count >= MINIMUM_RATE * seconds:
            return None
        return (
            f"it sent {count} bytes in {seconds:.0f} seconds, and at least {MINIMUM_RATE} bytes a second are expected"
        )


def sustain(chunks: Iterable[bytes], failed: Callable[[str], VmstoreError]) -> Iterator[bytes]:
    """Yield ``chunks`` while they come at the minimum rate. The time until the first of them doesn't count.

    :arg failed: returns the error to raise, from the reason.
    """
    rate = MinimumRate()
    began = None
    for chunk in chunks:
        if began is not None:
            rate.add_wait(time.monotonic() - began)
        rate.add_bytes(len(chunk))
        too_slow = rate.reason()
        if too_slow:
            raise failed(too_slow)
        yield chunk
        began = time.monotonic()


__all__ = ["MinimumRate", "sustain", "throttle"]
