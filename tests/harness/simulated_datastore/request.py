# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""A request of a client, and the names and classes of operations.

Names are those of the system calls behind a request. FUSE's SETATTR is the first requested one of ``truncate``,
``chown``, ``chmod`` and ``utimens``. FUSE's FLUSH, which every close(2) of a descriptor sends, is ``close``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .mount import Handle, Mount
    from .nodes import Node

#: Operations on content. The adapter may have neither pid nor uid of these (capability ``caller_of_data``).
DATA = frozenset({"read", "write"})
#: Operations that promise durability, or report late errors.
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
#: Operations that change the file system, or promise the durability of a change: all that can fail on the way to the
#: disk. In a rule for the whole class, ``close`` is that of descriptors that can write.
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
#: Operations on an open descriptor. pyfuse3 passes no caller with these.
ON_HANDLE = DATA | SYNC | {"release", "releasedir", "readdir"}


class Caller(Protocol):
    """The caller of a request: the ids from the kernel."""

    @property
    def uid(self) -> int: ...

    @property
    def gid(self) -> int: ...

    @property
    def pid(self) -> int: ...


class Request:
    """A request of a client, with its outcome.

    *node* is the subject of the request. For an operation on a name, *node* is the directory and *name* the name in it.
    *new_parent* and *new_name* are the target of rename and link. *offset* and *size* are in bytes. After execution,
    *found* is the node of the name, *stat* has its attributes, and *result* any other result. *error* is the errno (0:
    none), and *rules* has the ids of the rules with a hit.
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
        #: True if a policy has replaced the execution; *result* is the reply.
        self.skip = False
        #: Data of each policy between its stages, by its name.
        self.notes: dict[str, Any] = {}
        self._path: bytes | None = None

    @property
    def entry(self) -> tuple[Node, bytes]:
        """The directory and the name of an operation on a name.

        :raises ValueError: for another operation.
        """
        if self.name is None:
            raise ValueError(f"{self.op} is about no name")
        return self.node, self.name

    @property
    def target(self) -> tuple[Node, bytes]:
        """The directory and the name of the target of rename and link.

        :raises ValueError: for another operation.
        """
        if self.new_parent is None:
            raise ValueError(f"{self.op} has no target")
        return self.new_parent, self.new_name

    @property
    def path(self) -> bytes:
        """The path below the root of the datastore at the request's arrival, with a leading slash."""
        if self._path is None:
            self._path = self.node.path if self.name is None else self.node.child_path(self.name)
        return self._path

    @property
    def new_path(self) -> bytes:
        """The target's path of rename and link; empty for other operations."""
        return self.new_parent.child_path(self.new_name) if self.new_parent is not None else b""


def expand(names: list[str]) -> frozenset[str]:
    """Return the operations of *names* (operations, classes). Raises :class:`KeyError` with the first unknown name."""
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
