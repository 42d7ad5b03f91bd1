# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A directory with texts that other programs read while they change: each reader finds all old texts or all new ones.

The layout is that of a config map in a pod. ``..data`` is a link to the directory with the present texts, and each name
is a link through ``..data``. One rename of ``..data`` changes all texts.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping

from .._core.directory import sync_opened
from .._core.errors import os_errors

#: The link to the present texts, and its temporary name.
_DATA, _NEW = "..data", "..data_tmp"
#: The beginning of names that aren't texts.
_HIDDEN = ".."


class TextDirectory:
    """A directory of root with texts. Other users can read it, and its parent directory decides who reaches it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def read(self) -> dict[str, bytes] | None:
        """Return the texts by their paths; ``None`` without a complete directory.

        :raises FileAccessFailed: a text can't be read.
        """
        data = os.path.join(self.path, _DATA)
        if not os.path.isdir(data):
            return None
        found = {}
        with os_errors(f"read {data}"):
            for place, _directories, names in os.walk(data):
                for name in names:
                    path = os.path.join(place, name)
                    with open(path, "rb") as file:
                        found[os.path.relpath(path, data)] = file.read()
        return found

    def write(self, files: Mapping[str, bytes]) -> None:
        """Replace all texts by ``files``. A missing directory is created. The old texts stay until :meth:`sweep` for
        programs that are reading them.

        :arg files: by their paths, whose parts are plain names.
        :raises NoSpace, FileAccessFailed: the texts can't be written. The old ones are unchanged then.
        """
        with os_errors(f"write {self.path}"), _opened(self.path) as base:
            self._sweep(base)
            name = f"{_HIDDEN}{secrets.token_hex(8)}"
            _write_tree(os.path.join(self.path, name), files)
            os.symlink(name, _NEW, dir_fd=base)
            os.rename(_NEW, _DATA, src_dir_fd=base, dst_dir_fd=base)
            wanted = {path.split("/")[0] for path in files}
            for one in wanted.difference(os.listdir(base)):
                os.symlink(f"{_DATA}/{one}", one, dir_fd=base)
            for one in os.listdir(base):
                if not one.startswith(_HIDDEN) and one not in wanted:
                    os.unlink(one, dir_fd=base)
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
            os.unlink(_NEW, dir_fd=base)
        present = None
        with contextlib.suppress(FileNotFoundError):
            present = os.readlink(_DATA, dir_fd=base)
        for name in os.listdir(base):
            if name.startswith(_HIDDEN) and name not in (_DATA, present):
                shutil.rmtree(os.path.join(self.path, name))

    def remove(self) -> None:
        """Remove the directory with all texts, if it exists.

        :raises FileAccessFailed: it can't be removed.
        """
        with os_errors(f"remove {self.path}"), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.path)


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
