# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The same operations on two file systems, and their visible results."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class User:
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()


ROOT = User()
OWNER = User(1001, 1001)
MEMBER = User(1002, 1002, (1001,))
STRANGER = User(65534, 65534)

Operation = Callable[[], Any]


def as_user(user: User, directory: Path, operations: list[Operation], umask: int = 0o022) -> list[Any]:
    """Run *operations* in a process of *user* in *directory*. Return the result of each, as JSON would make it, or its
    errno.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            os.umask(umask)
            os.setgroups(list(user.groups))
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
            results = []
            for operation in operations:
                try:
                    os.chdir(directory)
                    results.append(operation())
                except OSError as error:
                    results.append(f"errno {error.errno} {error.strerror}")
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(json.dumps(results, default=repr).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    return json.loads(data)


def snapshot(root: Path) -> dict[str, Any]:
    """Return the state of everything below *root*: type, mode, owner, links, size, device, target or content, names of
    the same file, and the timestamps that were set.
    """
    found: dict[str, Any] = {}
    same: dict[int, str] = {}
    for directory, directories, files in os.walk(root):
        for name in [".", *sorted(directories), *sorted(files)]:
            path = os.path.join(directory, name)
            relative = os.path.relpath(path, root)
            if relative in found:
                continue
            status = os.lstat(path)
            entry: dict[str, Any] = {
                "mode": oct(status.st_mode),
                "owner": (status.st_uid, status.st_gid),
                "links": status.st_nlink,
                "blocks": status.st_blocks,
                "device": status.st_rdev,
                "same as": same.setdefault(status.st_ino, relative),
                "block size": status.st_blksize,
            }
            if not stat.S_ISDIR(status.st_mode):
                entry["size"] = status.st_size
            if stat.S_ISLNK(status.st_mode):
                entry["target"] = os.readlink(path)
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    entry["content"] = file.read(4096)
            found[relative] = entry
    return found


#: An old timestamp in nanoseconds, by which a changed one is found.
OLD = 1_000_000_000_123_456_789


def touched(root: Path) -> dict[str, tuple[bool, bool]]:
    """Return for everything below *root* True for a changed atime and mtime (not :data:`OLD`)."""
    found = {}
    for directory, directories, files in os.walk(root):
        for name in [*directories, *files]:
            path = os.path.join(directory, name)
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                found[os.path.relpath(path, root)] = (status.st_atime_ns != OLD, status.st_mtime_ns != OLD)
    return found


def furnish(root: Path) -> None:
    """Create a tree with one file of each type, of several owners."""
    root.mkdir()
    os.chown(root, 1001, 1001)
    with contextlib.chdir(root):
        old = os.umask(0)
        try:
            for name, mode in (
                ("dir", 0o755),
                ("full", 0o755),
                ("closed", 0o000),
                ("no-write", 0o555),
                ("no-search", 0o644),
                ("sticky", 0o1777),
                ("setgid", 0o2775),
                ("foreign", 0o755),
            ):
                os.mkdir(name)
                os.chown(name, 1001, 1001)
                os.chmod(name, mode)
            os.chown("foreign", 0, 0)
            os.chown("setgid", 1001, 1003)
            os.chmod("setgid", 0o2777)
            for name, mode in (
                ("file", 0o644),
                ("other", 0o666),
                ("secret", 0o600),
                ("full/inside", 0o644),
                ("sticky/owned", 0o666),
                ("sticky/root's", 0o666),
                ("setuid", 0o4755),
                ("setgid-file", 0o2755),
                ("no-search/inside", 0o644),
                ("no-write/inside", 0o666),
                ("empty", 0o644),
            ):
                Path(name).write_bytes(b"" if name == "empty" else name.encode() * 100)
                os.chown(name, 1001, 1001)
                os.chmod(name, mode)
            os.chown("sticky/root's", 0, 0)
            os.mkdir("sticky/dir")
            os.chown("sticky/dir", 1002, 1002)
            os.link("file", "hard")
            for name, target in (
                ("link", "file"),
                ("dangling", "nothing"),
                ("loop", "loop"),
                ("to-dir", "dir"),
                ("a", "b"),
                ("b", "a"),
            ):
                os.symlink(target, name)
                os.lchown(name, 1001, 1001)
            os.mkfifo("fifo", 0o644)
            os.chown("fifo", 1001, 1001)
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind("socket")
            os.chown("socket", 1001, 1001)
            os.mknod("char", stat.S_IFCHR | 0o644, os.makedev(1, 3))
            os.mknod("block", stat.S_IFBLK | 0o640, os.makedev(7, 200))
            os.chown("char", 1001, 1001)
            for directory, directories, files in os.walk("."):
                for name in [*directories, *files]:
                    os.utime(os.path.join(directory, name), ns=(OLD, OLD), follow_symlinks=False)
        finally:
            os.umask(old)


#: Names of every kind.
TARGETS = (
    "file",
    "hard",
    "secret",
    "empty",
    "dir",
    "full",
    "closed",
    "no-write",
    "link",
    "dangling",
    "loop",
    "to-dir",
    "fifo",
    "socket",
    "char",
    "nothing",
    "file/below",
    "nothing/below",
    "closed/inside",
    "no-search/inside",
    "no-write/inside",
    "no-write/new",
    "foreign/new",
    "sticky/owned",
    "sticky/root's",
    "sticky/dir",
    "sticky/new",
    "setgid/new",
    "setuid",
    "setgid-file",
    "loop/below",
    "to-dir/new",
    "dir/",
    "file/",
    "dir/.",
    "dir/..",
    ".",
    "..",
    "",
    "n" * 255,
    "n" * 256,
    "/".join(["n" * 200] * 21),
    "dir/" + "n" * 256,
)
