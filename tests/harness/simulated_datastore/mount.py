# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""A client's mount of the datastore, with the operations that the adapter calls.

Every method takes the kernel's inode numbers, and returns a :class:`Request` or raises :class:`OSError`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from .file_system import clear_privileges
from .nodes import Node
from .profiles import Profile
from .request import Caller, Request

if TYPE_CHECKING:
    from .datastore import Datastore
    from .policies.writeback import Mapping

#: The operation of a setattr, by its first changed attribute.
_SETATTR = (
    ("size", "truncate"),
    ("uid", "chown"),
    ("gid", "chown"),
    ("mode", "chmod"),
    ("atime_ns", "utimens"),
    ("mtime_ns", "utimens"),
)


@dataclass(frozen=True)
class Export:
    """The export of the datastore to a client: profile, ids of the anonymous user, timeouts in seconds, ..."""

    client: str
    profile: Profile
    squash: str
    anonymous: tuple[int, int] = (65534, 65534)
    read_only: bool = False
    #: The mount bypasses the page cache: the ledger is exact, and mmap doesn't work.
    strict: bool = False
    #: The mount point. No path of the datastore begins with it.
    mount_point: str = ""
    #: Seconds until a hanging request fails with EIO, as on an NFS mount with the option "soft" (nfs(5)); None: never.
    soft: float | None = None


class Opener(NamedTuple):
    """The user other than root who opened a file; *pid* is 0 for a user without supplementary groups."""

    uid: int
    gid: int
    pid: int


class Handle:
    """An open file or directory of a client."""

    __slots__ = ("entries", "flags", "heard", "held", "lost", "mount", "node", "number", "opener")

    def __init__(self, mount: Mount, number: int, node: Node, flags: int) -> None:
        self.mount = mount
        self.number = number
        #: The open descriptor, -1 for none.
        self.held = -1
        #: The server has lost the handle in a crash.
        self.lost = False
        self.node = node
        self.flags = flags
        self.entries: list[bytes] | None = None
        #: The user who opened the file, needed because write requests have no user.
        self.opener: Opener | None = None
        mapping = mount.mappings.get(node)
        #: Number of the last write-back error that was reported to this handle, or before its open.
        self.heard = 0 if mapping is None else mapping.sample()

    @property
    def fd(self) -> int:
        """A descriptor that is valid until the next use of another. Raises :class:`OSError` if a reopen fails."""
        return self.mount.open_files.use(self)


