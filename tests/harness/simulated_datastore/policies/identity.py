# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The caller's identity on the server: root_squash and all_squash, permissions of the anonymous user, and operations
that the protocol lacks.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from ..nodes import Node
from ..request import NAMES, Request
from . import Policy

if TYPE_CHECKING:
    from ..datastore import Datastore

_READ, _WRITE, _SEARCH = 4, 2, 1
_XATTRS = frozenset({"getxattr", "listxattr", "removexattr", "setxattr"})
_CHECKED = (
    NAMES | _XATTRS | {"chmod", "chown", "getattr", "lookup", "open", "opendir", "readlink", "truncate", "utimens"}
)


class _Anonymous:
    """The caller in the eyes of the server."""

    __slots__ = ("gid", "pid", "uid")

    def __init__(self, uid: int, gid: int, pid: int) -> None:
        self.uid = uid
        self.gid = gid
        self.pid = pid


class Identity(Policy):
    name = "identity"

    def __init__(self, datastore: Datastore) -> None:
        self._datastore = datastore

    def concerns(self, op: str) -> bool:
        mounts = self._datastore.mounts.values()
        return (op in _CHECKED and any(mount.export.squash != "none" for mount in mounts)) or (
            op in _XATTRS and any(not mount.export.profile.user_xattr for mount in mounts)
        )

    async def before(self, request: Request) -> None:
        export, caller = request.mount.export, request.caller
        if (
            request.op in ("getxattr", "setxattr", "removexattr")
            and not export.profile.user_xattr
            and request.data.startswith(b"user.")
        ):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if caller is None or export.squash == "none" or (export.squash == "root" and caller.uid != 0):
            return
        anonymous = request.caller = _Anonymous(*export.anonymous, caller.pid)
        self._check(request, anonymous)

    def _check(self, request: Request, caller: _Anonymous) -> None:
        """Raise EACCES or EPERM unless the anonymous *caller* may do this."""
        op, node = request.op, request.node
        if op == "getattr":
            return
        self._need_path(node, caller)
        if request.new_parent is not None:
            self._need_path(request.new_parent, caller)
        if op == "lookup":
            self._need(node, _SEARCH, caller)
        elif op == "open":
            self._need(node, _compute_access(request.flags), caller)
        elif op == "opendir":
            self._need(node, _READ, caller)
        elif op in NAMES:
            self._check_names(request, caller)
        else:
            self._check_attributes(request, caller)

    def _check_names(self, request: Request, caller: _Anonymous) -> None:
        op, directory = request.op, request.node
        if op != "link":
            self._need(directory, _WRITE | _SEARCH, caller)
        if request.new_parent is not None:
            self._need(request.new_parent, _WRITE | _SEARCH, caller)
        if op in ("rename", "rmdir", "unlink"):
            self._need_sticky(directory, request.name or b"", caller)
        if op == "rename":
            self._need_sticky(request.new_parent or directory, request.new_name, caller)

    def _check_attributes(self, request: Request, caller: _Anonymous) -> None:
        op, node = request.op, request.node
        status = self._datastore.nodes.stat(node)
        if op in ("truncate", "setxattr", "removexattr"):
            self._need(node, _WRITE, caller)
        elif op in ("chmod", "chown", "utimens") and status.st_uid != caller.uid:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        elif op == "chown":
            change = request.arguments
            uid, gid = change.get("uid", caller.uid), change.get("gid", caller.gid)
            if uid != caller.uid or gid not in (status.st_gid, caller.gid):
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def _need_path(self, node: Node, caller: _Anonymous) -> None:
        """Raise EACCES unless every directory above is searchable. The kernel may have looked up for another user."""
        while node.links:
            node = node.links[0][0]
            self._need(node, _SEARCH, caller)

    def _need(self, node: Node, access: int, caller: _Anonymous) -> None:
        status = self._datastore.nodes.stat(node)
        bits = status.st_mode
        if status.st_uid == caller.uid:
            bits >>= 6
        elif status.st_gid == caller.gid:
            bits >>= 3
        if bits & access != access:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    def _need_sticky(self, directory: Node, name: bytes, caller: _Anonymous) -> None:
        nodes = self._datastore.nodes
        status = nodes.stat(directory)
        if not status.st_mode & stat.S_ISVTX or status.st_uid == caller.uid:
            return
        try:
            entry = os.stat(name, dir_fd=nodes.directory_fd(directory), follow_symlinks=False)
        except FileNotFoundError:
            return
        if entry.st_uid != caller.uid:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def _compute_access(flags: int) -> int:
    """Return the permissions that open(2) with *flags* needs."""
    mode = flags & os.O_ACCMODE
    access = 0 if mode == os.O_WRONLY else _READ
    return access | _WRITE if mode != os.O_RDONLY or flags & os.O_TRUNC else access


__all__ = ["Identity"]
