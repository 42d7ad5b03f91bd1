# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Crashes. Every change is written at once, and the journal has the changes that a crash would have lost."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import stat
from typing import TYPE_CHECKING, Any

from ..crash_states import CrashStates, Recipe, State
from ..errors import SimulatedDatastoreError
from ..journal import Attribute, Attributes, Change, Content, Journal, Key, Names
from ..nodes import Node
from ..profiles import choose
from ..request import ATTRIBUTES, NAMES, Request
from ..system import RENAME_EXCHANGE, RENAME_WHITEOUT, list_directory
from . import Policy

if TYPE_CHECKING:
    from ..datastore import Datastore

KEEPS = ("none", "prefix", "subset", "torn")
ORDERS = ("none", "ordered", "strict")
#: Flags of fallocate(2): FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE.
_PUNCH = 0x03
_TRACKED = NAMES | ATTRIBUTES | {"close", "fsync", "fsyncdir", "truncate", "write"}
_libc = ctypes.CDLL(None, use_errno=True)
_log = logging.getLogger(__name__)


class _File:
    """A file of the journal. Its descriptor keeps a nameless file, too."""

    __slots__ = ("fd", "ino")

    def __init__(self, fd: int, ino: int) -> None:
        self.fd = fd
        self.ino = ino


class Durability(Policy):
    name = "durability"

    def __init__(self, datastore: Datastore, most_files: int = 2000) -> None:
        #: Number of open files of the journal above which everything counts as written back.
        self.most_files = most_files
        self._datastore = datastore
        self._nodes = datastore.nodes
        self.tracking = False
        self.journal = Journal()
        #: The warning of the full journal is in the log.
        self._told = False
        self._files: dict[int, _File] = {}
        self._ids: dict[int, int] = {}
        self._next = 1

    # Control

    def track(self, enabled: bool = True, limit: int | None = None) -> dict[str, Any]:
        """Start or end the journal, of at most *limit* bytes. Earlier changes count as durable."""
        if not isinstance(enabled, bool):
            raise SimulatedDatastoreError(f"crash_tracking: {enabled!r} is neither true nor false.")
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
            raise SimulatedDatastoreError(f"limit: {limit!r} isn't a number of bytes, at least 1.")
        self.tracking = enabled
        self.journal = Journal(limit or self.journal.limit)
        self._told = False
        self._release_unused()
        self._datastore.recompile()
        return {"tracking": self.tracking, "limit": self.journal.limit}

    def check(
        self,
        keep: str = "none",
        names: str = "ordered",
        seed: int = 0,
        count: int | None = None,
        state: int | None = None,
        restart: bool = False,
    ) -> None:
        """Raise :class:`SimulatedDatastoreError` unless a crash with these parameters is possible."""
        if not self.tracking:
            raise SimulatedDatastoreError("crash: there is no record of unsynced changes, set crash tracking before.")
        choose("keep", keep, KEEPS)
        choose("names", names, ORDERS)
        for option, value in (("seed", seed), ("count", count), ("state", state)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise SimulatedDatastoreError(f"{option}: {value!r} isn't a whole number that is at least 0.")

    def unsynced(self) -> dict[str, Any]:
        """Return the possible losses in a crash: bytes and ranges by file, names, and attributes.

        ``written_back`` is the number of changes that count as durable only for lack of room in the journal.
        """
        self.check()
        files: dict[int, list[tuple[int, int]]] = {}
        names, attributes = [], []
        for change in self.journal.pending("strict"):
            if isinstance(change, Content):
                files.setdefault(change.fid, []).append((change.offset, change.offset + len(change.new)))
            elif isinstance(change, Attributes):
                attributes.append({"op": change.op, "path": self._path(change.fid), "journaled": change.journaled})
            else:
                names.append(
                    {
                        "op": change.op,
                        "names": [os.fsdecode(key[1]) for key, _unused, _unused in change.changes],
                        "journaled": change.journaled,
                    }
                )
        found = []
        for fid, ranges in files.items():
            merged = _merge(ranges)
            found.append(
                {"path": self._path(fid), "bytes": sum(end - start for start, end in merged), "ranges": merged}
            )
        return {
            "tracking": self.tracking,
            "bytes": sum(file["bytes"] for file in found),
            "files": found,
            "names": names,
            "attributes": attributes,
            "written_back": self.journal.written_back,
        }

    def states(self, limit: int = 100, names: str = "ordered", seed: int = 0) -> list[dict[str, Any]]:
        """Return at most *limit* of the possible states of the disk after a crash now.

        The number of a state is the parameter *state* of crash, with the same *seed*.
        """
        self.check(names=names, seed=seed)
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise SimulatedDatastoreError(f"limit: {limit!r} isn't a whole number that is at least 1.")
        states = CrashStates(self.journal, names)
        return [
            {"state": number, **self._describe(states, state)} for number, state in enumerate(states.take(limit, seed))
        ]

    def count(self, limit: int = 100, names: str = "ordered", seed: int = 0) -> dict[str, Any]:
        """Return the number of states (``states``, at most 10**100), ``exact`` (false for an upper bound), and
        ``listed``, the number of states in :meth:`states`.
        """
        self.check(names=names, seed=seed)
        states = CrashStates(self.journal, names)
        number, exact = states.count()
        return {"states": number, "exact": exact, "listed": len(states.take(limit, seed))}

    def _describe(self, states: CrashStates, state: State) -> dict[str, list[str]]:
        """Return the surviving, the lost and the torn changes."""
        told: dict[str, list[str]] = {"survivors": [], "lost": [], "torn": []}
        for change in states.pending:
            if states.whole(state, change):
                told["survivors"].append(self._text(change))
            elif parts := states.parts(state, change):
                ranges = _merge([(part.start, part.end) for part in parts if part.kind == "data"])
                there = [f"bytes {start} to {end}" for start, end in ranges]
                there += [
                    f"the size {size}"
                    for size in [max((part.end for part in parts if part.kind == "size"), default=0)]
                    if size
                ]
                told["torn"].append(f"{', '.join(there)} of {self._text(change)}")
            else:
                told["lost"].append(self._text(change))
        return told

    def forget(self, node: Node) -> None:
        """Mark the dirty pages of *node* as lost after a failed fsync."""
        fid = self._ids.get(node.ino)
        if fid is not None:
            self.journal.forget(fid)

    def sync(self) -> None:
        """Make everything durable, like sync(2) on the server."""
        self.journal.sync_all()
        self._release_unused()

    # The pipeline

    def concerns(self, op: str) -> bool:
        return self.tracking and op in _TRACKED

    def enter(self, request: Request) -> None:
        """Note the content that will be overwritten, and open the files that may lose their name."""
        op = request.op
        try:
            if op == "write":
                self._enter_write(request)
            elif op == "truncate" or op in ATTRIBUTES:
                if op == "truncate":
                    self._enter_truncate(request)
                self._enter_attributes(request)
            elif op in ("unlink", "rmdir"):
                request.notes[self.name] = self._fid_at(*request.entry)
            elif op == "rename":
                request.notes[self.name] = (
                    self._fid_at(*request.entry),
                    self._fid_at(*request.target),
                )
        except FileNotFoundError:
            # The operation itself will raise the error.
            pass

    def _enter_write(self, request: Request) -> None:
        handle = request.handle
        if handle is None or handle.lost:
            return
        old = os.pread(handle.fd, len(request.data), request.offset)
        request.notes[self.name] = (self._fid(request.node), old, os.fstat(handle.fd).st_size)

    def _enter_truncate(self, request: Request) -> None:
        fid = self._fid(request.node)
        fd, cut = self._files[fid].fd, request.arguments["size"]
        size = os.fstat(fd).st_size
        old = b""
        if 0 <= cut < size:
            # Only data up to the end: the rest of a sparse file needs no memory.
            old = _read(fd, cut, min(size - cut, self.journal.limit))
        request.notes[self.name] = (fid, old, size)

    def _enter_attributes(self, request: Request) -> None:
        value = None
        if request.op in ("removexattr", "setxattr"):
            with self._nodes.path_of(request.node) as path, contextlib.suppress(OSError):
                value = os.getxattr(path, request.data)
        request.notes["attributes"] = (self._nodes.stat(request.node), value)

    def _note_attributes(self, request: Request) -> None:
        if "attributes" not in request.notes:
            return
        before, value = request.notes["attributes"]
        after = self._nodes.stat(request.node)
        names = ["mode", "uid", "gid"]
        changes: list[tuple[Attribute, object, object]] = []
        if request.op in ("removexattr", "setxattr"):
            changes.append((request.data, value, request.arguments))
        else:
            # Other times change without a request.
            names += [name for name in ("atime_ns", "mtime_ns") if name in request.arguments]
        changes += [(name, getattr(before, f"st_{name}"), getattr(after, f"st_{name}")) for name in names]
        if changes := [change for change in changes if change[1] != change[2]]:
            self.journal.attributes(self._fid(request.node), request.op, *changes)

    def after(self, request: Request) -> None:
        if request.skip:
            # The operation wasn't executed, even if the client got a success.
            return
        op = request.op
        if op == "write":
            self._note_write(request)
        elif op == "truncate":
            self._note_truncate(request)
        elif op in ("fsync", "close"):
            self._note_sync(request)
        elif op == "fsyncdir":
            self.journal.sync_directory(self._fid(request.node))
        elif request.mount.export.profile.coherent:
            # A server's reply to a change of names or attributes comes after the change is on the disk.
            if op in ATTRIBUTES:
                self._note_attributes(request)
            else:
                self._note_names(request)
        if len(self._files) > self.most_files:
            self._make_room()
        if self.journal.written_back and not self._told:
            self._told = True
            _log.warning(
                "crash tracking has no room for all unsynced changes: the oldest changes count as written back from "
                "now on"
            )

    def _note_write(self, request: Request) -> None:
        noted = request.notes.get(self.name)
        if noted is not None and request.data:
            fid, old, size = noted
            durable = bool(request.handle is not None and request.handle.flags & os.O_DSYNC)
            self.journal.content(fid, request.offset, request.data, old, size, durable=durable)

    def _note_truncate(self, request: Request) -> None:
        noted = request.notes.get(self.name)
        if noted is not None:
            fid, old, size = noted
            self.journal.content(fid, request.arguments["size"], b"", old, size, cut=request.arguments["size"])
            if request.mount.export.profile.coherent:
                self._note_attributes(request)

    def _note_sync(self, request: Request) -> None:
        # A network client commits its writes in close.
        if request.op == "fsync" or not request.mount.export.profile.coherent:
            fid = self._ids.get(request.node.ino)
            self.journal.sync(-1 if fid is None else fid, data_only=bool(request.arguments))

    def _note_names(self, request: Request) -> None:
        op, name, noted = request.op, request.name or b"", request.notes.get(self.name)
        directory = self._fid(request.node) if request.name is not None else 0
        if op in ("create", "mkdir", "mknod", "symlink"):
            if request.found is not None:
                # The inode number may have been that of a removed file.
                self._ids.pop(request.found.ino, None)
                self.journal.names(op, ((directory, name), None, self._fid(request.found)))
        elif op == "link":
            new_parent, new_name = request.target
            self.journal.names(op, ((self._fid(new_parent), new_name), None, self._fid(request.node)))
        elif op in ("unlink", "rmdir"):
            self.journal.names(op, ((directory, name), noted, None))
        elif op == "rename" and noted is not None:
            source, target = noted
            new_parent, new_name = request.target
            new = (self._fid(new_parent), new_name)
            if source == target:
                return
            if request.flags & RENAME_WHITEOUT:
                self.sync()
                return
            self.journal.names(
                op,
                ((directory, request.name or b""), source, target if request.flags & RENAME_EXCHANGE else None),
                (new, target, source),
            )

    # Files of the journal

    def _fid(self, node: Node) -> int:
        fid = self._ids.get(node.ino)
        if fid is None:
            flags = os.O_RDWR if node.kind == stat.S_IFREG else os.O_PATH
            if node.kind == stat.S_IFLNK or node.kind != stat.S_IFREG:
                flags |= os.O_NOFOLLOW if node.pin is None else 0
            fid = self._enter_file(self._nodes.open(node, flags), node.ino)
        return fid

    def _fid_at(self, directory: Node, name: bytes) -> int | None:
        """Return the file of a name, known to a client or not; None for a missing one."""
        fd = self._nodes.directory_fd(directory)
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        fid = self._ids.get(status.st_ino)
        if fid is None:
            flags = (os.O_RDWR if stat.S_ISREG(status.st_mode) else os.O_PATH) | os.O_NOFOLLOW | os.O_CLOEXEC
            fid = self._enter_file(os.open(name, flags, dir_fd=fd), status.st_ino)
        return fid

    def _enter_file(self, fd: int, ino: int) -> int:
        fid, self._next = self._next, self._next + 1
        self._files[fid] = _File(fd, ino)
        self._ids[ino] = fid
        return fid

    def _make_room(self) -> None:
        """Close unused files. If too many are in use, everything counts as written back."""
        self._release_unused()
        if len(self._files) > self.most_files * 3 // 4:
            self.journal.written_back += self.journal.sync_all()
            self._release_unused()

    def _release_unused(self) -> None:
        """Close the files that aren't in the journal any more."""
        used: set[int | None] = set()
        for change in self.journal.changes:
            if not isinstance(change, Names):
                used.add(change.fid)
            else:
                used.update(part for key, old, new in change.changes for part in (key[0], old, new))
        for fid in self._files.keys() - used:
            file = self._files.pop(fid)
            os.close(file.fd)
            if self._ids.get(file.ino) == fid:
                del self._ids[file.ino]

    def _path(self, fid: int) -> str:
        file = self._files[fid]
        node = self._nodes.known(file.ino)
        return os.fsdecode(node.path) if node is not None else f"inode {file.ino}"

    def _text(self, change: Change) -> str:
        if isinstance(change, Names):
            paths = (
                self._path(directory).rstrip("/") + "/" + os.fsdecode(name)
                for (directory, name), _unused, _unused in change.changes
            )
            return f"{change.seq}: {change.op} {' -> '.join(paths)}"
        if isinstance(change, Attributes):
            what = f"{change.op} {', '.join(os.fsdecode(name) for name, _unused, _unused in change.changes)}"
        else:
            what = f"truncate to {change.cut}" if change.cut is not None else f"write {len(change.new)}@{change.offset}"
        return f"{change.seq}: {what} of {self._path(change.fid)}"

    # The crash

    def apply(
        self,
        keep: str = "none",
        names: str = "ordered",
        seed: int = 0,
        count: int | None = None,
        state: int | None = None,
        restart: bool = False,
    ) -> dict[str, Any]:
        """Change the backing directory into a possible state of the disk, and return the losses."""
        self.check(keep, names, seed, count, state, restart)
        states = CrashStates(self.journal, names)
        if state is None:
            chosen = states.one(keep, seed, count)
        else:
            listed = states.take(state + 1, seed)
            if state >= len(listed):
                raise SimulatedDatastoreError(
                    f"state: there are {len(listed)} crash states, {state} isn't the number of one."
                )
            chosen = listed[state]
        told = self._describe(states, chosen)
        for fid, recipe in states.contents(chosen).items():
            _replay(self._files[fid].fd, recipe)
        for fid, values in states.attribute_values(chosen).items():
            _set_attributes(f"/proc/self/fd/{self._files[fid].fd}", values)
        self._apply_names(states.entries(chosen))
        self.journal.changes.clear()
        self.journal.weight = 0
        self._release_unused()
        return told

    def _apply_names(self, differing: dict[Key, tuple[int | None, int | None]]) -> None:
        if not differing:
            return
        root = self._nodes.root_fd
        hidden = self._datastore.hidden
        with contextlib.suppress(FileExistsError):
            os.mkdir(hidden, 0o700, dir_fd=root)
        store = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        try:
            # Move all entries away first, because the old and new names can overlap.
            for (directory, name), (now, _unused) in differing.items():
                if now is not None:
                    self._put_aside(directory, name, now, store)
            waiting = {key: target for key, (_unused, target) in differing.items() if target is not None}
            while waiting:
                placed = [key for key, fid in waiting.items() if self._place(key[0], key[1], fid, store)]
                if not placed:
                    # The directory below is lost itself.
                    break
                for key in placed:
                    del waiting[key]
        finally:
            os.close(store)
            _remove_tree(hidden, root)

    def _put_aside(self, directory: int, name: bytes, fid: int, store: int) -> None:
        where = self._files[directory].fd
        kept = str(fid).encode()
        with contextlib.suppress(FileNotFoundError):
            # One of several names suffices.
            os.rename(name, kept, src_dir_fd=where, dst_dir_fd=store)
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(name, dir_fd=where)

    def _place(self, directory: int, name: bytes, fid: int, store: int) -> bool:
        where, file, kept = self._files[directory].fd, self._files[fid], str(fid).encode()
        status = os.fstat(file.fd)
        try:
            if stat.S_ISDIR(status.st_mode):
                try:
                    os.rename(kept, name, src_dir_fd=store, dst_dir_fd=where)
                except FileNotFoundError:
                    self._recreate(file, status, where, name)
            elif status.st_nlink:
                os.link(f"/proc/self/fd/{file.fd}", name, dst_dir_fd=where, follow_symlinks=True)
            else:
                self._recreate(file, status, where, name)
        except FileNotFoundError:
            return False
        except FileExistsError:
            pass
        return True

    def _recreate(self, file: _File, status: os.stat_result, where: int, name: bytes) -> None:
        """Create a copy of a nameless file, because such a file can't get a name."""
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            os.mkdir(name, dir_fd=where)
            fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=where)
        elif kind == stat.S_IFLNK:
            os.symlink(os.readlink(b"", dir_fd=file.fd), name, dir_fd=where)
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=where)
        elif kind == stat.S_IFREG:
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=where)
            _copy(file.fd, fd)
        else:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=where)
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=where)
        for attribute in os.listxattr(f"/proc/self/fd/{file.fd}"):
            os.setxattr(f"/proc/self/fd/{fd}", attribute, os.getxattr(f"/proc/self/fd/{file.fd}", attribute))
        os.chown(name, status.st_uid, status.st_gid, dir_fd=where, follow_symlinks=False)
        if kind != stat.S_IFLNK:
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=where)
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=where, follow_symlinks=False)
        os.close(file.fd)
        file.fd = fd


