# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The capabilities of an adapter to the kernel. A policy is refused when its capability is missing."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .errors import SimulatedDatastoreError


@dataclass(frozen=True)
class Capabilities:
    """The capability record of one adapter."""

    adapter: str
    #: The adapter passes the uid and pid of read, write, close and fsync requests.
    caller_of_data: bool = False
    #: The adapter can cut a client off its mount.
    disconnect: bool = False
    #: Reads and writes can bypass the page cache.
    strict: bool = False
    #: The adapter can invalidate the kernel's caches.
    invalidate: bool = False
    #: The kernel passes fallocate requests.
    fallocate: bool = False
    seek_hole: bool = False
    copy_file_range: bool = False
    locks: bool = False
    ioctl: bool = False
    syncfs: bool = False
    interrupt: bool = False

    def require(self, capability: str, what: str) -> None:
        """Raise :class:`SimulatedDatastoreError` unless the adapter has *capability*, which *what* needs."""
        if not getattr(self, capability):
            raise SimulatedDatastoreError(
                f"{what} needs the capability {capability!r}, which the adapter {self.adapter!r} doesn't have."
            )

    def as_dict(self) -> dict[str, object]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


__all__ = ["Capabilities"]
