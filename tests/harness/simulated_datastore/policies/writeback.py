# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Write-back errors, which a program gets later: in fsync, or when it closes the file.

Such an error belongs to the file in one client's kernel, not to a descriptor. fsync(2) reports it once per descriptor
that was open at the time. To a descriptor that was opened later fsync(2) only reports an unreported error (fsync(2),
"ERRORS"; errseq_t in the kernel's documentation). close(2) reports an error that no fsync has reported, like in an NFS
client (close(2), "NOTES").
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..mount import Handle
from ..request import Request
from . import Policy

if TYPE_CHECKING:
    from ..datastore import Datastore


class Mapping:
    """The write-back errors of one file in the page cache of one client."""

    def __init__(self) -> None:
        #: The errno that the next write-back will meet; 0 for none.
        self.pending = 0
        #: The last error, its number, and True if it was reported.
        self.error = 0
        self.number = 0
        self.heard = True

    def fail(self, number: int) -> None:
        """Record a failed write-back. An unreported error keeps its number."""
        self.error = number
        if self.heard:
            self.number += 1
            self.heard = False

    def write_back(self) -> None:
        if self.pending:
            self.fail(self.pending)
            self.pending = 0

    def sample(self) -> int:
        """Return the number of the last error for a new descriptor; an unreported error doesn't count."""
        return self.number if self.heard else self.number - 1


class Writeback(Policy):
    """The write-back errors of all clients and files."""

    name = "writeback"

    def __init__(self, datastore: Datastore) -> None:
        self._datastore = datastore

    def concerns(self, op: str) -> bool:
        return op in ("close", "fsync") and any(mount.mappings for mount in self._datastore.mounts.values())

    def _mapping(self, handle: Handle) -> Mapping:
        mappings = handle.mount.mappings
        if handle.node not in mappings:
            mappings[handle.node] = Mapping()
            self._datastore.recompile()
        return mappings[handle.node]

    def lose(self, handle: Handle, number: int) -> None:
        """Record that the data of a successful write can't be stored; *number* is the errno."""
        self._mapping(handle).pending = number

    def record_reported(self, handle: Handle, number: int) -> None:
        """Record a failed write-back that this descriptor's fsync has just reported."""
        mapping = self._mapping(handle)
        mapping.fail(number)
        mapping.heard, handle.heard = True, mapping.number

    def enter(self, request: Request) -> None:
        handle = request.handle
        if handle is None or handle.lost or (mapping := handle.mount.mappings.get(handle.node)) is None:
            return
        if request.op == "fsync":
            mapping.write_back()
            if handle.heard != mapping.number:
                mapping.heard, handle.heard = True, mapping.number
                raise OSError(mapping.error, os.strerror(mapping.error))
        elif self._datastore.capacity.reports_at(handle.mount) == "close":
            mapping.write_back()
            if not mapping.heard:
                raise OSError(mapping.error, os.strerror(mapping.error))


__all__ = ["Mapping", "Writeback"]
