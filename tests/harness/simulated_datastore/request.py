# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""One request of a client, and the names and classes of operations.

The names are those of the system calls behind a request. FUSE's SETATTR is ``truncate``, ``chown``, ``chmod`` or
``utimens``, the first of these that it asks for; FUSE's FLUSH, which every close(2) of a descriptor sends, is
``close``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .mount import Handle, Mount
    from .nodes import Node

#: Operations that move file content. The adapter may know neither pid nor uid of these (capability ``caller_of_data``).
DATA = frozenset({"read", "write"})
#: Operations whose success promises that something is durable, or where late errors are reported.
SYNC = frozenset({"close", "fsync", "fsyncdir"})
#: Operations that change names.
NAMES = frozenset({"create", "link", "mkdir", "mknod", "rename", "rmdir", "symlink", "unlink"})
#: Operations that change attributes.
ATTRIBUTES = frozenset({"chmod", "chown", "removexattr", "setxattr", "utimens"})
META = (
    NAMES
    | ATTRIBUTES
    | frozenset(
        {
            "getattr",
            "getxattr",
            "listxattr",
            "lookup",
            "open",
            "opendir",
            "readdir",
            "readlink",
            "release",
            "releasedir",
            "statfs",
            "truncate",
        }
    )
)
#: Everything that changes the file system, or promises durability of a change: what can go wrong on the way to the
#: disk.
CHANGE = NAMES | ATTRIBUTES | SYNC | {"truncate", "write"}
OPERATIONS = DATA | META | SYNC
CLASSES: dict[str, frozenset[str]] = {
    "data": DATA,
    "meta": META,
    "sync": SYNC,
    "names": NAMES,
    "change": CHANGE,
    "all": OPERATIONS,
}
#: Requests on a descriptor that is open already: no caller in them with pyfuse3.
ON_HANDLE = DATA | SYNC | {"release", "releasedir", "readdir"}


class Caller(Protocol):
    """Who asks: the ids the kernel gives with a request."""

    @property
    def uid(self) -> int: ...

    @property
    def gid(self) -> int: ...

    @property
    def pid(self) -> int: ...


class Request:
    """What one client asks, and what became of it.

    *node* is what the request is about; for an operation on a name it is the directory, and *name* the name in it.
    *new_parent* and *new_name* are the target of rename and link. *offset* and *size* are in bytes. After execution,
    *found* is the node an operation on a name led to, *stat* its attributes, *result* anything else an operation
    returns, *error* the errno it failed with (0: none) and *rules* the ids of the rules that hit it.
    """

    __slots__ = (
        "_path",
        "arguments",
        "caller",
        "data",
        "error",
        "flags",
        "found",
        "handle",
        "mode",
        "mount",
        "name",
        "new_name",
        "new_parent",
        "node",
        "notes",
        "offset",
        "op",
        "result",
        "rules",
        "size",
        "skip",
        "stat",
    )

    def __init__(
        self,
        op: str,
        mount: Mount,
        node: Node,
        name: bytes | None = None,
        *,
        caller: Caller | None = None,
        handle: Handle | None = None,
        offset: int = 0,
        size: int = 0,
        data: bytes = b"",
        mode: int = 0,
        flags: int = 0,
        new_parent: Node | None = None,
        new_name: bytes = b"",
        arguments: Any = None,
    ) -> None:
        self.op = op
        self.mount = mount
        self.node = node
        self.name = name
        self.caller = caller
        self.handle = handle
        self.offset = offset
        self.size = size
        self.data = data
        self.mode = mode
        self.flags = flags
        self.new_parent = new_parent
        self.new_name = new_name
        self.arguments = arguments
        self.found: Node | None = None
        self.stat: Any = None
        self.result: Any = None
        self.error = 0
        self.rules: tuple[str, ...] = ()
        #: A policy has answered: nothing is executed, *result* is the reply.
        self.skip = False
        #: What each policy keeps from one stage to the next, by its name.
        self.notes: dict[str, Any] = {}
        self._path: bytes | None = None

    @property
    def entry(self) -> tuple[Node, bytes]:
        """Return the directory of an operation on a name, and the name in it.

        :raises ValueError: the operation isn't one on a name.
        """
        if self.name is None:
            raise ValueError(f"{self.op} is about no name")
        return self.node, self.name

    @property
    def target(self) -> tuple[Node, bytes]:
        """Return the directory and the name that rename and link lead to.

        :raises ValueError: another operation.
        """
        if self.new_parent is None:
            raise ValueError(f"{self.op} has no target")
        return self.new_parent, self.new_name

    @property
    def path(self) -> bytes:
        """The path below the root of the datastore when the request came, with a leading slash."""
        if self._path is None:
            self._path = self.node.path if self.name is None else self.node.child_path(self.name)
        return self._path

    @property
    def new_path(self) -> bytes:
        """The target's path of rename and link; empty for others."""
        return self.new_parent.child_path(self.new_name) if self.new_parent is not None else b""


def expand(names: list[str]) -> frozenset[str]:
    """The operations that *names* (operations and classes) stand for; raises :class:`KeyError` with the first unknown
    one.
    """
    found: set[str] = set()
    for name in names:
        if name in OPERATIONS:
            found.add(name)
        else:
            found |= CLASSES[name]
    return frozenset(found)


__all__ = [
    "ATTRIBUTES",
    "CHANGE",
    "CLASSES",
    "DATA",
    "META",
    "NAMES",
    "ON_HANDLE",
    "OPERATIONS",
    "SYNC",
    "Caller",
    "Request",
    "expand",
]
