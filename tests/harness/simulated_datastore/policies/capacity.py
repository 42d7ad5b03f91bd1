# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Space and inodes: their use in blocks of 4 KiB, and the errors at the limits.

Allocated blocks count (``st_blocks`` of the backing directory), never lengths. A file with several names counts once. A
nameless file counts until its last close. A directory counts if it has blocks beneath. The use is computed once, when a
limit is set, and then follows from the changes by each request.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .. import checks
from ..errors import SimulatedDatastoreError
from ..nodes import Node
from ..profiles import ERROR_AT, choose
from ..request import Request
from ..system import RENAME_EXCHANGE, list_directory
from . import Policy

if TYPE_CHECKING:
    from ..datastore import Datastore
    from ..mount import Mount

BLOCK = 4096
_NEW = frozenset({"create", "mkdir", "mknod", "symlink"})
_CONCERNED = _NEW | {
    "chown",
    "close",
    "fsync",
    "link",
    "removexattr",
    "rename",
    "rmdir",
    "setxattr",
    "statfs",
    "truncate",
    "unlink",
    "write",
}


def blocks(status: os.stat_result) -> int:
    """Return the number of 4 KiB blocks of a file."""
    return (status.st_blocks * 512 + BLOCK - 1) // BLOCK


@dataclasses.dataclass
class Account:
    """Use and limits of the datastore, of one user (*uid*) or of one subtree (*path*), in blocks and inodes. None: no
    limit.
    """

    error: int
    block_limit: int | None = None
    inode_limit: int | None = None
    uid: int | None = None
    path: bytes | None = None
    used: int = 0
    inodes: int = 0

    def covers(self, uid: int, path: bytes) -> bool:
        if self.path is not None and path != self.path and not path.startswith(self.path + b"/"):
            return False
        return self.uid is None or self.uid == uid

    @property
    def is_limited(self) -> bool:
        return self.block_limit is not None or self.inode_limit is not None

    def renew(self) -> Account:
        """Return an account with the same limits that is still without use."""
        return dataclasses.replace(self, used=0, inodes=0)

    def check_use(self) -> None:
        """Raise :class:`SimulatedDatastoreError` for a limit below the use."""
        if self.free() < 0:
            option, limit, used = "size", (self.block_limit or 0) * BLOCK, self.used * BLOCK
        elif self.free_inodes() < 0:
            option, limit, used = "inodes", self.inode_limit or 0, self.inodes
        else:
            return
        of = ""
        if self.uid is not None:
            of = f" of uid {self.uid}"
        elif self.path is not None:
            of = f" of {os.fsdecode(self.path)!r}"
        raise SimulatedDatastoreError(f"{option}: {limit}{of} is below the {used} that are used, give at least that.")

    def free(self) -> float:
        return float("inf") if self.block_limit is None else self.block_limit - self.used

    def free_inodes(self) -> float:
        return float("inf") if self.inode_limit is None else self.inode_limit - self.inodes

    def status(self) -> dict[str, Any]:
        return {
            "uid": self.uid,
            "path": None if self.path is None else os.fsdecode(self.path),
            "size": None if self.block_limit is None else self.block_limit * BLOCK,
            "used": self.used * BLOCK,
            "inodes": self.inode_limit,
            "inodes_used": self.inodes,
        }


@dataclasses.dataclass(frozen=True)
class Statvfs:
    """The result of statfs where the datastore has limits of its own (statvfs(3))."""

    f_bsize: int
    f_frsize: int
    f_blocks: int
    f_bfree: int
    f_bavail: int
    f_files: int
    f_ffree: int
    f_favail: int
    f_namemax: int


