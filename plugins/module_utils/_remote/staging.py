# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A tree that arrives in a part directory beside its target, and gets its final names when it is complete and durable.

The part directory keeps the position up to which the data was verified. After a broken connection, another process can
go on from there, on the same host and before its next boot: the page cache has all data that was written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Iterator, Sequence

from .._core.directory import exists_at, list_directory, open_directory_at, sync_opened
from .._core.errors import NoSpace, os_errors
from .._core.locks import retry_until
from .._core.part_directory import (
    PartDirectory,
    create_part_directory,
    open_part_directory,
    remove_at,
    remove_unheld_directory,
)
from .._core.records import dataclass
from .._core.temporary import is_part_name
from .tree import DIRECTORY, FILE, LINK, Entry, Tree, digest_of

#: Name of the directory with the tree, and of the one with what the tree replaces, in the part directory.
DATA, OLD = "data", "old"

#: The state in the part's lock file: the id of the boot, the digest of the tree's description, a position.
STATE = struct.Struct(">36s32sQQ32s")

#: Interval in bytes after which written data is sent to the disk.
STRIDE = 32 << 20

#: Upper bound of the time in which a killed process releases its lock, in seconds.
RELEASE = 10

#: See renameat2(2).
RENAME_EXCHANGE = 2

#: Errors of a file system or a kernel without RENAME_EXCHANGE.
_CANT_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class Position:
    """A position in the data of a tree: an offset in the file of an entry. ``digest`` is that of all before."""

    index: int
    offset: int
    digest: bytes


class Staging:
    """A tree that is being received.

    :arg directory: descriptor of the directory of the target; ``place`` is its path for messages.
    :arg tree: the checked entries.
    :arg owner: uid and gid of all files. The default is the user of the process.
    """

    def __init__(
        self, directory: int, place: str, part: PartDirectory, tree: Tree, owner: tuple[int, int] | None
    ) -> None:
        self.directory = directory
        self.place = place
        self.tree = tree
        self._part = part
        self._owner = owner
        self._boot = _boot_id()
        self._described = digest_of(tree)
        self.start = Position(0, 0, self._described)
        #: Descriptor of the directory with the tree.
        self.data = -1

    # While data arrives

    def begin(self) -> Position:
        """Return the position from which data is needed. What was written behind it is discarded.

        :raises NoSpace: there is no room for the data.
        :raises OSError: a file can't be created.
        """
        position = self._read_state()
        if position is None:
            for name in (DATA, OLD):
                with contextlib.suppress(FileNotFoundError):
                    remove_at(self._part.descriptor, name)
            self._require_room(self.start)
            os.mkdir(DATA, 0o700, dir_fd=self._part.descriptor)
        else:
            self._require_room(position)
        self.data = open_directory_at(self._part.descriptor, DATA)
        if position is None:
            position = self.start
            self._create()
            self.note(position)
        else:
            self._discard_after(position)
        return position

    def _read_state(self) -> Position | None:
        """Return the verified position of an earlier process, or ``None`` for another boot or another tree."""
        state = os.pread(self._part.lock, STATE.size, 0)
        if len(state) != STATE.size:
            return None
        boot, described, index, offset, digest = STATE.unpack(state)
        if boot != self._boot or described != self._described:
            return None
        return Position(index, offset, digest)

    def note(self, position: Position) -> None:
        """Note that all data before a position was verified."""
        state = STATE.pack(self._boot, self._described, position.index, position.offset, position.digest)
        os.pwrite(self._part.lock, state, 0)

    def _require_room(self, position: Position) -> None:
        needed = sum(entry.data for entry in self.tree[position.index :]) - position.offset
        found = os.fstatvfs(self.directory)
        room = found.f_bavail * found.f_frsize
        if found.f_blocks and needed > room:
            raise NoSpace(
                f"{self.place} has room for {room} bytes, and the data to receive has {needed} bytes. Nothing was "
                "changed."
            )

    def _create(self) -> None:
        for entry in self.tree:
            if entry.kind == DIRECTORY:
                os.mkdir(entry.path, 0o700, dir_fd=self.data)
            elif entry.kind == LINK:
                os.symlink(entry.target, entry.path, dir_fd=self.data)
            else:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptor = os.open(entry.path, flags, 0o600, dir_fd=self.data)
                try:
                    os.truncate(descriptor, entry.size)
                finally:
                    os.close(descriptor)

    def _discard_after(self, position: Position) -> None:
        for entry in self.tree:  # the earlier process may have set the final modes
            if entry.kind != LINK:
                os.chmod(entry.path, 0o700 if entry.kind == DIRECTORY else 0o600, dir_fd=self.data)
        for index, entry in enumerate(self.tree[position.index :], start=position.index):
            if entry.kind == FILE:
                with self.opened(entry) as descriptor:
                    os.truncate(descriptor, position.offset if index == position.index else 0)
                    os.truncate(descriptor, entry.size)

    @contextlib.contextmanager
    def opened(self, entry: Entry) -> Iterator[int]:
        """Yield a descriptor to write a file of the tree."""
        descriptor = os.open(entry.path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.data)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    # When all data has arrived

    def make_durable(self) -> None:
        """Set the attributes of all files, and write all to the disk.

        :raises OSError: one of the steps failed.
        """
        for entry in reversed(self.tree):  # files come before their directory, whose time they change
            if entry.kind == LINK:
                if self._owner is not None:
                    os.chown(entry.path, *self._owner, dir_fd=self.data, follow_symlinks=False)
                os.utime(entry.path, ns=(entry.mtime, entry.mtime), dir_fd=self.data, follow_symlinks=False)
                continue
            kind = os.O_DIRECTORY if entry.kind == DIRECTORY else 0
            descriptor = os.open(entry.path, os.O_RDONLY | kind | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.data)
            try:
                if self._owner is not None:
                    os.fchown(descriptor, *self._owner)
                os.fchmod(descriptor, entry.mode)
                os.utime(descriptor, ns=(entry.mtime, entry.mtime))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        os.fsync(self.data)

    def publish(self, *, outdated: Sequence[str] = ()) -> None:
        """Give the tree its final names, those of its top level, in the directory of the target.

        Directories come first, then files and links. Each name has the old content or the new one at any time, unless
        the file system can't exchange two directories, such as NFS: there, a crash can leave the old directory under
        the name of a part. A failure is undone.

        :arg outdated: further names in the directory, which are removed if they exist.
        :raises NoSpace, FileAccessFailed: a file operation failed.
        """
        top = [entry for entry in self.tree if "/" not in entry.path]
        with os_errors(f"replace {self.place}/{top[0].path}"), contextlib.ExitStack() as undo:
            os.truncate(self._part.lock, 0)  # from here on, no other process can go on with this staging
            os.mkdir(OLD, 0o700, dir_fd=self._part.descriptor)
            old = open_directory_at(self._part.descriptor, OLD)
            try:
                for name in outdated:
                    if exists_at(self.directory, name):
                        self._rename(self.directory, name, old, name, undo)
                        self._sync(old)
                for entry in sorted(top, key=lambda entry: entry.kind != DIRECTORY):
                    self._place(entry, old, undo)
                    if entry.kind == DIRECTORY:
                        self._sync(old)
                self._sync(old)
            finally:
                os.close(old)
            undo.pop_all()

    def _sync(self, old: int) -> None:
        """Make the renames durable. A rename between two directories needs the fsync of both."""
        for directory in (old, self.data, self.directory):
            sync_opened(directory)

    def _place(self, entry: Entry, old: int, undo: contextlib.ExitStack) -> None:
        name = entry.path
        try:
            _exchange(self.data, name, self.directory, name)
            undo.callback(_exchange, self.data, name, self.directory, name)
            return
        except FileNotFoundError:  # the target is new
            pass
        except OSError as error:
            if error.errno not in _CANT_EXCHANGE:
                raise
            if entry.kind != DIRECTORY and not _is_directory_at(self.directory, name):
                os.rename(name, name, src_dir_fd=self.data, dst_dir_fd=self.directory)
                return
            if exists_at(self.directory, name):
                self._rename(self.directory, name, old, name, undo)
        self._rename(self.data, name, self.directory, name, undo)

    @staticmethod
    def _rename(source: int, name: str, target: int, new: str, undo: contextlib.ExitStack) -> None:
        os.rename(name, new, src_dir_fd=source, dst_dir_fd=target)
        undo.callback(os.rename, new, name, src_dir_fd=target, dst_dir_fd=source)

    def close(self) -> None:
        """Release the part directory, so that another process can go on, or remove it."""
        if self.data >= 0:
            os.close(self.data)
            self.data = -1
        self._part.close()

    def remove(self) -> None:
        """Remove the part directory. A part that can't be removed is left for the next sweep."""
        with contextlib.suppress(OSError):
            self._part.remove()


