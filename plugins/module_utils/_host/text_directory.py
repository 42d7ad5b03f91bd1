# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A directory with texts that other programs read while they change: each reader finds all old texts or all new ones.

The layout is that of a config map in a pod. ``..data`` is a link to the directory with the present texts, and each name
is a link through ``..data``. One rename of ``..data`` changes all texts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping

from .._core.directory import exists_at, is_link_at, open_directory_at, opened_file_at, sync_opened
from .._core.errors import os_errors

#: The link to the present texts, and its temporary name.
_DATA, _NEW = "..data", "..data_tmp"
#: The beginning of names that aren't texts.
_HIDDEN = ".."
#: Upper bounds of the number of texts and directories, and of the sizes of all in bytes.
MOST_ENTRIES, MOST_BYTES = 10_000, 64 << 20
#: Upper bound of the directories around a text. The path of a text has at most 4095 bytes, and far fewer parts.
DEEPEST = 200


class TextDirectory:
    """A directory of root with texts. Other users can read it, and its parent directory decides who reaches it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def read(self) -> dict[str, bytes] | None:
        """Return the texts by their paths; ``None`` without a complete directory. A directory that holds anything else
        has no texts, so that the next :meth:`write` replaces its content.

        A guest whose root is root here can have changed the directory. Links aren't followed, and nothing but regular
        files is opened.

        :raises FileAccessFailed: a text can't be read.
        """
        with os_errors(f"read {self.path}"):
            try:
                with _opened_data(self.path) as data:
                    return dict(_read_tree(data, _Budget()))
            except FileNotFoundError:
                return None
            except _Foreign:
                return {}

    def write(self, files: Mapping[str, bytes]) -> None:
        """Replace all texts by ``files``. A missing directory is created. The old texts stay until :meth:`sweep` for
        programs that are reading them.

        :arg files: by their paths, whose parts are plain names.
        :raises NoSpace, FileAccessFailed: the texts can't be written. The old ones are unchanged then.
        """
        with os_errors(f"write {self.path}"), _opened(self.path) as base:
            self._sweep(base)
            name = f"{_HIDDEN}{secrets.token_hex(8)}"
            wanted = {path.split("/")[0] for path in files}
            links = wanted.difference(os.listdir(base))
            try:
                _write_tree(os.path.join(self.path, name), files)
                os.symlink(name, _NEW, dir_fd=base)
                for one in links:
                    os.symlink(f"{_DATA}/{one}", one, dir_fd=base)
                if exists_at(base, _DATA) and not is_link_at(base, _DATA):
                    self._remove(base, _DATA)
                os.rename(_NEW, _DATA, src_dir_fd=base, dst_dir_fd=base)
            except BaseException:
                for one in (*links, _NEW, name):
                    with contextlib.suppress(OSError):
                        self._remove(base, one)
                raise
            for one in os.listdir(base):
                if not one.startswith(_HIDDEN) and one not in wanted:
                    self._remove(base, one)
            sync_opened(base)

    def sweep(self) -> None:
        """Remove old texts of a complete directory.

        :raises FileAccessFailed: they can't be removed.
        """
        with os_errors(f"write {self.path}"), _opened(self.path) as base:
            self._sweep(base)

    def _sweep(self, base: int) -> None:
        """Remove old texts, and what an interrupted run has left."""
        with contextlib.suppress(FileNotFoundError):
            self._remove(base, _NEW)
        present = None
        if is_link_at(base, _DATA):
            present = os.readlink(_DATA, dir_fd=base)
        for name in os.listdir(base):
            if name.startswith(_HIDDEN) and name not in (_DATA, present):
                self._remove(base, name)

    def _remove(self, base: int, name: str) -> None:
        if stat.S_ISDIR(os.stat(name, dir_fd=base, follow_symlinks=False).st_mode):
            shutil.rmtree(os.path.join(self.path, name))  # follows no links
        else:
            os.unlink(name, dir_fd=base)

    def remove(self) -> None:
        """Remove the directory with all texts, if it exists.

        :raises FileAccessFailed: it can't be removed.
        """
        with os_errors(f"remove {self.path}"), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.path)


class _Foreign(Exception):
    """Something in the directory that :meth:`TextDirectory.write` doesn't create."""


class _Budget:
    """The rest of :data:`MOST_ENTRIES` and :data:`MOST_BYTES`."""

    def __init__(self) -> None:
        self._entries, self._bytes = MOST_ENTRIES, MOST_BYTES

    def spend(self, size: int) -> None:
        self._entries, self._bytes = self._entries - 1, self._bytes - size
        if self._entries < 0 or self._bytes < 0:
            raise _Foreign


@contextlib.contextmanager
def _opened_data(path: str) -> Iterator[int]:
    """Yield a descriptor of the directory with the present texts."""
    base = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            name = os.readlink(_DATA, dir_fd=base)
        except OSError as error:
            if error.errno == errno.EINVAL:  # it isn't a link
                raise _Foreign from error
            raise
        if "/" in name or name == _HIDDEN:
            raise _Foreign
        data = _open_plain(base, name)
    finally:
        os.close(base)
    try:
        yield data
    finally:
        os.close(data)


def _open_plain(place: int, name: str) -> int:
    try:
        return open_directory_at(place, name)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _Foreign from error
        raise


def _read_tree(place: int, budget: _Budget, around: str = "") -> Iterator[tuple[str, bytes]]:
    if around.count("/") > DEEPEST:
        raise _Foreign
    for name in os.listdir(place):
        status = os.stat(name, dir_fd=place, follow_symlinks=False)
        budget.spend(status.st_size)
        if stat.S_ISDIR(status.st_mode):
            inner = _open_plain(place, name)
            try:
                yield from _read_tree(inner, budget, f"{around}{name}/")
            finally:
                os.close(inner)
        elif stat.S_ISREG(status.st_mode):
            with opened_file_at(place, name) as file:
                yield f"{around}{name}", os.pread(file, status.st_size, 0)
        else:
            raise _Foreign


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    if not os.path.isdir(path):
        os.makedirs(path)
        os.chmod(path, 0o755)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_tree(path: str, files: Mapping[str, bytes]) -> None:
    """Create a directory with ``files``, durably."""
    os.mkdir(path)
    os.chmod(path, 0o755)
    for name, data in files.items():
        target = os.path.join(path, name)
        for around in _directories(name):
            with contextlib.suppress(FileExistsError):
                os.mkdir(os.path.join(path, around))
                os.chmod(os.path.join(path, around), 0o755)
        with open(target, "xb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
            file.flush()
            os.fsync(file.fileno())
    with _opened(path) as opened:
        os.fsync(opened)


def _directories(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


__all__ = ["TextDirectory"]
