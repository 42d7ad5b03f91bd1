# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The operations on the backing directory, without policies.

Each function executes a :class:`Request` on behalf of the caller and stores the outcome in the request. New files
belong to the caller; the kernel has already checked permissions. Each function raises :class:`OSError` like its system
call.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .nodes import Node, NodeTable
from .open_files import flags_below
from .request import Caller, Request
from .system import RENAME_EXCHANGE, lines, renameat2

if TYPE_CHECKING:
    from .mount import Handle

_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
CAPABILITY = b"security.capability"


class FileSystem:
    """The operations, by name in *execute*."""

    def __init__(self, nodes: NodeTable) -> None:
        self.nodes = nodes
        self.execute: dict[str, Callable[[Request], None]] = {
            "chmod": self.setattr,
            "chown": self.setattr,
            "close": self.close,
            "create": self.create,
            "fsync": self.fsync,
            "fsyncdir": self.fsync,
            "getattr": self.getattr,
            "getxattr": self.getxattr,
            "link": self.link,
            "listxattr": self.listxattr,
            "lookup": self.lookup,
            "mkdir": self.mkdir,
            "mknod": self.mknod,
            "open": self.open,
            "opendir": self.opendir,
            "read": self.read,
            "readdir": self.readdir,
            "readlink": self.readlink,
            "release": self.release,
            "releasedir": self.release,
            "removexattr": self.removexattr,
            "rename": self.rename,
            "rmdir": self.rmdir,
            "setxattr": self.setxattr,
            "statfs": self.statfs,
            "symlink": self.symlink,
            "truncate": self.setattr,
            "unlink": self.unlink,
            "utimens": self.setattr,
            "write": self.write,
        }

    # Names

    def lookup(self, request: Request) -> None:
        parent, name = request.entry
        if name == b".":
            request.found, request.stat = parent, self.nodes.stat(parent)
            return
        if name == b"..":
            request.found = parent.links[0][0] if parent.links else self.nodes.root
            request.stat = self.nodes.stat(request.found)
            return
        self._meet(request, parent, name)

    def _meet(self, request: Request, parent: Node, name: bytes, *, is_new: bool = False) -> None:
        status = os.stat(name, dir_fd=self.nodes.directory_fd(parent), follow_symlinks=False)
        request.found = self.nodes.meet(parent, name, status, is_new=is_new)
        request.stat = status

    def _own(self, request: Request, parent_fd: int) -> None:
        """Give the new name the owner and mode that the caller's system call would give (inode_init_owner in the
        kernel).
        """
        caller, (_parent, name) = request.caller, request.entry
        if caller is None or (caller.uid == 0 and caller.gid == 0):
            return
        status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        parent = os.fstat(parent_fd)
        group = -1 if parent.st_mode & stat.S_ISGID else caller.gid
        os.chown(name, caller.uid, group, dir_fd=parent_fd, follow_symlinks=False)
        mode = stat.S_IMODE(status.st_mode)
        if not mode & _SPECIAL_BITS or stat.S_ISLNK(status.st_mode):
            return
        if (
            not stat.S_ISDIR(status.st_mode)
            and group == -1
            and mode & stat.S_ISGID
            and mode & stat.S_IXGRP
            and caller.uid
            and parent.st_gid not in _read_groups(caller.pid, caller.gid)
        ):
            mode &= ~stat.S_ISGID
        # chown(2) cleared the special bits.
        os.chmod(name, mode, dir_fd=parent_fd)

    def mkdir(self, request: Request) -> None:
        parent, name = request.entry
        fd = self.nodes.directory_fd(parent)
        os.mkdir(name, request.mode, dir_fd=fd)
        if request.mode & _SPECIAL_BITS & ~stat.S_ISGID:
            # mkdir(2) may ignore the special bits.
            inherited = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode & stat.S_ISGID
            os.chmod(name, stat.S_IMODE(request.mode) | inherited, dir_fd=fd)
        self._made(request, fd)

    def mknod(self, request: Request) -> None:
        parent, name = request.entry
        fd = self.nodes.directory_fd(parent)
        os.mknod(name, request.mode, request.arguments, dir_fd=fd)
        self._made(request, fd)

    def symlink(self, request: Request) -> None:
        parent, name = request.entry
        fd = self.nodes.directory_fd(parent)
        os.symlink(request.data, name, dir_fd=fd)
        self._made(request, fd)

    def _made(self, request: Request, fd: int) -> None:
        parent, name = request.entry
        try:
            self._own(request, fd)
        except OSError:
            (os.rmdir if request.op == "mkdir" else os.unlink)(name, dir_fd=fd)
            raise
        self._meet(request, parent, name, is_new=True)

    def create(self, request: Request) -> None:
        parent, name = request.entry
        fd = self.nodes.directory_fd(parent)
        flags = flags_below(request.flags) | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            file_fd = os.open(name, flags, request.mode, dir_fd=fd)
        except FileExistsError:
            if request.flags & os.O_EXCL:
                raise
            # Another client, or a user of the backing directory, was faster. The kernel repeats the lookup and checks
            # permissions.
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None
        try:
            self._own(request, fd)
        except OSError:
            os.close(file_fd)
            os.unlink(name, dir_fd=fd)
            raise
        request.stat = os.fstat(file_fd)
        request.found = made = self.nodes.meet(parent, name, request.stat, is_new=True)
        request.result = request.mount.add_handle(file_fd, made, request.flags)

    def link(self, request: Request) -> None:
        nodes, (parent, name) = self.nodes, request.target
        fd = nodes.directory_fd(parent)
        # The path is a link of proc(5) to the inode itself, even if the inode is a symbolic link.
        with nodes.path_of(request.node) as path:
            os.link(path, name, dst_dir_fd=fd, follow_symlinks=True)
        self._meet(request, parent, name)

    def unlink(self, request: Request) -> None:
        self._remove(request, os.unlink)

    def rmdir(self, request: Request) -> None:
        self._remove(request, os.rmdir)

    def _remove(self, request: Request, remove: Callable[..., None]) -> None:
        parent, name = request.entry
        fd = self.nodes.directory_fd(parent)
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        node = self.nodes.hold(parent, name, status.st_ino)
        request.stat, request.found = status, node
        try:
            remove(name, dir_fd=fd)
        except OSError:
            if node is not None and node.links:
                self.nodes.release_pin(node)
            raise
        if node is not None:
            self.nodes.unname(node, parent, name)

    def rename(self, request: Request) -> None:
        nodes = self.nodes
        parent, name = request.entry
        new_parent, new_name = request.target
        fd, new_fd = _open_two(nodes, parent, new_parent)
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        node = nodes.known(status.st_ino)
        old = _stat_or_none(new_name, new_fd)
        # For two names of one file rename(2) does nothing.
        is_same = old is not None and old.st_ino == status.st_ino
        exchange = bool(request.flags & RENAME_EXCHANGE)
        replaced = None
        if old is not None and not is_same:
            replaced = nodes.known(old.st_ino) if exchange else nodes.hold(new_parent, new_name, old.st_ino)
        request.stat, request.found, request.result = status, node, (old, replaced)
        try:
            if request.flags:
                renameat2(fd, name, new_fd, new_name, request.flags)
            else:
                os.rename(name, new_name, src_dir_fd=fd, dst_dir_fd=new_fd)
        except OSError:
            if replaced is not None and replaced.links and not exchange:
                nodes.release_pin(replaced)
            raise
        if is_same:
            return
        if replaced is not None and not exchange:
            nodes.unname(replaced, new_parent, new_name)
        if node is not None:
            nodes.rename(node, parent, name, new_parent, new_name)
        if replaced is not None and exchange:
            nodes.rename(replaced, new_parent, new_name, parent, name)

    def readlink(self, request: Request) -> None:
        node = request.node
        if node.pin is not None or not node.links:
            request.result = os.readlink(b"", dir_fd=node.pin)
        else:
            parent, name = node.links[0]
            request.result = os.readlink(name, dir_fd=self.nodes.directory_fd(parent))

    # Attributes

    def getattr(self, request: Request) -> None:
        request.stat = self.nodes.stat(request.node)

    def setattr(self, request: Request) -> None:
        """Set attributes. *arguments* has any of size, uid, gid, mode, atime_ns, mtime_ns."""
        node, change = request.node, request.arguments
        if "size" in change:
            self._truncate(request, change["size"])
        others = change.keys() - {"size"}
        if others:
            with self.nodes.path_of(node) as path:
                if "uid" in change or "gid" in change:
                    os.chown(path, change.get("uid", -1), change.get("gid", -1))
                if "mode" in change:
                    if node.kind == stat.S_IFLNK:
                        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
                    os.chmod(path, stat.S_IMODE(change["mode"]))
                if "atime_ns" in change or "mtime_ns" in change:
                    now = os.stat(path)
                    os.utime(
                        path, ns=(change.get("atime_ns", now.st_atime_ns), change.get("mtime_ns", now.st_mtime_ns))
                    )
        request.stat = self.nodes.stat(node)

    def _truncate(self, request: Request, size: int) -> None:
        handle = request.handle
        if handle is not None and not handle.lost and handle.flags & os.O_ACCMODE != os.O_RDONLY:
            os.ftruncate(handle.fd, size)
        else:
            _refuse_gone(request)
            fd = self.nodes.open(request.node, os.O_WRONLY)
            try:
                os.ftruncate(fd, size)
            finally:
                os.close(fd)
        request.node.version += 1

    def getxattr(self, request: Request) -> None:
        node = request.node
        if request.data == CAPABILITY and node.no_capability:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        try:
            with self.nodes.path_of(node) as path:
                request.result = os.getxattr(path, request.data)
        except OSError as error:
            if request.data == CAPABILITY and error.errno == errno.ENODATA:
                node.no_capability = True
            raise

    def setxattr(self, request: Request) -> None:
        request.node.no_capability = False
        with self.nodes.path_of(request.node) as path:
            os.setxattr(path, request.data, request.arguments)

    def listxattr(self, request: Request) -> None:
        with self.nodes.path_of(request.node) as path:
            request.result = [os.fsencode(name) for name in os.listxattr(path)]

    def removexattr(self, request: Request) -> None:
        with self.nodes.path_of(request.node) as path:
            os.removexattr(path, request.data)

    def statfs(self, request: Request) -> None:
        request.result = os.fstatvfs(self.nodes.root_fd)

    # Files

    def open(self, request: Request) -> None:
        node = request.node
        _refuse_gone(request)
        fd = self.nodes.open(node, flags_below(request.flags))
        request.result = request.mount.add_handle(fd, node, request.flags)

    def opendir(self, request: Request) -> None:
        fd = self.nodes.open(request.node, os.O_RDONLY | os.O_DIRECTORY)
        request.result = request.mount.add_handle(fd, request.node, os.O_RDONLY)

    def read(self, request: Request) -> None:
        request.result = os.pread(_fd(request.handle), request.size, request.offset)

    def write(self, request: Request) -> None:
        place(request)
        fd, data, offset = _fd(request.handle), request.data, request.offset
        done = os.pwrite(fd, data, offset)
        if done < len(data):
            view = memoryview(data)
            try:
                while done < len(data):
                    done += os.pwrite(fd, view[done:], offset + done)
            except OSError:
                # Like write(2): the written bytes count, and the next call gets the error.
                pass
        request.node.version += 1
        request.result = done

    def readdir(self, request: Request) -> None:
        """Read the names of a directory. A read from the start takes a new snapshot, as after rewinddir(3)."""
        handle = _open(request.handle)
        if handle.entries is None or request.offset == 0:
            handle.entries = [b".", b"..", *map(os.fsencode, os.listdir(handle.fd))]
        request.result = handle.entries

    def entry(self, handle: Handle, name: bytes) -> tuple[Node, os.stat_result] | None:
        """Return the node of a name that readdir reports; None for a name that is gone or can't be passed on."""
        nodes, directory = self.nodes, handle.node
        if name in (b".", b".."):
            node = directory if name == b"." or not directory.links else directory.links[0][0]
            return node, os.fstat(handle.fd) if node is directory else nodes.stat(node)
        try:
            status = os.stat(name, dir_fd=handle.fd, follow_symlinks=False)
            return nodes.meet(directory, name, status), status
        except OSError:
            return None

    def close(self, request: Request) -> None:
        # The caller closed a duplicate, too. The file system beneath reports errors in close(2), if ever.
        os.close(os.dup(_fd(request.handle)))

    def release(self, request: Request) -> None:
        """Do nothing: the mount closes the handle at the end of the request, whatever the policies raise."""

    def fsync(self, request: Request) -> None:
        fd = _fd(request.handle)
        if request.arguments:
            os.fdatasync(fd)
        else:
            os.fsync(fd)