def open_staging(directory: int, place: str, name: str, tree: Tree, owner: tuple[int, int] | None = None) -> Staging:
    """Return the staging with the name of a part: the one of an earlier process, or a new one.

    Other parts in the directory that no running program holds are removed.

    :raises LockTimeout: another process holds the staging.
    :raises NoSpace, FileAccessFailed: it can't be created.
    """
    found: list[PartDirectory] = []

    def attempt() -> bool:
        try:
            part = open_part_directory(directory, name)
        except BlockingIOError:
            return False
        found.extend([part] if part else [])
        return True

    with os_errors(f"receive files in {place}"):
        retry_until(attempt, deadline=RELEASE, what=f"{place}/{name}")
        if not found:
            sweep_parts(directory)
            found.append(create_part_directory(directory, name))
        return Staging(directory, place, found[0], tree, owner)


def sweep_parts(directory: int) -> None:
    """Remove the part directories that no running program holds. One that can't be removed is left."""
    for name in list_directory(directory):
        if is_part_name(name):
            with contextlib.suppress(OSError):
                try:
                    remove_unheld_directory(directory, name)
                except FileNotFoundError:  # its program was killed before it created the lock
                    os.rmdir(name, dir_fd=directory)


def _is_directory_at(directory: int, name: str) -> bool:
    """Return whether ``name`` is a directory in an open directory, and no link to one."""
    return exists_at(directory, name) and stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)


def _exchange(source: int, name: str, target: int, other: str) -> None:
    """Exchange two names (renameat2(2)).

    :raises FileNotFoundError: one of them is missing; :raises OSError: with :data:`_CANT_EXCHANGE`, they can't be.
    """
    import ctypes

    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError as error:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from error
    if call(source, os.fsencode(name), target, os.fsencode(other), RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def _boot_id() -> bytes:
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return file.read().strip()


__all__ = ["STRIDE", "Position", "Staging", "open_staging", "sweep_parts"]
