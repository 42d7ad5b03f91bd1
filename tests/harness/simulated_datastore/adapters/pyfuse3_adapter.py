# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The adapter to FUSE that uses pyfuse3.

pyfuse3 ends its loop at any exception other than FUSEError. Every handler therefore converts its exceptions:
:class:`OSError` is the client's error; any other exception is a bug, for which the client gets EIO and the log a
traceback.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import select
import stat
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

import trio

from ..capabilities import Capabilities
from ..errors import SimulatedDatastoreError
from ..file_system import CAPABILITY
from ..mount import Mount
from ..nodes import Node
from ..request import Request
from ..system import mounts
from .pyfuse3_module import copy_module

CAPABILITIES = Capabilities(adapter="pyfuse3", disconnect=True, strict=True, invalidate=True)
#: Options of mount(8) that exist for each file system, and that libfuse accepts, too.
FLAGS = ("noatime", "nodev", "nodiratime", "noexec", "nosuid")
#: Number of CAP_SYS_ADMIN (linux/capability.h).
_SYS_ADMIN = 21
#: Inode number of the root in FUSE.
_ROOT = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KernelTable:
    """A row of the kernel's table of mounts: the source, the type after ``fuse.``, and options of each file system."""

    source: str
    type: str
    flags: tuple[str, ...] = ()


