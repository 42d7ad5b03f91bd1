# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Errors of writing back, which a program hears of later: at fsync, or when it closes the file.

They belong to the file, as one client's kernel has it, and not to a descriptor: fsync(2) tells each descriptor that was
open at the time once, and one that was opened later if it is the first to hear of it (fsync(2), "ERRORS"; errseq_t in
the kernel's documentation). close(2) tells of what nobody has heard of by fsync, as that of an NFS client does
(close(2), "NOTES").
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
    """The content of one file in the page cache of one client, as far as errors are concerned."""

    def __init__(self) -> None:
        #: The errno that what isn't written back yet will meet; 0 for none.
        self.pending = 0
        #: The last error, the number of it, and whether anybody has heard of it.
        self.error = 0
        self.number = 0
        self.heard = True

    def fail(self, number: int) -> None:
        """Writing back has failed: an error that nobody has heard of is the same one still."""
        self.error = number
        if self.heard:
            self.number += 1
            self.heard = False

    def write_back(self) -> None:
        if self.pending:
            self.fail(self.pending)
            self.pending = 0

    def sample(self) -> int:
        """The error that a descriptor knows which is opened now: the one before the last, when nobody has heard of
        that.
        """
        return self.number if self.heard else self.number - 1


class Writeback(Policy):
    """Which client and file has met an error."""

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
        """A write was accepted, and what it wrote can't be stored: *number* is the errno."""
        self._mapping(handle).pending = number

    def told(self, handle: Handle, number: int) -> None:
        """Writing back has failed, and the fsync of this descriptor has just told so."""
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
