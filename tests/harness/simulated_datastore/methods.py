# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The methods of the control socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from . import checks
from .clock import MockClock
from .datastore import Datastore
from .errors import SimulatedDatastoreError
from .ledger import CRITERIA
from .profiles import choose
from .request import Request
from .system import SOURCE

if TYPE_CHECKING:
    from .control import Method
    from .daemon import Daemon


#: Upper bound of the time in which the kernel forgets what a crash has lost, in seconds.
SETTLED = 5


class Methods:
    """The methods by name. Each has keyword arguments and raises :class:`SimulatedDatastoreError` for a refusal."""

    def __init__(self, datastore: Datastore, daemon: Daemon) -> None:
        self.datastore = datastore
        self.daemon = daemon

    def table(self) -> dict[str, Method]:
        datastore = self.datastore
        ledger, rules, durability = datastore.ledger, datastore.rules, datastore.durability
        return {
            "status": self.status,
            "statfs": self.statfs,
            "shutdown": self.shutdown,
            "mount": self.daemon.add_mount,
            "umount": self.daemon.unmount,
            "export": self.daemon.exports.set,
            "unexport": self.daemon.delete_export,
            "mount_export": self.daemon.mount_export,
            "rule.add": rules.add,
            "rule.del": rules.delete,
            "rule.list": rules.status,
            "rule.clear": rules.clear,
            "state.set": datastore.state.set,
            "resize": datastore.capacity.set,
            "schedule.set": datastore.schedule.set,
            "crash.track": durability.track,
            "crash.states": self.states,
            "crash.count": self.count,
            "crash": self.crash,
            "restart": datastore.restart,
            "unsynced": durability.unsynced,
            "sync": durability.sync,
            "clock.advance": self.advance,
            "ledger.query": ledger.query,
            "ledger.summary": ledger.summary,
            "ledger.mark": ledger.mark,
            "wait_for": self.wait_for,
        }

    def shutdown(self) -> None:
        """Release hanging requests, and end the daemon."""
        self.datastore.rules.clear()
        self.datastore.state.set("up")
        self.daemon.stop.set()

    async def crash(self, **parameters: Any) -> dict[str, Any]:
        """Crash. With a restart, clients find no lost name in the caches of their kernels."""
        given = checks.crash(parameters)
        lost = self.datastore.crash(**given)
        if given.get("restart"):
            with trio.move_on_after(SETTLED):  # the kernel may wait for a request that hangs
                for adapter in list(self.daemon.adapters.values()):
                    await adapter.settle()
        return lost

    def states(self, limit: int = 100, names: str = "ordered", seed: int = 0) -> list[dict[str, Any]]:
        return self.datastore.durability.states(
            checks.whole("limit", limit, 1, checks.STATES), names, checks.whole("seed", seed)
        )

    def count(self, limit: int = 100, names: str = "ordered", seed: int = 0) -> dict[str, Any]:
        return self.datastore.durability.count(
            checks.whole("limit", limit, 1, checks.STATES), names, checks.whole("seed", seed)
        )

    async def statfs(self) -> dict[str, int]:
        """Return the result of a client's statfs(3) without caches."""
        if not self.datastore.mounts:
            raise SimulatedDatastoreError("statfs: no client has the datastore mounted.")
        request = Request("statfs", next(iter(self.datastore.mounts.values())), self.datastore.nodes.root)
        self.datastore.file_system.statfs(request)
        if self.datastore.capacity.concerns("statfs"):
            self.datastore.capacity.after(request)
        return {
            name: getattr(request.result, name)
            for name in ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail")
        }

    def status(self) -> dict[str, Any]:
        status = self.datastore.status()
        for client, adapter in self.daemon.adapters.items():
            status["clients"][client] |= {
                "mount_point": str(adapter.mount_point),
                "source": adapter.table.source,
                "by_helper": adapter.table.source != SOURCE,
            }
        return status | {
            "exports": self.daemon.exports.status(),
            "bugs": self.daemon.bugs.count,
            "log": self.daemon.config["log"],
        }

    def advance(self, seconds: float) -> float:
        clock = self.datastore.clock
        if not isinstance(clock, MockClock):
            raise SimulatedDatastoreError(
                "clock.advance: the clock of this daemon is the real one, mount with --mock-clock (clock: mock)."
            )
        clock.advance(checks.seconds("seconds", seconds))
        return clock.now()

    async def wait_for(self, predicate: dict[str, Any], timeout: float = 10) -> dict[str, Any]:
        """Wait until *predicate* holds, at most *timeout* seconds.

        The predicate has one of: ``parked``, the number of waiting requests; ``hanging``, the number of hanging
        requests; criteria of the ledger with ``count``, the number of matching entries (default 1).
        """
        checks.seconds("timeout", timeout)
        if not isinstance(predicate, dict):
            raise SimulatedDatastoreError(
                f'predicate: {predicate!r} isn\'t a mapping such as {{"op": "write", "count": 1}}.'
            )
        wanted = dict(predicate)
        for key in wanted:
            choose("predicate", key, [*CRITERIA, "count", "hanging", "parked"])
        waiting = next((key for key in ("parked", "hanging") if key in wanted), None)
        number = None if waiting is None else checks.whole(waiting, wanted.pop(waiting))
        if waiting is not None and wanted:
            raise SimulatedDatastoreError(f"predicate: {waiting} must stand alone, remove {', '.join(wanted)}.")
        count = checks.whole("count", wanted.pop("count", 1))

        def found() -> int:
            return (
                len(getattr(self.datastore, waiting))
                if waiting is not None
                else sum(1 for _unused in self.datastore.ledger.rows(**wanted))
            )

        goal = number if number is not None else count
        with trio.move_on_after(timeout):
            while (now := found()) < goal:
                event = trio.Event()
                self.datastore.ledger.watchers.append(event.set)
                try:
                    await event.wait()
                finally:
                    self.datastore.ledger.watchers.remove(event.set)
            return {"found": now}
        raise SimulatedDatastoreError(f"wait_for: {found()} of {goal} after {timeout:g} seconds: {predicate}.")


__all__ = ["Methods"]