def place(request: Request) -> None:
    """Set the offset of a write with O_APPEND to the current end of the file."""
    handle = request.handle
    if handle is not None and handle.flags & os.O_APPEND and not handle.lost and request.mount.appends_at_end:
        request.offset = os.fstat(handle.fd).st_size


def _open(handle: Handle | None) -> Handle:
    """Return an open handle. Raises ESTALE for any other."""
    if handle is None or handle.lost:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return handle


def _fd(handle: Handle | None) -> int:
    return _open(handle).fd


def _stat_or_none(name: bytes, directory: int) -> os.stat_result | None:
    """Return the lstat(2) of *name*; None for a missing one."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _refuse_gone(request: Request) -> None:
    """Raise ESTALE for a nameless file of a network client that no one has open: the client's kernel repeats the
    lookup.
    """
    if not request.node.links and not request.node.is_in_use and not request.mount.export.profile.coherent:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def _open_two(nodes: NodeTable, first: Node, second: Node) -> tuple[int, int]:
    """Return descriptors of two directories that are valid together, even in a small LRU."""
    nodes.directory_fd(first)
    second_fd = nodes.directory_fd(second)
    return nodes.directory_fd(first), second_fd


def clear_privileges(mode: int, group: int, caller: Caller) -> int:
    """Return the *mode* of a file of *group* after *caller* changed its content.

    The set-user-ID bit is cleared. The set-group-ID bit is cleared if the group may execute the file or isn't one of
    the caller's (setattr_should_drop_suidgid in the kernel). Root keeps both by CAP_FSETID, and is no *caller* here.
    """
    if not stat.S_ISREG(mode):
        return mode
    if mode & stat.S_ISGID and (mode & stat.S_IXGRP or group not in _read_groups(caller.pid, caller.gid)):
        mode &= ~stat.S_ISGID
    return mode & ~stat.S_ISUID


def _read_groups(pid: int, group: int) -> set[int]:
    """Return the groups of a process: *group* and the supplementary ones."""
    try:
        for line in lines(Path(f"/proc/{pid}/status")):
            if line.startswith("Groups:"):
                return {group, *map(int, line.split()[1:])}
    except OSError:
        pass
    return {group}


__all__ = ["CAPABILITY", "FileSystem", "place", "clear_privileges"]
