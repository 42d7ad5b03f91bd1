# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The datastore: a backing directory, its policies, its ledger, and the mounts of its clients. Nothing here knows FUSE."""
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .capabilities import Capabilities
from .clock import Clock, RealClock
from .errors import SimulatedDatastoreError
from .file_system import FileSystem
from .ledger import Ledger
from .mount import Export, Mount
from .nodes import Node, NodeTable
from .pipeline import Plan
from .policies import Policy
from .request import ATTRIBUTES, NAMES, OPERATIONS, Request

_CHANGES = NAMES | ATTRIBUTES | {"truncate", "write"}


class Datastore:
    """One simulated datastore. *backing* must be a directory; raises :class:`SimulatedDatastoreError` otherwise."""

    def __init__(self, backing: Path, capabilities: Capabilities, clock: Clock | None = None) -> None:
        try:
            self.nodes = NodeTable(backing)
        except OSError as error:
            raise SimulatedDatastoreError(f"The backing directory {str(backing)!r} can't be opened: {error.strerror}.") from error
        self.backing = backing
        self.capabilities = capabilities
        self.clock = clock or RealClock()
        self.file_system = FileSystem(self.nodes)
        self.ledger = Ledger()
        self.mounts: dict[str, Mount] = {}
        #: By operation; None where no policy concerns it.
        self.plans: dict[str, Plan | None] = dict.fromkeys(OPERATIONS)
        #: Called with a mount whose cache is out of date, and what it is about: (node, parent, name).
        self.invalidate: Callable[[Mount, Node | None, Node | None, bytes], None] = lambda mount, node, parent, name: None
        #: The requests that wait for something.
        self.parked: list[Request] = []
        #: Whether several clients have it mounted.
        self.shared = False
        self._before: list[Policy] = []
        self._after: list[Policy] = []
        self._settle: list[Policy] = []

    def recompile(self) -> None:
        """A policy was changed: from now on requests go through those that concern them."""
        for op in OPERATIONS:
            before, after, settle = ([policy for policy in stage if policy.concerns(op)] for stage in (self._before, self._after, self._settle))
            self.plans[op] = Plan(self.file_system.execute[op], before, after, settle, self.ledger) if before or after or settle else None

    def add_mount(self, export: Export) -> Mount:
        """Raises :class:`SimulatedDatastoreError` for a client that has a mount already, or an export the adapter can't offer."""
        if export.client in self.mounts:
            raise SimulatedDatastoreError(f"client: {export.client!r} has this datastore mounted already.")
        if export.strict:
            self.capabilities.require("strict", "strict: true")
        mount = self.mounts[export.client] = Mount(self, export)
        self._mounts_changed()
        return mount

    def remove_mount(self, mount: Mount) -> None:
        if self.mounts.get(mount.client) is mount:
            del self.mounts[mount.client]
        mount.disconnect()
        self._mounts_changed()

    def _mounts_changed(self) -> None:
        self.shared = len(self.mounts) > 1
        self.recompile()

    def changed(self, request: Request) -> None:
        """One client changed something: tell the caches of the others that want to know."""
        if request.op not in _CHANGES:
            return
        for mount in self.mounts.values():
            if mount is request.mount or not mount.export.profile.coherent:
                continue
            for node in (request.node, request.found, request.new_parent):
                if node is not None and (node.ino in mount.lookups or node is self.nodes.root):
                    self.invalidate(mount, node, None, b"")
            if request.name is not None and request.op in NAMES:
                self.invalidate(mount, None, request.node, request.name)
            if request.new_parent is not None:
                self.invalidate(mount, None, request.new_parent, request.new_name)

    def status(self) -> dict[str, Any]:
        """The datastore as plain data."""
        return {
            "backing": str(self.backing), "pid": os.getpid(), "clock": {"kind": self.clock.kind, "now": self.clock.now()},
            "nodes": len(self.nodes), "open_directories": self.nodes.open_directories(),
            "clients": {mount.client: {
                "profile": mount.export.profile.name, "squash": mount.export.squash, "read_only": mount.export.read_only, "strict": mount.export.strict,
                "open": len(mount.handles), "nodes": len(mount.lookups)} for mount in self.mounts.values()},
            "parked": len(self.parked), "ledger": self.ledger.status(), "capabilities": self.capabilities.as_dict()}

    def close(self) -> None:
        for mount in list(self.mounts.values()):
            self.remove_mount(mount)
        self.ledger.close()
        self.nodes.close()


__all__ = ["Datastore"]
