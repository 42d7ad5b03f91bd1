# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The files and directories in the clients' memory, and the ways to them in the backing directory.

A node has no descriptor of its own. Its name and the descriptor of its directory lead to the node, and the descriptors
of directories are an LRU. A million known files therefore need a few hundred descriptors. A node without a known name
is *pinned* by an ``O_PATH`` descriptor until every client has forgotten the node. A pinned node is still usable, and
its inode number isn't given to another file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .mount import Handle

_O_PATH_NOFOLLOW = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Node:
    """A file, directory or other inode of the backing directory in the memory of some client."""

    __slots__ = (
        "_path",
        "_path_epoch",
        "counted",
        "generation",
        "handles",
        "ino",
        "kind",
        "links",
        "lookups",
        "no_capability",
        "orphan",
        "pin",
        "stale",
        "table",
        "version",
    )

    def __init__(self, table: NodeTable, ino: int, kind: int, generation: int = 0) -> None:
        self.table = table
        self.ino = ino
        #: The file type, from ``stat.S_IFMT``.
        self.kind = kind
        self.generation = generation
        #: The known names: pairs of directory and name.
        self.links: list[tuple[Node, bytes]] = []
        #: Number of lookups minus number of forgotten ones, over all mounts.
        self.lookups = 0
        self.handles: list[Handle] = []
        self.pin: int | None = None
        #: The file was lost in a crash or replaced from outside: requests get ESTALE.
        self.stale = False
        #: The file has no ``security.capability``, which the kernel requests before each write.
        self.no_capability = False
        #: Owner and blocks in the accounts of capacity, None if unknown.
        self.counted: tuple[int, int] | None = None
        #: Number of changes of the content, for close-to-open.
        self.version = 0
        #: The file has no name, and capacity counts it while it is open.
        self.orphan = False
        self._path: bytes | None = None
        self._path_epoch = -1

    @property
    def is_in_use(self) -> bool:
        """True if a client has the node open, by a handle that the server hasn't lost."""
        return any(not handle.lost for handle in self.handles)

    @property
    def path(self) -> bytes:
        """The path below the root of the datastore by the first known name; for a nameless node the last path."""
        epoch = self.table.epoch
        # Two loops, up to a known path and down again, because a tree may be deeper than the stack of calls.
        unknown: list[tuple[Node, bytes]] = []
        node = self
        while node._path is None or (node.links and node._path_epoch != epoch):
            if not node.links:
                node._path = b"/"
                break
            parent, name = node.links[0]
            unknown.append((node, name))
            node = parent
        path = node._path
        for node, name in reversed(unknown):
            path = node._path = path + name if path == b"/" else path + b"/" + name
            node._path_epoch = epoch
        return path

    def child_path(self, name: bytes) -> bytes:
        path = self.path
        return path + name if path == b"/" else path + b"/" + name

    def forget_path(self) -> None:
        self._path = None


