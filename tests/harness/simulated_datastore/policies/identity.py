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
        request.caller = _Anonymous(*export.anonymous, caller.pid)
        self._check(request)

    def _check(self, request: Request) -> None:
        """Raise EACCES or EPERM unless the anonymous user may do this."""
        caller, op, node, nodes = request.caller, request.op, request.node, self._datastore.nodes
        if caller is None or op == "getattr":
            return
        uid = caller.uid
        self._need_path(node, request)
        if request.new_parent is not None:
            self._need_path(request.new_parent, request)
        if op == "lookup":
            self._need(node, _SEARCH, request)
        elif op in ("open", "opendir"):
            access = request.flags & os.O_ACCMODE
            needed = (_READ if access != os.O_WRONLY else 0) | (
                _WRITE if access != os.O_RDONLY or request.flags & os.O_TRUNC else 0
            )
            self._need(node, _READ if op == "opendir" else needed, request)
        elif op in NAMES:
            if op != "link":
                self._need(node, _WRITE | _SEARCH, request)
            if request.new_parent is not None:
                self._need(request.new_parent, _WRITE | _SEARCH, request)
            if op in ("rename", "rmdir", "unlink"):
                self._need_sticky(node, request.name or b"", uid)
            if op == "rename":
                self._need_sticky(request.new_parent or node, request.new_name, uid)
        else:
            status = nodes.stat(node)
            owner = status.st_uid == uid
            if op == "truncate":
                self._need(node, _WRITE, request)
            elif op == "chown":
                change = request.arguments
                if (
                    not owner
                    or change.get("uid", uid) != uid
                    or change.get("gid", status.st_gid) not in (status.st_gid, caller.gid)
                ):
                    raise OSError(errno.EPERM, os.strerror(errno.EPERM))
            elif op in ("chmod", "utimens") and not owner:
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))
            elif op in ("setxattr", "removexattr"):
                self._need(node, _WRITE, request)

    def _need_path(self, node: Node, request: Request) -> None:
        """Raise EACCES unless every directory above is searchable. The kernel may have looked up for another user."""
        while node.links:
            node = node.links[0][0]
            self._need(node, _SEARCH, request)

    def _need(self, node: Node, wanted: int, request: Request) -> None:
        caller = request.caller
        status = self._datastore.nodes.stat(node)
        bits = status.st_mode
        if caller is None or status.st_uid == caller.uid:
            bits >>= 6
        elif status.st_gid == caller.gid:
            bits >>= 3
        if bits & wanted != wanted:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    def _need_sticky(self, directory: Node, name: bytes, uid: int) -> None:
        nodes = self._datastore.nodes
        status = nodes.stat(directory)
        if not status.st_mode & stat.S_ISVTX or status.st_uid == uid:
            return
        try:
            entry = os.stat(name, dir_fd=nodes.directory_fd(directory), follow_symlinks=False)
        except FileNotFoundError:
            return
        if entry.st_uid != uid:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))


__all__ = ["Identity"]
