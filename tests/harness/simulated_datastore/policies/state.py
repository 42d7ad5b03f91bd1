# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The state of the server: up, slow, hung, down, read-only, or stale after a loss of all handles."""

from __future__ import annotations

import errno
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import trio

from .. import errnos
from ..errors import SimulatedDatastoreError
from ..profiles import choose
from ..request import ATTRIBUTES, NAMES, OPERATIONS, Request
from . import Policy

if TYPE_CHECKING:
    from ..datastore import Datastore

STATES = ("up", "slow", "hung", "down", "read-only", "stale")
#: Operations that only concern the client.
_LOCAL = frozenset({"release", "releasedir"})
_CHANGES = NAMES | ATTRIBUTES | {"truncate", "write"}


@dataclass(frozen=True)
class State:
    """A state. *delay* is the extra time of each request to a slow server in seconds, *error* the errno when down."""

    state: str = "up"
    delay: float = 0.0
    error: str = "EIO"


class ServerState(Policy):
    """The state for all clients, and the states for single clients."""

    name = "state"

    def __init__(self, datastore: Datastore) -> None:
        self._datastore = datastore
        self._all = State()
        self._clients: dict[str, State] = {}
        self._changed = trio.Event()

    def concerns(self, op: str) -> bool:
        return op in OPERATIONS - _LOCAL and any(state.state != "up" for state in (self._all, *self._clients.values()))

    def set(self, state: str, client: str | None = None, delay: float = 1.0, error: str = "EIO") -> dict[str, Any]:
        """Change the state, for one *client* or (None) for all. Hanging requests meet the new state.

        Raises :class:`SimulatedDatastoreError`.
        """
        choose("state", state, STATES)
        errnos.number("error", error)
        if not isinstance(delay, (int, float)) or isinstance(delay, bool) or not 0 <= delay < 1e6:
            raise SimulatedDatastoreError(f"delay: {delay!r} isn't a number of seconds between 0 and 1000000.")
        new = State(state, float(delay) if state == "slow" else 0.0, error)
        if client is None:
            self._all = new
            self._clients.clear()
        else:
            self._clients[choose("client", client, list(self._datastore.mounts))] = new
        if state == "stale":
            for mount in self._datastore.mounts.values():
                if client in (None, mount.client):
                    mount.make_stale()
        self._datastore.recompile()
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        return self.status()

    def status(self) -> dict[str, Any]:
        return {**asdict(self._all), "clients": {client: asdict(state) for client, state in self._clients.items()}}

    async def before(self, request: Request) -> None:
        if request.op in _LOCAL:
            return
        while (state := self._clients.get(request.mount.client, self._all)).state == "hung":
            await request.mount.park(request, self._changed.wait(), hangs=True)
        if state.state == "slow":
            clock = self._datastore.clock
            await request.mount.park(request, clock.sleep_until(clock.now() + state.delay))
        self.gate(request)

    def gate(self, request: Request) -> None:
        """Raise :class:`OSError` if the current state of the server refuses *request*."""
        state = self._clients.get(request.mount.client, self._all)
        if request.op in _LOCAL:
            return
        if state.state == "down":
            raise OSError(errnos.number("error", state.error), "down")
        if state.state == "read-only" and (
            request.op in _CHANGES or (request.op == "open" and request.flags & os.O_ACCMODE != os.O_RDONLY)
        ):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))


__all__ = ["STATES", "ServerState"]
