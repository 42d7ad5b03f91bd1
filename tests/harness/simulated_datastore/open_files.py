# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The descriptors of the clients' open files: an LRU, because all clients together may exceed a process's limit."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING

from .nodes import NodeTable

if TYPE_CHECKING:
    from .mount import Handle

#: Flags of open(2) that a descriptor in the backing directory must not have. O_APPEND: the kernel passes offsets.
#: O_DIRECT: the daemon's buffers aren't aligned. O_CREAT, O_EXCL and O_TRUNC: requests of their own.
_NOT_BELOW = os.O_APPEND | os.O_DIRECT | os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY


def flags_below(flags: int) -> int:
    """Return the flags for the backing directory. A writer's descriptor is also readable, because policies read old
    data.
    """
    flags &= ~_NOT_BELOW
    if flags & os.O_ACCMODE == os.O_WRONLY:
        flags = flags & ~os.O_ACCMODE | os.O_RDWR
    return flags


class OpenFiles:
    """At most *limit* descriptors. The least recently used one is closed, and opened again for its handle."""

    def __init__(self, nodes: NodeTable, limit: int) -> None:
        self._nodes = nodes
        self.limit = limit
        self._order: OrderedDict[Handle, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    def add(self, handle: Handle, fd: int) -> None:
        """Add *fd* as the descriptor of *handle*."""
        while len(self._order) >= self.limit:
            oldest = self._order.popitem(last=False)[0]
            os.close(oldest.held)
            oldest.held = -1
        handle.held = fd
        self._order[handle] = None

    def use(self, handle: Handle) -> int:
        """Return the descriptor of *handle*, valid until the next call. Raises :class:`OSError` if it can't be opened
        again.
        """
        if handle.held >= 0:
            self._order.move_to_end(handle)
        elif not handle.lost:
            self.add(handle, self._nodes.open(handle.node, flags_below(handle.flags)))
        return handle.held

    def close(self, handle: Handle) -> None:
        """Close the descriptor of *handle*. Raises the :class:`OSError` of close(2), after which the descriptor is
        gone, too.
        """
        if handle.held >= 0:
            del self._order[handle]
            fd, handle.held = handle.held, -1
            os.close(fd)


__all__ = ["OpenFiles", "flags_below"]
