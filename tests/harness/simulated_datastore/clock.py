# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The datastore's clocks: a real one, and one that tests move without waiting."""

from __future__ import annotations

import heapq
import itertools
import math

import trio


class RealClock:
    """The monotonic clock of the machine, in seconds."""

    kind = "real"

    def now(self) -> float:
        return trio.current_time()

    async def sleep_until(self, due: float) -> None:
        await trio.sleep_until(due)


class MockClock:
    """A clock that stands still until :meth:`advance`."""

    kind = "mock"

    def __init__(self) -> None:
        self._now = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, trio.Event]] = []

    def now(self) -> float:
        return self._now

    async def sleep_until(self, due: float) -> None:
        if due <= self._now:
            return
        event = trio.Event()
        heapq.heappush(self._sleepers, (due, next(self._order), event))
        await event.wait()

    def advance(self, seconds: float) -> None:
        """Move the clock forward. Raises :class:`ValueError` for a negative or infinite step."""
        if not (seconds >= 0 and math.isfinite(seconds)):
            raise ValueError(seconds)
        self._now += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now:
            heapq.heappop(self._sleepers)[2].set()


Clock = RealClock | MockClock

__all__ = ["Clock", "MockClock", "RealClock"]