class NodeTable:
    """The known nodes of one datastore, by inode number.

    *limit* is the number of open directories, and of pinned nodes without a handle. Raises :class:`OSError` if *root*
    can't be opened as a directory.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self.root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        status = os.fstat(self.root_fd)
        self.device = status.st_dev
        self.limit = limit
        #: Number of renames of directories. Cached paths of an older epoch are computed again.
        self.epoch = 0
        self.root = Node(self, status.st_ino, stat.S_IFDIR)
        self.root.lookups = 1
        self._nodes: dict[int, Node] = {status.st_ino: self.root}
        self._directories: OrderedDict[Node, int] = OrderedDict()
        #: The pinned nodes, oldest first.
        self._pinned: OrderedDict[Node, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(list(self._nodes.values()))

    def open_directories(self) -> int:
        return len(self._directories)

    def get(self, ino: int) -> Node:
        """Return the node with this number. Raises ESTALE for a forgotten or lost one."""
        node = self._nodes.get(ino)
        if node is None or node.stale:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return node

    def known(self, ino: int) -> Node | None:
        return self._nodes.get(ino)

    def meet(self, parent: Node, name: bytes, status: os.stat_result, *, is_new: bool = False) -> Node:
        """Return the node of a directory entry after its lstat(2).

        *is_new* is true for a file that was just created. A known node with its number is then an older file, which has
        lost its names in a crash.
        """
        if status.st_dev != self.device:
            # Inode numbers are unambiguous in one file system only.
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        kind = stat.S_IFMT(status.st_mode)
        node = self._nodes.get(status.st_ino)
        if node is None:
            node = self._nodes[status.st_ino] = Node(self, status.st_ino, kind)
        elif node.kind != kind or node.stale or is_new:
            # The file system has given the number to another file. The kernel distinguishes the two by generation.
            node.stale = True
            successor = self._nodes[status.st_ino] = Node(self, status.st_ino, kind, node.generation + 1)
            successor.lookups, node.lookups = node.lookups, 0
            node = successor
        link = (parent, name)
        if kind == stat.S_IFDIR:
            if node.links != [link] and node is not self.root:
                node.links = [link]
                self.epoch += 1
        elif link not in node.links:
            node.links.append(link)
        self.release_pin(node)
        return node

    # Descriptors

    def directory_fd(self, node: Node) -> int:
        """Return a descriptor of a directory, valid until the next call. Raises :class:`OSError`, ESTALE for a missing
        one.
        """
        unopened = []
        while (fd := self._held(node)) is None:
            if not node.links:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            unopened.append(node)
            node = node.links[0][0]
        for node in reversed(unopened):
            fd = self._open_in(fd, node, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            while len(self._directories) >= self.limit:
                os.close(self._directories.popitem(last=False)[1])
            self._directories[node] = fd
        return fd

    def _held(self, node: Node) -> int | None:
        if node is self.root:
            return self.root_fd
        if node.pin is not None:
            return node.pin
        fd = self._directories.get(node)
        if fd is not None:
            self._directories.move_to_end(node)
        return fd

    def _open(self, node: Node, flags: int) -> int:
        if not node.links:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return self._open_in(self.directory_fd(node.links[0][0]), node, flags)

    def _open_in(self, directory: int, node: Node, flags: int) -> int:
        try:
            fd = os.open(node.links[0][1], flags, dir_fd=directory)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from error
        if os.fstat(fd).st_ino != node.ino:
            os.close(fd)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return fd

    def open(self, node: Node, flags: int) -> int:
        """Open *node* itself, never the target of a symbolic link, and return the descriptor."""
        flags |= os.O_CLOEXEC
        if node.pin is not None:
            return os.open(f"/proc/self/fd/{node.pin}", flags)
        if node is self.root:
            return os.open(".", flags, dir_fd=self.root_fd)
        return self._open(node, flags | os.O_NOFOLLOW)

    @contextlib.contextmanager
    def path_of(self, node: Node) -> Iterator[str]:
        """Yield a path to *node* for system calls without descriptors. The path is a link of proc(5), so these must
        follow links.
        """
        if node.pin is not None:
            yield f"/proc/self/fd/{node.pin}"
            return
        fd = (
            os.open(".", os.O_PATH | os.O_CLOEXEC, dir_fd=self.root_fd)
            if node is self.root
            else self._open(node, _O_PATH_NOFOLLOW)
        )
        try:
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)

    def stat(self, node: Node) -> os.stat_result:
        """Return the lstat(2) of *node*. Raises ESTALE for a missing one."""
        if node.handles and (fd := node.handles[0].held) >= 0:
            return os.fstat(fd)
        if node.pin is not None:
            return os.fstat(node.pin)
        if node is self.root:
            return os.fstat(self.root_fd)
        if not node.links:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        parent, name = node.links[0]
        try:
            status = os.stat(name, dir_fd=self.directory_fd(parent), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from error
        if status.st_ino != node.ino:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return status

    # Names

    def hold(self, parent: Node, name: bytes, ino: int) -> Node | None:
        """Pin the node of a name that is going to be removed, if the name is its last known one.

        Returns the node if a client knows it.
        """
        node = self._nodes.get(ino)
        if node is None or node is self.root:
            return node
        if node.pin is None and all(link == (parent, name) for link in node.links):
            node.pin = os.open(name, _O_PATH_NOFOLLOW, dir_fd=self.directory_fd(parent))
            self._pinned[node] = None
            if len(self._pinned) > self.limit:
                self._forget_oldest()
        return node

    def unname(self, node: Node, parent: Node, name: bytes) -> None:
        """Remove a name of *node*."""
        path = node.path
        if (parent, name) in node.links:
            node.links.remove((parent, name))
        if node.links:
            self.release_pin(node)
            node.forget_path()
        else:
            node._path = path
            # The descriptor of the LRU isn't kept for long enough.
            fd = self._directories.pop(node, None)
            if fd is not None:
                os.close(fd)
        if not node.lookups and not node.handles:
            self.drop(node)

    def rename(self, node: Node, parent: Node, name: bytes, new_parent: Node, new_name: bytes) -> None:
        """Replace a name of *node*."""
        if (parent, name) in node.links:
            node.links[node.links.index((parent, name))] = (new_parent, new_name)
        node.forget_path()
        if node.kind == stat.S_IFDIR:
            self.epoch += 1

    def release_pin(self, node: Node) -> None:
        if node.pin is not None:
            os.close(node.pin)
            node.pin = None
            del self._pinned[node]

    def _forget_oldest(self) -> None:
        """Make the oldest pinned node without a handle stale, because clients that never forget must not use up the
        descriptors.
        """
        oldest = next((node for node in self._pinned if not node.handles), None)
        if oldest is not None and not oldest.links:
            oldest.stale = True
            self.release_pin(oldest)

    def drop(self, node: Node) -> None:
        """Drop *node*, which no client knows any more."""
        if node is self.root:
            return
        self.release_pin(node)
        fd = self._directories.pop(node, None)
        if fd is not None:
            os.close(fd)
        if self._nodes.get(node.ino) is node:
            del self._nodes[node.ino]

    def recheck(self) -> None:
        """After a crash, make nodes stale whose file has moved, and drop the pins of nameless ones."""
        self.close_directories()
        self.epoch += 1
        for node in self:
            self.release_pin(node)
            if node is self.root:
                continue
            try:
                self.stat(node)
            except OSError:
                node.stale = True
            node.no_capability = False
            node.version += 1

    def close_directories(self) -> None:
        while self._directories:
            os.close(self._directories.popitem()[1])

    def close(self) -> None:
        for node in self:
            self.release_pin(node)
        self.close_directories()
        os.close(self.root_fd)


__all__ = ["Node", "NodeTable"]
