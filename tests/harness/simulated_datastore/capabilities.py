# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""What an adapter to the kernel can do. A policy that needs more is refused when it is set."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .errors import SimulatedDatastoreError


@dataclass(frozen=True)
class Capabilities:
    """The capability record of one adapter."""

    adapter: str
    #: The uid and pid of read, write, close and fsync requests are known.
    caller_of_data: bool = False
    #: A client can be cut off its mount.
    disconnect: bool = False
    #: Reads and writes can bypass the page cache.
    strict: bool = False
    #: The kernel's caches can be told that something changed.
    invalidate: bool = False
    #: Requests that are passed on at all.
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
