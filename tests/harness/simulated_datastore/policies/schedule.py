# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The duration of requests: a latency per operation, and a token bucket for bytes and for requests."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .. import checks
from ..errors import SimulatedDatastoreError
from ..request import CLASSES, OPERATIONS, Request, expand
from . import Policy

if TYPE_CHECKING:
    from ..datastore import Datastore


def compute_fraction(*seed: object) -> float:
    """Return a number in [0, 1) that depends only on *seed*, so that a random run can be repeated."""
    digest = hashlib.blake2b("\0".join(map(str, seed)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / (1 << 64)


@dataclass(frozen=True)
class Speed:
    """*latency* and *jitter* in seconds by operation or class, *read* and *write* in bytes per second, *requests* per
    second; 0 means no limit.
    """

    latency: dict[str, float]
    jitter: float = 0.0
    read: float = 0.0
    write: float = 0.0
    requests: float = 0.0
    seed: int = 0


class Schedule(Policy):
    """The due times of requests. A reply waits until its time, while other requests continue."""

    name = "schedule"

    def __init__(self, datastore: Datastore) -> None:
        self._datastore = datastore
        self._speed = Speed({})
        self._latency: dict[str, float] = {}
        self._free: dict[str, float] = {}
        self._ordinal = 0

    def set(
        self,
        latency: dict[str, float] | float | None = None,
        jitter: float = 0,
        read: float = 0,
        write: float = 0,
        requests: float = 0,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Replace the schedule; a missing value means no limit. Raises :class:`SimulatedDatastoreError`."""
        if latency is not None and not isinstance(latency, (dict, int, float)):
            raise SimulatedDatastoreError(
                f"latency: {latency!r} is neither a number of seconds nor a mapping of such by operation or class."
            )
        wanted = dict(latency or {}) if isinstance(latency, dict) or latency is None else {"all": latency}
        for option, value in [
            *((f"latency {key}", value) for key, value in wanted.items()),
            ("jitter", jitter),
            ("read", read),
            ("write", write),
            ("requests", requests),
        ]:
            checks.number(option, value)
        checks.whole("seed", seed, -checks.MOST)
        exact: dict[str, float] = {}
        # Smaller classes come later, because the closest class counts.
        for key in sorted(wanted, key=lambda key: -len(CLASSES.get(key, ()))):
            try:
                exact |= dict.fromkeys(expand([key]), wanted[key])
            except KeyError as error:
                raise SimulatedDatastoreError(
                    f"latency: {key!r} is neither an operation ({', '.join(sorted(OPERATIONS))}) nor a class "
                    f"({', '.join(CLASSES)})."
                ) from error
        self._speed = Speed(wanted, float(jitter), float(read), float(write), float(requests), seed)
        self._latency = {op: value for op, value in exact.items() if value or jitter}
        self._free = {}
        self._datastore.recompile()
        return self.status()

    def status(self) -> dict[str, Any]:
        return asdict(self._speed)

    def concerns(self, op: str) -> bool:
        speed = self._speed
        return (
            op in self._latency
            or bool(speed.requests)
            or (op == "read" and bool(speed.read))
            or (op == "write" and bool(speed.write))
        )

    async def before(self, request: Request) -> None:
        clock, speed, op = self._datastore.clock, self._speed, request.op
        now = clock.now()
        due = now
        latency = self._latency.get(op)
        if latency is not None:
            self._ordinal += 1
            due += latency + speed.jitter * compute_fraction(speed.seed, "jitter", self._ordinal)
        for bucket, rate, tokens in (
            ("requests", speed.requests, 1),
            (op, speed.read if op == "read" else speed.write if op == "write" else 0, request.size),
        ):
            if rate:
                free = max(now, self._free.get(bucket, now)) + tokens / rate
                self._free[bucket] = free
                due = max(due, free)
        if due > now:
            await request.mount.park(request, clock.sleep_until(due))


__all__ = ["Schedule", "compute_fraction"]
