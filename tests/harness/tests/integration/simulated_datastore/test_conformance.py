# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Equality with the file system beneath, without policies: every operation, every kind of name and of user."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from differential import MEMBER, OLD, OWNER, ROOT, STRANGER, TARGETS, User, as_user, furnish, snapshot, touched
from sd_mounted import Mounted

USERS = {"root": ROOT, "owner": OWNER, "member": MEMBER, "stranger": STRANGER}


def _open(flags: int, path: str, mode: int = 0o666) -> Any:
    fd = os.open(path, flags | os.O_NONBLOCK, mode)
    try:
        status = os.fstat(fd)
        return [oct(status.st_mode), status.st_size, status.st_uid, status.st_gid, status.st_nlink]
    finally:
        os.close(fd)


def _bind(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        try:
            bound.bind(path)
        except OSError as error:
            if error.errno is None:
                raise OSError(0, str(error)) from error
            raise


def _write(path: str) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        return os.write(fd, b"written") if stat.S_ISREG(os.fstat(fd).st_mode) else -1
    finally:
        os.close(fd)


def _write_at(path: str, offset: int) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        return os.pwrite(fd, b"far", offset) if stat.S_ISREG(os.fstat(fd).st_mode) else -1
    finally:
        os.close(fd)


def _utime(path: str, time_ns: int) -> list[int]:
    os.utime(path, ns=(time_ns, time_ns))
    status = os.stat(path)
    return [status.st_atime_ns, status.st_mtime_ns]


#: Operations on one name.
OPERATIONS: dict[str, Callable[[str], Any]] = {
    "open-read": partial(_open, os.O_RDONLY),
    "open-write": partial(_open, os.O_WRONLY),
    "open-both": partial(_open, os.O_RDWR),
    "create": partial(_open, os.O_CREAT | os.O_WRONLY),
    "create-excl": partial(_open, os.O_CREAT | os.O_EXCL | os.O_RDWR),
    "create-trunc": partial(_open, os.O_CREAT | os.O_TRUNC | os.O_RDWR, mode=0o6777),
    "open-trunc": partial(_open, os.O_TRUNC | os.O_WRONLY),
    "open-directory": partial(_open, os.O_RDONLY | os.O_DIRECTORY),
    "open-nofollow": partial(_open, os.O_RDONLY | os.O_NOFOLLOW),
    "open-path": partial(_open, os.O_PATH | os.O_NOFOLLOW),
    "open-append": partial(_open, os.O_WRONLY | os.O_APPEND),
    "open-noatime": partial(_open, os.O_RDONLY | os.O_NOATIME),
    "write": _write,
    "mkdir": lambda path: os.mkdir(path, 0o7777),
    "mkdir-private": lambda path: os.mkdir(path, 0o700),
    "rmdir": os.rmdir,
    "unlink": os.unlink,
    "mkfifo": lambda path: os.mkfifo(path, 0o666),
    "mknod-file": lambda path: os.mknod(path, stat.S_IFREG | 0o640),
    "mknod-char": lambda path: os.mknod(path, stat.S_IFCHR | 0o640, os.makedev(1, 3)),
    "mknod-block": lambda path: os.mknod(path, stat.S_IFBLK | 0o640, os.makedev(7, 201)),
    "bind": _bind,
    "symlink": lambda path: os.symlink("some/target", path),
    "symlink-empty": lambda path: os.symlink("", path),
    "symlink-long": lambda path: os.symlink("t" * 4095, path),
    "symlink-too-long": lambda path: os.symlink("t" * 4096, path),
    "readlink": os.readlink,
    "listdir": lambda path: sorted(os.listdir(path)),
    "chmod": lambda path: os.chmod(path, 0o640),
    "chmod-special": lambda path: os.chmod(path, 0o7777),
    "chown": lambda path: os.chown(path, 1002, 1002),
    "chown-group": lambda path: os.chown(path, -1, 1001),
    "chown-nothing": lambda path: os.chown(path, -1, -1),
    "lchown": lambda path: os.lchown(path, 65534, 65534),
    "truncate-short": lambda path: os.truncate(path, 3),
    "truncate-long": lambda path: os.truncate(path, 12_345),
    "truncate-huge": lambda path: os.truncate(path, (1 << 63) - 1),
    "truncate-large": lambda path: os.truncate(path, 1 << 42),
    "write-far": lambda path: _write_at(path, (1 << 63) - 5),
    "write-large": lambda path: _write_at(path, (1 << 40) + 1),
    "utime-before-the-epoch": lambda path: _utime(path, -1_500_000_001),
    "utime-far": lambda path: _utime(path, (1 << 33) * 10**9 + 5),
    "truncate-negative": lambda path: os.truncate(path, -1),
    "utime": lambda path: os.utime(path, ns=(OLD + 1, OLD + 2)),
    "utime-now": os.utime,
    "utime-link": lambda path: os.utime(path, ns=(OLD + 1, OLD + 2), follow_symlinks=False),
    "access-read": lambda path: os.access(path, os.R_OK),
    "access-write": lambda path: os.access(path, os.W_OK),
    "access-search": lambda path: os.access(path, os.X_OK),
    "setxattr": lambda path: os.setxattr(path, "user.colour", b"green"),
    "getxattr": lambda path: os.getxattr(path, "user.colour").decode(),
    "setxattr-trusted": lambda path: os.setxattr(path, "trusted.colour", b"green"),
    "listxattr": os.listxattr,
    "removexattr": lambda path: os.removexattr(path, "user.colour"),
    "link-new": lambda path: os.link(path, "new-link", follow_symlinks=False),
    "link-over": lambda path: os.link(path, "file", follow_symlinks=False),
    "link-into": lambda path: os.link("file", path),
    "chdir": os.chdir,
    "stat": lambda path: oct(os.stat(path).st_mode),
}
#: Second names of rename.
RENAME_TO = (
    "new",
    "file",
    "hard",
    "dir",
    "full",
    "full/new",
    "link",
    "fifo",
    "sticky/root's",
    "sticky/new",
    "sticky/dir",
    "no-write/new",
    "foreign/new",
    "dir/below/new",
    "nothing/new",
    "n" * 256,
    "dir/moved",
    "setgid/new",
)


class Pair:
    """The same tree on the mount and on the file system beneath it."""

    def __init__(self, ds: Any) -> None:
        self.ds = ds
        self.number = 0

    @contextlib.contextmanager
    def trees(self) -> Iterator[tuple[Path, Path]]:
        self.number += 1
        # A parent directory of its own, because an operation on ".." changes it.
        trees = self.ds.beside / f"t{self.number}/tree", self.ds.path / f"t{self.number}/tree"
        for tree in trees:
            tree.parent.mkdir()
            furnish(tree)
        yield trees

    def compare(self, user: User, operations: dict[str, Callable[[], Any]], umask: int = 0o022) -> list[str]:
        """Return the differences after *operations*; empty without any."""
        with self.trees() as trees:
            here, there = (as_user(user, tree, list(operations.values()), umask) for tree in trees)
            different = [
                f"{name[:60]!r}: {first!r} beneath, {second!r} on the mount"
                for name, first, second in zip(operations, here, there, strict=True)
                if first != second
            ]
            for look in (touched, snapshot):
                here, there = (look(tree.parent) for tree in trees)
                different += [
                    f"{look.__name__} {key}: {here.get(key)} beneath, {there.get(key)} on the mount"
                    for key in sorted(here.keys() | there.keys())
                    if here.get(key) != there.get(key)
                ]
            return different


@pytest.fixture(scope="module")
def pair(tmpfs: Path) -> Iterator[Pair]:
    root = tmpfs / "conformance"
    root.mkdir()
    mounted = Mounted(f"conformance-{os.getpid()}", root)
    yield Pair(mounted)
    mounted.end()


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(pair: Pair, name: str, user: str) -> None:
    assert not pair.compare(USERS[user], {target: partial(OPERATIONS[name], target) for target in TARGETS})


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("target", RENAME_TO)
def test_rename(pair: Pair, target: str, user: str) -> None:
    assert not pair.compare(USERS[user], {source: partial(os.rename, source, target) for source in TARGETS[:32]})


MODES = (0o6777, 0o4767, 0o2767, 0o2777, 0o2707, 0o6666, 0o0777)
#: Operations that change the content of the file "special".
CHANGES: dict[str, Callable[[], Any]] = {
    "write": lambda: _write("special"),
    "append": lambda: _append("special"),
    "truncate": lambda: os.truncate("special", 1),
    "truncate-nothing": lambda: os.truncate("special", 3),
    "open-trunc": lambda: _open(os.O_WRONLY | os.O_TRUNC, "special"),
    "chown-group": lambda: os.chown("special", -1, 1001),
    "posix-fallocate": lambda: _allocate("special"),
}


def _append(path: str) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        return os.write(fd, b"more")
    finally:
        os.close(fd)


def _allocate(path: str) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(fd, 0, 8192)
    finally:
        os.close(fd)


@pytest.fixture(scope="module", params=["local", "strict"])
def kind(request: pytest.FixtureRequest, tmpfs: Path) -> Iterator[Mounted]:
    root = tmpfs / f"privileges-{request.param}"
    root.mkdir()
    mount = root / "mount"
    mounted = Mounted(
        f"privileges-{os.getpid()}",
        root,
        [{"mount_point": str(mount), "client": "mount", "strict": request.param == "strict"}],
    )
    yield mounted
    mounted.end()


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_content_takes_privileges(kind: Mounted, change: str, user: str) -> None:
    """Set-user-ID and set-group-ID are cleared like beneath, with and without a write cache."""
    for mode in MODES:
        modes = []
        for tree in (kind.beside, kind.path):
            directory = tree / f"{change}-{user}-{mode:o}"
            directory.mkdir()
            file = directory / "special"
            file.write_bytes(b"old")
            os.chown(file, 1001, 1001)
            file.chmod(mode)
            outcome = as_user(USERS[user], directory, [CHANGES[change]])
            modes.append((outcome, oct(file.stat().st_mode)))
        assert modes[0] == modes[1], oct(mode)
