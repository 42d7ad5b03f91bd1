# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The operations of the trial on the other host."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import Any

from .._core.directory import opened_directory
from .._core.part_directory import remove_at
from .._remote.serve import Handlers, Request
from .._remote.transfer import Route, push_tree
from .._remote.tree import Source
from .._remote.tree_peer import TreePeer
from . import protocol


def work(directory: str) -> str:
    """Create the file ``began``, and wait until somebody creates the file ``go``."""
    os.close(os.open(f"{directory}/began", os.O_CREAT | os.O_WRONLY))
    while not os.path.exists(f"{directory}/go"):
        time.sleep(0.01)
    return "worked"


def begin(_request: Request, peer: TreePeer | None, log: Callable[[str], object]) -> Handlers:
    """Return the handlers of a request."""

    def put(directory: str) -> str:
        """Receive a tree into a directory of this host."""
        with opened_directory(directory) as opened:
            peer.receive(opened, directory)
        return "stored"

    def put_until_full(directory: str, limit: int) -> str:
        """Receive a tree into a file system that other programs fill meanwhile."""
        read_into, left = peer.read_into, [limit]

        def limited(buffer: memoryview) -> None:
            left[0] -= len(buffer)
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            read_into(buffer)

        peer.read_into = limited
        return put(directory)

    def get(directory: str, names: dict[str, str]) -> str:
        """Send files of a directory, and then remove them."""
        with opened_directory(directory) as opened:
            peer.send(Source(opened, directory, names))
            for name in names:
                remove_at(opened, name)
        return "removed"

    def read(directory: str, names: dict[str, str]) -> str:
        """Send files of a directory."""
        with opened_directory(directory) as opened:
            peer.send(Source(opened, directory, names))
        return "kept"

    def pass_on(directory: str, names: dict[str, str], host: str, target: str) -> str:
        """Send files of a directory directly to another host."""
        with opened_directory(directory) as opened:
            source = Source(opened, directory, names)
            route = Route(host, protocol.__name__, log)
            request = protocol.request("put", target)
            result: str = push_tree(route, "put", protocol.OPERATIONS["put"], request, source, kinds={})
        return result

    handlers: dict[str, Callable[..., Any]] = {
        "get": get,
        "put": put,
        "put_until_full": put_until_full,
        "pass_on": pass_on,
        "read": read,
        "work": work,
    }
    return handlers, lambda made: None