class Pyfuse3Adapter:
    """A mount at *mount_point*, a path without symbolic links. Raises :class:`SimulatedDatastoreError` for a failed
    mount.

    *trim* is the number of nodes in the client's memory above which the kernel has to forget the oldest.
    """

    def __init__(self, mount: Mount, mount_point: Path, trim: int, table: KernelTable) -> None:
        self.mount = mount
        self.mount_point = mount_point
        self.trim = trim
        self.table = table
        self._pyfuse3, self._trio = copy_module()
        self._nursery: trio.Nursery | None = None
        self._jobs: Queue[tuple[Node | None, Node | None, bytes] | None] = Queue()
        self._trimming = False
        self._session_lock = threading.Lock()
        self._closed = False
        self._ended = False
        #: Descriptor of the session; set by the mount.
        self.session_fd: int
        #: Event that the mount is gone.
        self.closed = trio.Event()
        all_squash = mount.export.squash == "all"
        source = table.source.replace("\\", "\\\\").replace(",", "\\,")
        options = {f"fsname={source}", f"subtype={table.type}", "allow_other", *table.flags}
        # Root's mounts have neither "nodev" nor "nosuid" by default.
        options |= {"dev", "suid"} - {flag.removeprefix("no") for flag in table.flags}
        if not all_squash:
            # Without it the kernel would check permissions of users that the server squashes.
            options.add("default_permissions")
        if mount.export.read_only:
            options.add("ro")
        operations = _operations(self, self._pyfuse3, acl=not all_squash)
        try:
            self._pyfuse3.init(operations, os.fspath(mount_point), options)
        except RuntimeError as error:
            raise SimulatedDatastoreError(
                f"{str(mount_point)!r} can't be mounted: {_explain_refusal() or error}."
            ) from error
        # Read the kernel's table only: a system call on the mount would wait for this process.
        self.device = next((mount.device for mount in reversed(mounts()) if mount.path == os.fspath(mount_point)), "")
        _read_ahead(self.device)
        _sessions.register(self._session_fd(), select.POLLIN)
        # The kernel withdraws a request when its process is killed before the read. A blocking read would then stop the
        # daemon.
        os.set_blocking(self.session_fd, False)
        self._trio.ready = _make_ready_check(self.session_fd, mount.datastore.parked)
        mount.relieve = self._relieve

    def _session_fd(self) -> int:
        """Return the descriptor of the session: the newest descriptor of /dev/fuse."""
        found = [int(name) for name in os.listdir("/proc/self/fd") if _target(name) == "/dev/fuse"]
        taken = {fd for adapter in _adapters for fd in (adapter.session_fd,)}
        self.session_fd = next(fd for fd in sorted(found, reverse=True) if fd not in taken)
        _adapters.append(self)
        return self.session_fd

    async def run(self) -> None:
        """Serve until the mount is gone."""
        thread = threading.Thread(target=self._invalidate_loop, name=f"invalidate-{self.mount.client}", daemon=True)
        thread.start()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if not self._ended:
                    self._trio.starting = True
                    nursery.start_soon(self._reader)
        finally:
            self._nursery = None
            self._jobs.put(None)

    async def _reader(self) -> None:
        # The second of two waiting readers ends (min_tasks 0). The library starts no readers, however many have ended
        # (max_tasks).
        await self._pyfuse3.main(0, -1 << 30)
        if not self._trio.waiting and not self._trio.starting and self._nursery is not None:
            # The last reader ends only with the session. Parked requests have no client then.
            self._nursery.cancel_scope.cancel()

    def _relieve(self) -> None:
        """Start another reader, because the current one is going to wait for something other than requests."""
        if not self._trio.waiting and not self._trio.starting and self._nursery is not None:
            self._trio.starting = True
            self._nursery.start_soon(self._reader)

    def terminate(self) -> None:
        """End the session: :meth:`run` returns, at once if it is called later."""
        self._ended = True
        if self._nursery is not None:
            self._pyfuse3.terminate()
            self._nursery.cancel_scope.cancel()

    def close(self) -> None:
        """Unmount and free the session. Pending requests get ENOTCONN from the kernel."""
        _sessions.unregister(self.session_fd)
        # An invalidating thread still uses the session. A thread that waits in the kernel continues when the mount
        # goes.
        locked = self._session_lock.acquire(timeout=2)
        self._closed = True
        if locked:
            self._session_lock.release()
        self._pyfuse3.close(unmount=True)
        _adapters.remove(self)

    # Caches of the kernel

    def invalidate(self, node: Node | None, parent: Node | None, name: bytes) -> None:
        """Invalidate the kernel's cache of a node, or of a name.

        The call returns at once: a thread does the work, because the kernel may wait for other requests.
        """
        self._jobs.put((node, parent, name))

    async def settle(self) -> None:
        """Return when the kernel has forgotten what was invalidated before."""
        await trio.to_thread.run_sync(self._jobs.join, abandon_on_cancel=True)

    def invalidate_attributes(self, node: Node) -> None:
        """Invalidate the kernel's attributes of *node* before returning; here the kernel waits for no request."""
        with contextlib.suppress(OSError):
            self._pyfuse3.invalidate_inode(self.number(node), attr_only=True)

    def _invalidate_loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._invalidate(*job)
            self._jobs.task_done()

    def _invalidate(self, node: Node | None, parent: Node | None, name: bytes) -> None:
        try:
            with self._session_lock:
                if self._closed:
                    return
                if node is not None:
                    self._pyfuse3.invalidate_inode(self.number(node), attr_only=stat.S_ISDIR(node.kind))
                elif parent is not None:
                    self._pyfuse3.invalidate_entry(self.number(parent), name)
        except OSError as error:
            # The kernel has no such node, or the mount is going.
            if error.errno not in (errno.ENOENT, errno.ENOTCONN, errno.EBADF, errno.ENODEV):
                _log.warning("invalidation: %s", error)

    def trim_nodes(self) -> None:
        """Start to make the kernel forget unused names if it has too many nodes."""
        if len(self.mount.lookups) <= self.trim or self._trimming:
            return
        self._trimming = True
        threading.Thread(target=self._trim, name=f"trim-{self.mount.client}", daemon=True).start()

    def _trim(self) -> None:
        lookups = self.mount.lookups
        try:
            while len(lookups) > self.trim and not self._closed:
                oldest = list(lookups)[: len(lookups) - self.trim * 3 // 4]
                for ino in oldest:
                    node = self.mount.nodes.known(ino)
                    if node is not None and not node.handles and not stat.S_ISDIR(node.kind):
                        for parent, name in list(node.links):
                            self._invalidate(None, parent, name)
                # The forget requests of the kernel follow a little later.
                time.sleep(0.1)
                if all(ino in lookups for ino in oldest):
                    # All nodes are in use, or the kernel is late. A retry has its price. But no client request may
                    # start the next trim, because the kernel sends no requests for cached nodes.
                    time.sleep(1)
        except Exception:
            _log.exception("a bug in the forgetting of %s", self.mount.client)
        self._trimming = False

    def number(self, node: Node) -> int:
        return _ROOT if node is self.mount.nodes.root else node.ino


#: Descriptors of all sessions.
_sessions = select.poll()
#: Adapters of this process, one per mount.
_adapters: list[Pyfuse3Adapter] = []


def _make_ready_check(session_fd: int, parked: list[Request]) -> Callable[[], bool]:
    """Return a function that returns True if a request is ready. Without parked requests it waits a millisecond for
    one.
    """
    poll = _sessions.poll

    def ready() -> bool:
        for fd, _unused in poll(0 if parked else 1):  # noqa: SIM110
            if fd == session_fd:
                return True
        return False

    return ready


def _read_ahead(device: str, size: int = 1024) -> None:
    """Set the kernel's read-ahead to *size* KiB, which makes sequential reads a fifth faster. /sys may be read-only."""
    with contextlib.suppress(OSError):
        Path("/sys/class/bdi", device, "read_ahead_kb").write_text(str(size), encoding="ascii")


def _explain_refusal() -> str:
    """Return the reason why this process can't mount; empty for an unknown one."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    if not effective >> _SYS_ADMIN & 1:
        return (
            "this process lacks the capability CAP_SYS_ADMIN. A container gets it by --device /dev/fuse --cap-add "
            "SYS_ADMIN, and a user without root by unshare --user --map-root-user --mount"
        )
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/fuse can't be opened: {error.strerror}. A container needs --device /dev/fuse"
    return ""


def _target(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        return ""


# The complexity is the sum of 35 small functions. They share the local names, which are faster than attributes.
def _operations(adapter: Pyfuse3Adapter, pyfuse3: Any, acl: bool) -> Any:  # noqa: C901
    """Return an instance of the operations class of this copy of *pyfuse3*."""
    mount = adapter.mount
    nodes = mount.nodes
    root = nodes.root
    root_ino = root.ino
    timeout = mount.export.profile.timeout
    strict = mount.export.strict
    close_to_open = not mount.export.profile.coherent
    fuse_error = pyfuse3.FUSEError
    entry_attributes = pyfuse3.EntryAttributes
    file_info = pyfuse3.FileInfo

    def real(number: int) -> int:
        return root_ino if number == _ROOT else number

    def attributes(node: Node, status: os.stat_result) -> Any:
        if close_to_open:
            mount.seen[node.ino] = node.version
        found = entry_attributes()
        found.st_ino = _ROOT if node is root else node.ino
        found.generation = node.generation
        found.entry_timeout = timeout
        found.attr_timeout = timeout
        found.st_mode = status.st_mode
        found.st_nlink = status.st_nlink
        found.st_uid = status.st_uid
        found.st_gid = status.st_gid
        found.st_rdev = status.st_rdev
        found.st_size = status.st_size
        found.st_blksize = status.st_blksize
        found.st_blocks = status.st_blocks
        found.st_atime_ns = status.st_atime_ns
        found.st_mtime_ns = status.st_mtime_ns
        found.st_ctime_ns = status.st_ctime_ns
        return found

    def entry(done: Request) -> Any:
        """Return the client's node. With too many nodes the trim of the kernel's cache starts."""
        adapter.trim_nodes()
        if done.found is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return attributes(done.found, done.stat)

    def guard(handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(handler)
        async def guarded(*arguments: Any) -> Any:
            try:
                return await handler(*arguments)
            except OSError as error:
                raise fuse_error(error.errno or errno.EIO) from None
            except Exception:
                _log.exception("a bug in %s of %s", handler.__name__, mount.client)
                raise fuse_error(errno.EIO) from None

        return guarded

    class Handlers(pyfuse3.Operations):
        supports_dot_lookup = True
        enable_writeback_cache = False
        enable_acl = acl

        @guard
        async def lookup(self, parent: int, name: bytes, ctx: Any) -> Any:
            return entry(await mount.lookup(real(parent), name, ctx))

        def forget(self, forgets: list[tuple[int, int]]) -> None:
            try:
                for number, count in forgets:
                    if number != _ROOT:
                        mount.forget(number, count)
            except Exception:
                _log.exception("a bug in forget of %s", mount.client)

        @guard
        async def getattr(self, number: int, ctx: Any) -> Any:
            done = await mount.getattr(real(number), ctx)
            return attributes(done.node, done.stat)

        @guard
        async def setattr(self, number: int, attr: Any, fields: Any, fh: int | None, ctx: Any) -> Any:
            change = {}
            if fields.update_size:
                change["size"] = attr.st_size
            if fields.update_uid:
                change["uid"] = attr.st_uid
            if fields.update_gid:
                change["gid"] = attr.st_gid
            if fields.update_mode:
                change["mode"] = attr.st_mode
            if fields.update_atime:
                change["atime_ns"] = attr.st_atime_ns
            if fields.update_mtime:
                change["mtime_ns"] = attr.st_mtime_ns
            done = await mount.setattr(real(number), change, fh, ctx)
            return attributes(done.node, done.stat)

        @guard
        async def readlink(self, number: int, ctx: Any) -> bytes:
            return await mount.readlink(real(number), ctx)

        @guard
        async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Any) -> Any:
            return entry(await mount.mknod(real(parent), name, mode, rdev, ctx))

        @guard
        async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> Any:
            return entry(await mount.mkdir(real(parent), name, mode, ctx))

        @guard
        async def unlink(self, parent: int, name: bytes, ctx: Any) -> None:
            await mount.unlink(real(parent), name, ctx)

        @guard
        async def rmdir(self, parent: int, name: bytes, ctx: Any) -> None:
            await mount.rmdir(real(parent), name, ctx)

        @guard
        async def symlink(self, parent: int, name: bytes, target: bytes, ctx: Any) -> Any:
            return entry(await mount.symlink(real(parent), name, target, ctx))

        @guard
        async def rename(
            self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, ctx: Any
        ) -> None:
            await mount.rename(real(parent), name, real(new_parent), new_name, flags, ctx)

        @guard
        async def link(self, number: int, new_parent: int, new_name: bytes, ctx: Any) -> Any:
            return entry(await mount.link(real(number), real(new_parent), new_name, ctx))

        @guard
        async def open(self, number: int, flags: int, ctx: Any) -> Any:
            ino = real(number)
            handle = await mount.open(ino, flags, ctx)
            if close_to_open:
                node = handle.node
                if mount.seen.get(ino) != node.version:
                    # Every open drops the page cache. The client's attributes, with the size, must go as well.
                    adapter.invalidate_attributes(node)
                    mount.seen[ino] = node.version
            return file_info(fh=handle.number, direct_io=strict)

        @guard
        async def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: Any) -> Any:
            done = await mount.create(real(parent), name, mode, flags, ctx)
            return file_info(fh=done.result.number, direct_io=strict), entry(done)

        @guard
        async def read(self, fh: int, offset: int, size: int) -> bytes:
            return await mount.read(fh, offset, size)

        @guard
        async def write(self, fh: int, offset: int, data: bytes) -> int:
            return await mount.write(fh, offset, data)

        @guard
        async def flush(self, fh: int) -> None:
            await mount.close(fh)

        @guard
        async def release(self, fh: int) -> None:
            await mount.release(fh)

        @guard
        async def fsync(self, fh: int, data_only: bool) -> None:
            await mount.fsync(fh, data_only)

        @guard
        async def opendir(self, number: int, ctx: Any) -> int:
            return (await mount.opendir(real(number), ctx)).number

        @guard
        async def readdir(self, fh: int, offset: int, token: Any) -> None:
            names = await mount.readdir(fh, offset)
            for position in range(offset, len(names)):
                found = mount.entry(fh, names[position])
                if found is None:
                    continue
                node, status = found
                if not pyfuse3.readdir_reply(token, names[position], attributes(node, status), position + 1):
                    if not node.lookups and not node.handles:
                        nodes.drop(node)
                    break
                if position > 1:
                    # The kernel doesn't count "." and "..".
                    mount.count(node)
            adapter.trim_nodes()

        @guard
        async def releasedir(self, fh: int) -> None:
            await mount.release(fh, "releasedir")

        @guard
        async def fsyncdir(self, fh: int, data_only: bool) -> None:
            await mount.fsyncdir(fh, data_only)

        @guard
        async def statfs(self, ctx: Any) -> Any:
            found = await mount.statfs(ctx)
            reply = pyfuse3.StatvfsData()
            for name in (
                "f_bsize",
                "f_frsize",
                "f_blocks",
                "f_bfree",
                "f_bavail",
                "f_files",
                "f_ffree",
                "f_favail",
                "f_namemax",
            ):
                setattr(reply, name, getattr(found, name))
            return reply

        @guard
        async def setxattr(self, number: int, name: bytes, value: bytes, ctx: Any) -> None:
            await mount.setxattr(real(number), name, value, ctx)

        async def getxattr(self, number: int, name: bytes, ctx: Any) -> bytes:
            # The kernel requests security.capability before each write. Such a request is no client's operation, and
            # takes half the time of small writes.
            if (
                name == CAPABILITY
                and (node := nodes.known(real(number))) is not None
                and node.no_capability
                and not node.stale
            ):
                raise fuse_error(errno.ENODATA)
            return await self._getxattr(number, name, ctx)

        @guard
        async def _getxattr(self, number: int, name: bytes, ctx: Any) -> bytes:
            return await mount.getxattr(real(number), name, ctx)

        @guard
        async def listxattr(self, number: int, ctx: Any) -> list[bytes]:
            return await mount.listxattr(real(number), ctx)

        @guard
        async def removexattr(self, number: int, name: bytes, ctx: Any) -> None:
            await mount.removexattr(real(number), name, ctx)

        async def access(self, number: int, mode: int, ctx: Any) -> bool:
            return True

    return Handlers()


__all__ = ["CAPABILITIES", "Pyfuse3Adapter"]
