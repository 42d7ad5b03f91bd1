# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations with trees for tests. Tests put this directory into a copy of the engine, as the package ``_trial``."""

from __future__ import annotations

from typing import IO, Any

from .._remote.wire import Operation

OPERATIONS = {
    "get": Operation("str"),
    "put": Operation("str"),
    "put_until_full": Operation("str"),
    "pass_on": Operation("str"),
    "read": Operation("str"),
    "work": Operation("str"),
}

#: Interval between two heartbeats of a host in seconds.
HEARTBEAT_INTERVAL = 0.1


def serve(stdin: IO[bytes]) -> None:
    """Run one operation."""
    from .._remote import serve as serving
    from .._remote.tree_peer import open_peer
    from .operations import begin

    serving.HEARTBEAT_INTERVAL = HEARTBEAT_INTERVAL
    serving.serve(stdin, operations=OPERATIONS, kinds={}, begin=begin, peer=open_peer)


def request(action: str, *arguments: Any) -> dict[str, Any]:
    """Return the request of an operation."""
    return {"action": action, "arguments": arguments, "named": {}, "size": None}