class Mount:
    """The operations of one client."""

    def __init__(self, datastore: Datastore, export: Export) -> None:
        self.datastore = datastore
        self.export = export
        self.client = export.client
        self.nodes = datastore.nodes
        self.open_files = datastore.open_files
        self.handles: dict[int, Handle] = {}
        #: Number of lookups of each node by this client, by inode number.
        self.lookups: dict[int, int] = {}
        #: Version of the content with this client's last attributes of the node, for close-to-open.
        self.seen: dict[int, int] = {}
        #: Files with write-back errors of this client.
        self.mappings: dict[Node, Mapping] = {}
        #: Function that is called before a request waits, so that the adapter starts another reader.
        self.relieve: Callable[[], None] = lambda: None
        self._next = 1
        self._plans = datastore.plans
        self._execute = datastore.file_system.execute
        self._ledger = datastore.ledger

    @property
    def appends_at_end(self) -> bool:
        """True if O_APPEND writes at the file's end, false if at the end in the client's kernel, as on a network file
        system.
        """
        return self.datastore.shared and self.export.profile.coherent

    async def run(self, request: Request) -> Request:
        """Execute *request* with all its policies."""
        plan = self._plans[request.op]
        if plan is not None:
            try:
                await plan.run(request)
            except OSError:
                if request.rules:
                    self.datastore.invalidate_all(request)
                raise
            if request.skip:
                self.datastore.invalidate_all(request)
        else:
            try:
                self._execute[request.op](request)
            except OSError as error:
                request.error = error.errno or errno.EIO
                raise
            finally:
                self._ledger.note(request)
        if self.datastore.shared:
            self.datastore.invalidate_others(request)
        return request

    async def park(self, request: Request, wait: Awaitable[Any], *, hangs: bool = False) -> None:
        """Let *request* wait for *wait*, while others continue. With *hangs* an event other than time ends it."""
        self.relieve()
        crashes = self.datastore.crashes
        lists = [self.datastore.parked, self.datastore.hanging] if hangs else [self.datastore.parked]
        for waiting in lists:
            waiting.append(request)
        self._ledger.call_watchers()
        try:
            await self._wait(wait)
        finally:
            for waiting in lists:
                waiting.remove(request)
        if self.datastore.crashes != crashes and request.op not in ("release", "releasedir"):
            raise OSError(errno.EIO, "the server has crashed since")
        self.datastore.state.gate(request)

    async def _wait(self, wait: Awaitable[Any]) -> None:
        """Await *wait*. Raises EIO at the end of the client's time."""
        if self.export.soft is None:
            await wait
            return
        clock = self.datastore.clock
        over = False

        async def give_up(deadline: float) -> None:
            nonlocal over
            await clock.sleep_until(deadline)
            over = True
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up, clock.now() + self.export.soft)
            await wait
            nursery.cancel_scope.cancel()
        if over:
            raise OSError(errno.EIO, "the client has waited long enough")

    # Names

    async def lookup(self, parent: int, name: bytes, caller: Caller) -> Request:
        return self._count(await self.run(Request("lookup", self, self.nodes.get(parent), name, caller=caller)))

    async def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Request:
        return self._count(
            await self.run(Request("mkdir", self, self.nodes.get(parent), name, mode=mode, caller=caller))
        )

    async def mknod(self, parent: int, name: bytes, mode: int, device: int, caller: Caller) -> Request:
        return self._count(
            await self.run(
                Request("mknod", self, self.nodes.get(parent), name, mode=mode, arguments=device, caller=caller)
            )
        )

    async def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Request:
        return self._count(
            await self.run(Request("symlink", self, self.nodes.get(parent), name, data=target, caller=caller))
        )

    async def link(self, ino: int, parent: int, name: bytes, caller: Caller) -> Request:
        request = Request(
            "link", self, self.nodes.get(ino), caller=caller, new_parent=self.nodes.get(parent), new_name=name
        )
        return self._count(await self.run(request))

    async def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> Request:
        request = self._count(
            await self.run(Request("create", self, self.nodes.get(parent), name, mode=mode, flags=flags, caller=caller))
        )
        self._store_opener(request.result, caller)
        return request

    def _store_opener(self, handle: Handle, caller: Caller) -> Handle:
        """Store the user who opened a file, because write requests have no user.

        The kernel leaves clearing the set-ID bits to the server in three cases: on a strict mount, for a squashed root,
        and for users outside the group of a file that the group can't execute.
        """
        handle.opener = self._acting(caller)
        return handle

    def _acting(self, caller: Caller) -> Opener | None:
        """Return *caller* in the eyes of the server; None for root."""
        export = self.export
        if export.squash == "all" or (export.squash == "root" and caller.uid == 0):
            return Opener(*export.anonymous, pid=0)
        return Opener(caller.uid, caller.gid, caller.pid) if caller.uid else None

    async def unlink(self, parent: int, name: bytes, caller: Caller) -> Request:
        return await self.run(Request("unlink", self, self.nodes.get(parent), name, caller=caller))

    async def rmdir(self, parent: int, name: bytes, caller: Caller) -> Request:
        return await self.run(Request("rmdir", self, self.nodes.get(parent), name, caller=caller))

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, caller: Caller
    ) -> Request:
        get = self.nodes.get
        return await self.run(
            Request(
                "rename",
                self,
                get(parent),
                name,
                flags=flags,
                caller=caller,
                new_parent=get(new_parent),
                new_name=new_name,
            )
        )

    def _count(self, request: Request) -> Request:
        if request.found is not None:
            self.count(request.found)
        return request

    def count(self, node: Node) -> None:
        """Count a lookup of *node* by the client."""
        node.lookups += 1
        self.lookups[node.ino] = self.lookups.get(node.ino, 0) + 1

    def forget(self, ino: int, number: int) -> None:
        """Record that the client has forgotten *number* lookups of the node."""
        left = self.lookups.get(ino, 0) - number
        node = self.nodes.known(ino)
        if left > 0:
            self.lookups[ino] = left
        else:
            self.lookups.pop(ino, None)
            self.seen.pop(ino, None)
            if node is not None:
                # The inode leaves the client's memory, and its unreported errors with it.
                self.mappings.pop(node, None)
        if node is not None:
            node.lookups -= number
            if node.lookups <= 0 and not node.handles:
                self.nodes.drop(node)

    # Attributes

    async def getattr(self, ino: int, caller: Caller) -> Request:
        return await self.run(Request("getattr", self, self.nodes.get(ino), caller=caller))

    async def setattr(self, ino: int, change: dict[str, int], handle: int | None, caller: Caller) -> Request:
        """Set attributes; *change* has any of size, uid, gid, mode, atime_ns, mtime_ns."""
        node = self.nodes.get(ino)
        op = next((op for key, op in _SETATTR if key in change), "getattr")
        acting = self._acting(caller) if op == "truncate" else None
        if acting is not None:
            now = self.nodes.stat(node)
            mode = clear_privileges(now.st_mode, now.st_gid, acting)
            if mode != now.st_mode:
                change["mode"] = mode
        return await self.run(
            Request(
                op,
                self,
                node,
                arguments=change,
                size=change.get("size", 0),
                caller=caller,
                handle=None if handle is None else self.handles.get(handle),
            )
        )

    async def readlink(self, ino: int, caller: Caller) -> bytes:
        return (await self.run(Request("readlink", self, self.nodes.get(ino), caller=caller))).result

    async def getxattr(self, ino: int, name: bytes, caller: Caller) -> bytes:
        return (await self.run(Request("getxattr", self, self.nodes.get(ino), data=name, caller=caller))).result

    async def setxattr(self, ino: int, name: bytes, value: bytes, caller: Caller) -> None:
        await self.run(Request("setxattr", self, self.nodes.get(ino), data=name, arguments=value, caller=caller))

    async def listxattr(self, ino: int, caller: Caller) -> list[bytes]:
        return (await self.run(Request("listxattr", self, self.nodes.get(ino), caller=caller))).result

    async def removexattr(self, ino: int, name: bytes, caller: Caller) -> None:
        await self.run(Request("removexattr", self, self.nodes.get(ino), data=name, caller=caller))

    async def statfs(self, caller: Caller) -> Any:
        return (await self.run(Request("statfs", self, self.nodes.root, caller=caller))).result

    # Files

    async def open(self, ino: int, flags: int, caller: Caller) -> Handle:
        node = self.nodes.get(ino)
        handle = self._store_opener(
            (await self.run(Request("open", self, node, flags=flags, caller=caller))).result, caller
        )
        if flags & os.O_TRUNC and flags & os.O_ACCMODE != os.O_RDONLY:
            try:
                change = {"size": 0}
                now = os.fstat(handle.fd)
                mode = (
                    now.st_mode if handle.opener is None else clear_privileges(now.st_mode, now.st_gid, handle.opener)
                )
                if mode != now.st_mode:
                    # When the kernel leaves the truncate to the server, the set-ID bits are the server's, too
                    # (file_remove_privs).
                    change["mode"] = mode
                await self.run(Request("truncate", self, node, arguments=change, handle=handle, caller=caller))
            except OSError:
                self.remove_handle(handle)
                raise
        return handle

    async def opendir(self, ino: int, caller: Caller) -> Handle:
        return (await self.run(Request("opendir", self, self.nodes.get(ino), caller=caller))).result

    async def read(self, number: int, offset: int, size: int) -> bytes:
        handle = self.handles[number]
        request = Request("read", self, handle.node, handle=handle, offset=offset, size=size)
        if self._plans["read"] is None and not handle.lost:
            # A short path, because this is the most frequent request.
            try:
                data = request.result = os.pread(handle.fd, size, offset)
            except OSError as error:
                request.error = error.errno or errno.EIO
                raise
            finally:
                self._ledger.note(request)
            return data
        return (await self.run(request)).result

    async def write(self, number: int, offset: int, data: bytes) -> int:
        handle = self.handles[number]
        if handle.opener is not None and data and not handle.lost:
            await self._take_privileges(handle, handle.opener)
        request = await self.run(
            Request("write", self, handle.node, handle=handle, offset=offset, data=data, size=len(data))
        )
        if request.offset != offset:
            # The kernel has cached the written bytes at another offset.
            self.datastore.invalidate(self, handle.node, None, b"")
        return request.result

    async def _take_privileges(self, handle: Handle, opener: Caller) -> None:
        """Clear the set-ID bits of a file before a write, by a request of its own, like the kernel where it caches
        writes.
        """
        now = os.fstat(handle.fd)
        mode = clear_privileges(now.st_mode, now.st_gid, opener)
        if mode != now.st_mode:
            await self.run(Request("chmod", self, handle.node, arguments={"mode": mode}, handle=handle))
            self.datastore.invalidate(self, handle.node, None, b"")

    async def readdir(self, number: int, offset: int) -> list[bytes]:
        handle = self.handles[number]
        return (await self.run(Request("readdir", self, handle.node, handle=handle, offset=offset))).result

    def entry(self, number: int, name: bytes) -> tuple[Node, os.stat_result] | None:
        return self.datastore.file_system.entry(self.handles[number], name)

    async def close(self, number: int) -> None:
        handle = self.handles[number]
        await self.run(Request("close", self, handle.node, handle=handle))

    async def fsync(self, number: int, data_only: bool) -> None:
        handle = self.handles[number]
        await self.run(Request("fsync", self, handle.node, handle=handle, arguments=data_only))

    async def fsyncdir(self, number: int, data_only: bool) -> None:
        handle = self.handles[number]
        await self.run(Request("fsyncdir", self, handle.node, handle=handle, arguments=data_only))

    async def release(self, number: int, op: str = "release") -> None:
        handle = self.handles[number]
        try:
            await self.run(Request(op, self, handle.node, handle=handle))
        finally:
            # The kernel ignores the error and has dropped the handle.
            self.remove_handle(handle)

    def add_handle(self, fd: int, node: Node, flags: int) -> Handle:
        handle = Handle(self, self._next, node, flags)
        self._next += 1
        self.open_files.add(handle, fd)
        self.handles[handle.number] = handle
        node.handles.append(handle)
        if not node.links and not node.orphan:
            self.datastore.capacity.count_opened(node)
        return handle

    def remove_handle(self, handle: Handle) -> None:
        """Close a handle, which is gone even if close(2) fails."""
        if self.handles.pop(handle.number, None) is None:
            return
        node = handle.node
        self._lets_go(handle)
        node.handles.remove(handle)
        self.open_files.close(handle)
        if node.lookups <= 0 and not node.handles:
            self.nodes.drop(node)

    def _lets_go(self, handle: Handle) -> None:
        """Note the end of *handle*: a nameless file goes with its last handle on the server."""
        node = handle.node
        if node.orphan and all(other is handle or other.lost for other in node.handles):
            node.orphan = False
            self.datastore.capacity.subtract_closed(node)

    def make_stale(self) -> None:
        """Make all handles of this client stale."""
        for handle in self.handles.values():
            self._lets_go(handle)
            handle.lost = True
            self.open_files.close(handle)

    def disconnect(self) -> None:
        """Drop all nodes and handles of the client, which is gone."""
        for handle in list(self.handles.values()):
            self.remove_handle(handle)
        for ino, number in list(self.lookups.items()):
            self.forget(ino, number)


__all__ = ["Export", "Handle", "Mount"]