def _replay(fd: int, recipe: Recipe) -> None:
    for change in recipe.undo:
        if change.cut is not None:
            os.ftruncate(fd, change.size)
        if change.old:
            if change.old.count(0) == len(change.old):
                # The old data may have been a hole.
                _libc.fallocate(fd, _PUNCH, ctypes.c_int64(change.offset), ctypes.c_int64(len(change.old)))
            else:
                _write(fd, change.old, change.offset)
        os.ftruncate(fd, change.size)
    for offset, data in recipe.redo:
        if data is None:
            os.ftruncate(fd, offset)
        else:
            _write(fd, data, offset)
    os.ftruncate(fd, recipe.size)


def _set_attributes(path: str, values: dict[Attribute, Any]) -> None:
    """Set the attributes of the file at *path*, a link of proc(5). ACLs and owners come first, because they change the
    mode.
    """
    now = os.stat(path)
    for name, value in values.items():
        if isinstance(name, bytes):
            if value is None:
                os.removexattr(path, name)
            else:
                os.setxattr(path, name, value)
    if "uid" in values or "gid" in values:
        os.chown(path, values.get("uid", -1), values.get("gid", -1))
    if not stat.S_ISLNK(now.st_mode):
        os.chmod(path, stat.S_IMODE(values.get("mode", now.st_mode)))
    os.utime(path, ns=(values.get("atime_ns", now.st_atime_ns), values.get("mtime_ns", now.st_mtime_ns)))


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def _read(fd: int, offset: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := os.pread(fd, min(size, 1 << 24), offset)):
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return b"".join(parts)


def _copy(source: int, target: int) -> None:
    """Copy content with its holes."""
    size, offset = os.fstat(source).st_size, 0
    while offset < size:
        try:
            offset = os.lseek(source, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        end = os.lseek(source, offset, os.SEEK_HOLE)
        while offset < end:
            data = os.pread(source, min(end - offset, 1 << 20), offset)
            _write(target, data, offset)
            offset += len(data)
    os.ftruncate(target, size)


def _remove_tree(name: bytes, directory: int) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        for child, is_directory in list_directory(fd):
            if is_directory:
                _remove_tree(child, fd)
            else:
                os.unlink(child, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=directory)


def _merge(ranges: list[tuple[int, int]]) -> list[list[int]]:
    merged: list[list[int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return merged


__all__ = ["KEEPS", "ORDERS", "Durability"]
