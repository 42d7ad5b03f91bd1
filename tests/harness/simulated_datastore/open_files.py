# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The descriptors of what clients have open: an LRU, so that all clients together can have more open than one
process may.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING

from .nodes import NodeTable

if TYPE_CHECKING:
    from .mount import Handle

#: Of the flags of open(2), what a descriptor in the backing directory must not have: O_APPEND, as the kernel gives
#: offsets; O_DIRECT, as our buffers aren't aligned; O_CREAT, O_EXCL and O_TRUNC, as they are requests of their own.
_NOT_BELOW = os.O_APPEND | os.O_DIRECT | os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY


def flags_below(flags: int) -> int:
    """The flags a file is opened with in the backing directory: a writer's descriptor can also be read, for policies
    that look at what was there.
    """
    flags &= ~_NOT_BELOW
    if flags & os.O_ACCMODE == os.O_WRONLY:
        flags = flags & ~os.O_ACCMODE | os.O_RDWR
    return flags


class OpenFiles:
    """At most *limit* descriptors: the one that was used longest ago is closed, and opened again when its handle is
    used.
    """

    def __init__(self, nodes: NodeTable, limit: int) -> None:
        self._nodes = nodes
        self.limit = limit
        self._order: OrderedDict[Handle, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    def add(self, handle: Handle, fd: int) -> None:
        """*fd* is the descriptor of *handle*."""
        while len(self._order) >= self.limit:
            oldest = self._order.popitem(last=False)[0]
            os.close(oldest.held)
            oldest.held = -1
        handle.held = fd
        self._order[handle] = None

    def use(self, handle: Handle) -> int:
        """The descriptor of *handle*, good until the next call; raises :class:`OSError` when it can't be opened
        again.
        """
        if handle.held >= 0:
            self._order.move_to_end(handle)
        elif not handle.lost:
            self.add(handle, self._nodes.open(handle.node, flags_below(handle.flags)))
        return handle.held

    def close(self, handle: Handle) -> None:
        """Whatever close(2) reports, the descriptor is gone."""
        if handle.held >= 0:
            del self._order[handle]
            fd, handle.held = handle.held, -1
            os.close(fd)


__all__ = ["OpenFiles", "flags_below"]