class Capacity(Policy):
    name = "capacity"

    def __init__(self, datastore: Datastore) -> None:
        self._datastore = datastore
        self._nodes = datastore.nodes
        self._accounts: list[Account] = []
        self._file_limit: int | None = None
        self._error_at: str | None = None

    # Control

    def set(self, **given: Any) -> dict[str, Any]:
        """Change limits: *size* and *max_file* in bytes, *inodes*, *error_at*, and *quotas*.

        *quotas* is a list of mappings with uid or path, and size or inodes. None removes a limit. Raises
        :class:`SimulatedDatastoreError` for a limit below the use.
        """
        for key in given:
            choose("capacity", key, ["size", "inodes", "max_file", "error_at", "quotas"])
        if given.get("error_at") is not None:
            choose("error_at", given["error_at"], ERROR_AT)
        whole = self._new_account(given)
        max_file = _whole("max_file", given["max_file"]) if "max_file" in given else self._file_limit
        accounts = [whole, *self._new_quotas(given)]
        self._count(accounts)
        for account in accounts:
            account.check_use()
        is_limited = max_file is not None or any(account.is_limited for account in accounts)
        self._accounts = accounts if is_limited else []
        self._file_limit = max_file
        if "error_at" in given:
            self._error_at = given["error_at"]
        self._datastore.recompile()
        return self.status()

    def _new_account(self, given: dict[str, Any]) -> Account:
        """Return the account of the whole datastore, still without its use."""
        account = self._accounts[0].renew() if self._accounts else Account(errno.ENOSPC)
        if "size" in given:
            account.block_limit = _blocks_of("size", given["size"])
        if "inodes" in given:
            account.inode_limit = _whole("inodes", given["inodes"])
        return account

    def _new_quotas(self, given: dict[str, Any]) -> list[Account]:
        """Return the accounts of the quotas, still without their use."""
        if "quotas" not in given:
            return [account.renew() for account in self._accounts[1:]]
        if not isinstance(given["quotas"], (list, type(None))):
            raise SimulatedDatastoreError(
                f'quotas: {given["quotas"]!r} isn\'t a list of mappings such as {{"uid": 1000, "size": 4096}}.'
            )
        accounts = []
        for quota in given["quotas"] or ():
            accounts.append(_quota(quota))
            if "path" in quota:
                self._datastore.check_path("quotas path", quota["path"])
        return accounts

    def status(self) -> dict[str, Any]:
        first = self._accounts[0] if self._accounts else Account(errno.ENOSPC)
        return {
            "limited": bool(self._accounts),
            **first.status(),
            "max_file": self._file_limit,
            "error_at": self._error_at,
            "quotas": [account.status() for account in self._accounts[1:]],
        }

    def recount(self) -> None:
        """Compute the use again, after changes other than by requests."""
        if self._accounts:
            for account in self._accounts:
                account.used = account.inodes = 0
            self._count(self._accounts)

    def _count(self, accounts: list[Account]) -> None:
        for node in self._nodes:
            node.counted = None
        seen: set[int] = set()
        for path, status in self._walk():
            if status.st_ino not in seen:
                seen.add(status.st_ino)
                _charge(accounts, status.st_uid, path, blocks(status), 1)
        for node in self._nodes:
            if node.ino not in seen and not node.links and node.is_in_use:
                self._charge_nameless(accounts, node)

    def _charge_nameless(self, accounts: list[Account], node: Node) -> None:
        status = self._nodes.stat(node)
        if status.st_nlink == 0:
            node.orphan = True
            uid, number = node.counted = (status.st_uid, blocks(status))
            _charge(accounts, uid, node.path, number, 1)

    def _walk(self) -> Iterator[tuple[bytes, os.stat_result]]:
        """Yield path and status of everything in the backing directory that clients can see."""
        root = self._nodes.root_fd
        yield b"/", os.fstat(root)
        yield from self._walk_below(root, b".", b"/")

    def _walk_below(self, parent: int, name: bytes, path: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            for child, is_directory in list_directory(fd):
                if path + child == b"/" + self._datastore.hidden:
                    continue
                with contextlib.suppress(FileNotFoundError):
                    yield path + child, os.stat(child, dir_fd=fd, follow_symlinks=False)
                if is_directory:
                    with contextlib.suppress(OSError):
                        yield from self._walk_below(fd, child, path + child + b"/")
        finally:
            os.close(fd)

    # The pipeline

    def concerns(self, op: str) -> bool:
        if op not in _CONCERNED:
            return False
        # A waiting request may meet limits that are set later.
        store = self._datastore
        return bool(self._accounts) or any(policy.concerns(op) for policy in (store.state, store.rules, store.schedule))

    def enter(self, request: Request) -> None:
        """Apply the current limits to the request, even after a wait, and note the old use of its nodes."""
        if not self._accounts:
            return
        op = request.op
        if op == "write":
            self._limit_write(request)
        elif op == "truncate":
            self._limit_truncate(request)
        elif op in _NEW:
            self._limit_new(request)
        elif op in ("rename", "link"):
            self._limit_move(request)
        for node in (request.node, request.new_parent):
            if node is not None and node.counted is None:
                with contextlib.suppress(OSError):
                    status = self._nodes.stat(node)
                    if status.st_nlink or node.is_in_use:
                        node.counted = (status.st_uid, blocks(status))

    def reports_at(self, mount: Mount) -> str:
        """Return the operation in which *mount* reports a lack of space: write, close or fsync."""
        return self._error_at or mount.export.profile.error_at

    def _of_path(self, path: bytes) -> list[bytes]:
        return [
            account.path
            for account in self._accounts
            if account.path is not None and account.covers(account.uid or 0, path)
        ]

    def _above_quota(self, path: bytes) -> bool:
        return any(account.path is not None and account.path.startswith(path + b"/") for account in self._accounts)

    def _limit_write(self, request: Request) -> None:
        handle, offset, wanted = request.handle, request.offset, len(request.data)
        if handle is None or handle.lost:
            return
        fits, number = wanted, errno.ENOSPC
        if self._file_limit is not None and offset + wanted > self._file_limit:
            fits, number = max(0, self._file_limit - offset), errno.EFBIG
        accounts = self._accounts
        if len(accounts) > 1:
            uid = os.fstat(handle.fd).st_uid
            path = request.path
            accounts = [account for account in accounts if account.covers(uid, path)]
        tightest = accounts[0] if len(accounts) == 1 else min(accounts, key=Account.free)
        free = tightest.free()
        need = (offset + fits - 1) // BLOCK - offset // BLOCK + 1 if fits else 0
        if need > free:
            fitting = _prefix(handle.fd, offset, fits, max(0, int(free)))
            if fitting < fits:
                fits, number = fitting, tightest.error
        if fits < wanted:
            if self.reports_at(request.mount) == "write" or number == errno.EFBIG:
                if fits == 0:
                    raise OSError(number, os.strerror(number))
            else:
                self._datastore.writeback.lose(handle, number)
                request.notes["late"] = wanted
            request.data, request.size = request.data[:fits], fits

    def _limit_truncate(self, request: Request) -> None:
        size = request.arguments.get("size", 0)
        if self._file_limit is not None and size > self._file_limit:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    def _limit_move(self, request: Request) -> None:
        """Raise EXDEV for a change of quota, like XFS between projects.

        A file would take its use along, and a directory the use of the quotas below.
        """
        old, new = request.path, request.new_path
        if self._of_path(old) != self._of_path(new) or self._above_quota(old) or self._above_quota(new):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    def _limit_new(self, request: Request) -> None:
        uid = request.caller.uid if request.caller is not None else 0
        accounts = [account for account in self._accounts if account.covers(uid, request.path)]
        if request.op == "create" and not request.flags & os.O_EXCL:
            with contextlib.suppress(OSError):
                # Another client was faster: the request creates nothing and will be refused.
                os.stat(request.name or b"", dir_fd=self._nodes.directory_fd(request.node), follow_symlinks=False)
                return
        need = 1 if request.op == "mkdir" and os.fstat(self._nodes.root_fd).st_blocks else 0
        for account in accounts:
            if account.free_inodes() < 1 or (need and account.free() < need):
                raise OSError(account.error, os.strerror(account.error))

    def after(self, request: Request) -> None:
        if not self._accounts:
            return
        op = request.op
        if op == "statfs":
            request.result = self._statfs(request.result)
        elif "late" in request.notes:
            request.result = request.notes["late"]
        if request.skip:
            return
        if op in _NEW:
            uid, number = request.stat.st_uid, blocks(request.stat)
            if request.found is not None:
                request.found.counted = uid, number
            _charge(self._accounts, uid, request.path, number, 1)
        elif op in ("rmdir", "unlink"):
            self._subtract_removed(request.stat, request.found, request.path)
        elif op == "rename":
            old, replaced = request.result
            if old is not None and old.st_ino != request.stat.st_ino and not request.flags & RENAME_EXCHANGE:
                self._subtract_removed(old, replaced, request.new_path)

    def settle(self, request: Request) -> None:
        if not self._accounts:
            return
        self._measure(request.node)
        if request.new_parent is not None:
            self._measure(request.new_parent)

    def _measure(self, node: Node) -> None:
        """Update the use of *node*. The file system beneath may allocate blocks later than the write."""
        before = node.counted
        if before is None:
            return
        try:
            status = self._nodes.stat(node)
        except OSError:
            return
        uid, number = node.counted = (status.st_uid, blocks(status))
        if uid != before[0]:
            _charge(self._accounts, before[0], node.path, -before[1], -1)
            _charge(self._accounts, uid, node.path, number, 1)
        elif number != before[1]:
            _charge(self._accounts, uid, node.path, number - before[1], 0)

    def _subtract_removed(self, status: os.stat_result, node: Node | None, path: bytes) -> None:
        """Subtract a file from the use after the removal of a name, if the file has no other name and isn't open."""
        if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
            return
        uid, number = (node and node.counted) or (status.st_uid, blocks(status))
        if node is not None and node.is_in_use:
            node.orphan, node.counted = True, (uid, number)
            return
        _charge(self._accounts, uid, path, -number, -1)
        if node is not None:
            # Clients may still know the node, but their changes don't count any more.
            node.counted = None

    def count_opened(self, node: Node) -> None:
        """Count a nameless file that is open again, by a program's descriptor with O_PATH."""
        if self._accounts:
            self._charge_nameless(self._accounts, node)

    def subtract_closed(self, node: Node) -> None:
        """Subtract a nameless file after its last close."""
        if self._accounts and node.counted is not None:
            (uid, number), node.counted = node.counted, None
            _charge(self._accounts, uid, node.path, -number, -1)

    def _statfs(self, below: Any) -> Statvfs:
        whole = self._accounts[0]
        scale = below.f_frsize / BLOCK
        if whole.block_limit is None:
            sizes = int(below.f_blocks * scale), int(below.f_bfree * scale), int(below.f_bavail * scale)
        else:
            free = max(0, whole.block_limit - whole.used)
            sizes = (whole.block_limit, free, free)
        if whole.inode_limit is None:
            files = (below.f_files, below.f_ffree, below.f_favail)
        else:
            free = max(0, whole.inode_limit - whole.inodes)
            files = (whole.inode_limit, free, free)
        return Statvfs(BLOCK, BLOCK, *sizes, *files, below.f_namemax)


def _charge(accounts: list[Account], uid: int, path: bytes, number: int, inodes: int) -> None:
    for account in accounts:
        if account.covers(uid, path):
            account.used += number
            account.inodes += inodes


def _prefix(fd: int, offset: int, size: int, free: int) -> int:
    """Return how many of *size* bytes at *offset* fit into *free* blocks. Allocated blocks cost nothing."""
    end, need, block = offset + size, 0, offset // BLOCK
    while block * BLOCK < end:
        data, hole = _data(fd, block * BLOCK)
        if data // BLOCK > block:
            # A hole up to the next data.
            here = min(data // BLOCK, (end - 1) // BLOCK + 1) - block
            if need + here > free:
                return max(0, (block + free - need) * BLOCK - offset)
            need += here
            block += here
        else:
            block = (hole + BLOCK - 1) // BLOCK
    return size


def _data(fd: int, offset: int) -> tuple[int, int]:
    """Return begin and end of the next data (lseek(2), SEEK_DATA)."""
    try:
        data = os.lseek(fd, offset, os.SEEK_DATA)
    except OSError:
        return 1 << 62, 1 << 62
    return data, os.lseek(fd, data, os.SEEK_HOLE)


def _whole(option: str, value: Any) -> int | None:
    return None if value is None else checks.whole(option, value)


def _blocks_of(option: str, value: Any) -> int | None:
    value = _whole(option, value)
    if value is not None and value % BLOCK:
        raise SimulatedDatastoreError(
            f"{option}: {value} bytes aren't whole blocks of {BLOCK}, the nearest below are {value - value % BLOCK}."
        )
    return None if value is None else value // BLOCK


def _quota(given: Any) -> Account:
    if not isinstance(given, dict):
        raise SimulatedDatastoreError(f"quotas: {given!r} isn't a mapping with uid or path, and size or inodes.")
    for key in given:
        choose("quotas", key, ["uid", "path", "size", "inodes"])
    if ("uid" in given) == ("path" in given):
        raise SimulatedDatastoreError(f"quotas: {given!r} must name either a uid or a path.")
    path = None
    if "path" in given:
        path = b"/" + os.fsencode(checks.text("quotas path", given["path"], path=True)).strip(b"/")
        if {b"", b".", b".."} & set(path[1:].split(b"/")):
            raise SimulatedDatastoreError(
                f"quotas: {given['path']!r} isn't the path of a subtree, use size for the whole datastore."
            )
    uid = checks.whole("quotas uid", given["uid"], most=checks.MOST_ID) if "uid" in given else None
    return Account(
        errno.EDQUOT,
        _blocks_of("quotas size", given.get("size")),
        _whole("quotas inodes", given.get("inodes")),
        uid,
        path,
    )


__all__ = ["BLOCK", "Capacity", "blocks"]
