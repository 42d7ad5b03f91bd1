# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The datastore: a backing directory, its policies, its ledger, and the mounts of its clients. Independent of FUSE."""

from __future__ import annotations

import os
import resource
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
from .open_files import OpenFiles
from .pipeline import Plan
from .policies import Policy
from .policies.capacity import Capacity
from .policies.durability import Durability
from .policies.identity import Identity
from .policies.rules import Rules
from .policies.schedule import Schedule
from .policies.state import ServerState
from .policies.writeback import Writeback
from .profiles import choose
from .request import ATTRIBUTES, NAMES, OPERATIONS, Request

_CHANGES = NAMES | ATTRIBUTES | {"truncate", "write"}


class Datastore:
    """A simulated datastore. Raises :class:`SimulatedDatastoreError` unless *backing* is a directory."""

    def __init__(self, backing: Path, capabilities: Capabilities, clock: Clock | None = None) -> None:
        # Nodes and open files get a share of this process's descriptors each. The rest is for pins, sockets and
        # requests in progress.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        try:
            self.nodes = NodeTable(backing, min(512, most // 8))
        except OSError as error:
            raise SimulatedDatastoreError(
                f"The backing directory {str(backing)!r} can't be opened: {error.strerror}."
            ) from error
        self._check_numbers(backing)
        self.open_files = OpenFiles(self.nodes, most // 2)
        self.backing = backing
        self.capabilities = capabilities
        self.clock = clock or RealClock()
        self.file_system = FileSystem(self.nodes)
        self.ledger = Ledger()
        self.ledger.check_path = self.check_path
        self.mounts: dict[str, Mount] = {}
        #: By operation; None for an operation without policies.
        self.plans: dict[str, Plan | None] = dict.fromkeys(OPERATIONS)
        #: Function that invalidates a mount's cache of (node, parent, name).
        self.invalidate: Callable[[Mount, Node | None, Node | None, bytes], None] = lambda mount, node, parent, name: (
            None
        )
        #: The waiting requests.
        self.parked: list[Request] = []
        #: Those of *parked* that wait for a change by a user.
        self.hanging: list[Request] = []
        #: True with several clients.
        self.shared = False
        #: Function that cuts the client of a mount off.
        self.disconnect: Callable[[Mount], None] = lambda mount: None
        #: A directory that exists in the backing directory during a crash.
        self.hidden = b".simulated-datastore-crash"
        #: Number of crashes. A request that waited during a crash is lost.
        self.crashes = 0
        self.state = ServerState(self)
        self.rules = Rules(self)
        self.capacity = Capacity(self)
        self.schedule = Schedule(self)
        self.durability = Durability(self, min(2000, most // 8))
        self._before: list[Policy] = [self.state, self.rules, Identity(self), self.schedule]
        self.writeback = Writeback(self)
        self._enter: list[Policy] = [self.writeback, self.capacity, self.durability]
        self._after: list[Policy] = [self.capacity, self.durability, self.rules]
        self._settle: list[Policy] = [self.capacity]

    def _check_numbers(self, backing: Path) -> None:
        """Raise :class:`SimulatedDatastoreError` if new files are on another file system than their directory.

        Inode numbers would be ambiguous.
        """
        try:
            fd = os.open(backing, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            # Some file systems have no nameless files, and some are read-only.
            return
        device = os.fstat(fd).st_dev
        os.close(fd)
        if device != self.nodes.device:
            self.nodes.close()
            raise SimulatedDatastoreError(
                f"The backing directory {str(backing)!r} is on an overlay of several file systems: give one on a "
                "volume or a tmpfs."
            )

    def check_path(self, option: str, path: str) -> None:
        """Raise :class:`SimulatedDatastoreError` for a path that begins with a mount point, because it would match no
        request.
        """
        for place in (*(mount.export.mount_point for mount in self.mounts.values()), os.fspath(self.backing)):
            inside = path.removeprefix(place)
            if (
                place
                and inside != path
                and inside[:1] in ("", "/")
                and not os.path.lexists(os.fspath(self.backing) + place)
            ):
                raise SimulatedDatastoreError(
                    f"{option}: {path!r} begins with {place!r}, but paths begin at the datastore's root: give "
                    f"{inside or '/'!r}."
                )

    def recompile(self) -> None:
        """Recompute which policies each operation goes through, after the change of a policy."""
        for op in OPERATIONS:
            before, enter, after, settle = (
                [policy for policy in stage if policy.concerns(op)]
                for stage in (self._before, self._enter, self._after, self._settle)
            )
            has_any = before or enter or after or settle
            plan = Plan(self.file_system.execute[op], before, enter, after, settle, self.ledger) if has_any else None
            self.plans[op] = plan

    def add_mount(self, export: Export) -> Mount:
        """Add the mount of a client.

        Raises :class:`SimulatedDatastoreError` for a client with a mount, or an export beyond the adapter's
        capabilities.
        """
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

    def invalidate_others(self, request: Request) -> None:
        """Invalidate the caches of other clients after a change by one client."""
        self._tell(
            request,
            [mount for mount in self.mounts.values() if mount is not request.mount and mount.export.profile.coherent],
        )

    def invalidate_all(self, request: Request) -> None:
        """Invalidate the caches of all clients after a false answer."""
        self._tell(request, list(self.mounts.values()))

    def _tell(self, request: Request, mounts: list[Mount]) -> None:
        if request.op not in _CHANGES:
            return
        replaced = request.result[1] if request.op == "rename" and request.result else None
        for mount in mounts:
            for node in (request.node, request.found, request.new_parent, replaced):
                if node is not None and (node.ino in mount.lookups or node is self.nodes.root):
                    self.invalidate(mount, node, None, b"")
            if request.name is not None and request.op in NAMES:
                self.invalidate(mount, None, request.node, request.name)
            if request.new_parent is not None:
                self.invalidate(mount, None, request.new_parent, request.new_name)

    def check_crash(self, **parameters: Any) -> None:
        """Raise :class:`SimulatedDatastoreError` unless :meth:`crash` accepts the parameters."""
        for key in parameters:
            choose("crash", key, ["count", "keep", "names", "restart", "seed", "state"])
        self.durability.check(**parameters)

    def crash(self, **parameters: Any) -> dict[str, Any]:
        """Lose unsynced changes, by the parameters keep, names, seed, count or state; with *restart* come up at once.

        Every open file is lost to its client (ESTALE), and so is every node that has moved.
        """
        self.check_crash(**parameters)
        lost = self.durability.apply(**parameters)
        self.crashes += 1
        for mount in self.mounts.values():
            mount.make_stale()
        self.nodes.recheck()
        self.capacity.recount()
        self.forget_caches()
        self.state.set("up" if parameters.get("restart") else "down")
        return lost

    def restart(self) -> None:
        """Come up after a crash, or from any other state."""
        self.state.set("up")

    def forget_caches(self) -> None:
        """Invalidate all caches of all clients."""
        for mount in self.mounts.values():
            for ino in mount.lookups:
                node = self.nodes.known(ino)
                if node is not None:
                    self.invalidate(mount, node, None, b"")
                    for parent, name in node.links:
                        self.invalidate(mount, None, parent, name)
            self.invalidate(mount, self.nodes.root, None, b"")

    def status(self) -> dict[str, Any]:
        """Return the datastore as plain data."""
        return {
            "backing": str(self.backing),
            "pid": os.getpid(),
            "clock": {"kind": self.clock.kind, "now": self.clock.now()},
            "nodes": len(self.nodes),
            "open_directories": self.nodes.open_directories(),
            "clients": {
                mount.client: {
                    "profile": mount.export.profile.name,
                    "squash": mount.export.squash,
                    "read_only": mount.export.read_only,
                    "strict": mount.export.strict,
                    "open": len(mount.handles),
                    "nodes": len(mount.lookups),
                }
                for mount in self.mounts.values()
            },
            "state": self.state.status(),
            "capacity": self.capacity.status(),
            "schedule": self.schedule.status(),
            "rules": self.rules.status(),
            "crash_tracking": self.durability.tracking,
            "settings": self.settings(),
            "parked": len(self.parked),
            "hanging": len(self.hanging),
            "ledger": self.ledger.status(),
            "capabilities": self.capabilities.as_dict(),
        }

    def settings(self) -> dict[str, Any]:
        """Return all settings by their keys."""
        capacity = self.capacity.status()
        state = {key: value for key, value in self.state.status().items() if key != "clients"}
        quotas = [
            {key: quota[key] for key in ("uid", "path", "size", "inodes") if quota[key] is not None}
            for quota in capacity["quotas"]
        ]
        return {
            **{key: capacity[key] for key in ("size", "inodes", "max_file", "error_at")},
            "quotas": quotas,
            **self.schedule.status(),
            **state,
            "crash_tracking": self.durability.tracking,
        }

    def close(self) -> None:
        for mount in list(self.mounts.values()):
            self.remove_mount(mount)
        self.ledger.close()
        self.nodes.close()


__all__ = ["Datastore"]
