# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The write discipline for image files: under a temporary name beside the final one, fsync, rename, fsync of the directory.

What is on its way in or out bears a name of its own, ``.<32 hex digits>.part``. The file of a running program is locked; a part that nobody holds is
what a killed run left, and the next run in that directory removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .._core.errors import FileAccessFailed, os_errors
from .._core.files import sync_directory

#: Of every image file.
MODE = 0o640

#: Names of parts.
PART = re.compile(r"\.[0-9a-f]{32}\.part")


@dataclass
class NewImage:
    """An image that is being made. ``path`` is where it is now, ``fd`` is open for reading and writing."""

    path: str
    fd: int
    #: Its place is final: it stays.
    done: bool = False

    def commit(self) -> str:
        """Give the image its final name, durably, and answer its path, ``<directory>/<32 hex digits>``.

        :raises NoSpace, FileAccessFailed: it can't be written; it will be removed.
        """
        directory, name = os.path.split(self.path)
        with os_errors(f"write an image in {directory}"):
            os.fsync(self.fd)
            # Nobody else draws the same 128 random bits, so this replaces nothing.
            final = os.path.join(directory, name[1:33])
            os.rename(self.path, final)
            self.path = final
            sync_directory(directory)
        self.done = True
        return final


@contextlib.contextmanager
def new_image(directory: str, *, owner: tuple[int, int] | None = None) -> Iterator[NewImage]:
    """An empty image file under a temporary name in ``directory``, mode 0640; it is removed at the end of the block unless it was committed.

    :arg owner: uid and gid; otherwise those of the process.
    :raises NoSpace, FileAccessFailed: it can't be made.
    """
    sweep(directory)
    with os_errors(f"make an image in {directory}"):
        image = _open_part(directory)
    try:
        with os_errors(f"make an image in {directory}"):
            if owner is not None:
                os.fchown(image.fd, *owner)
            os.fchmod(image.fd, MODE)
        yield image
    finally:
        with contextlib.suppress(OSError):
            if not image.done:
                os.unlink(image.path)
        # What is to last was fsynced before; close(2) can't tell anything new.
        with contextlib.suppress(OSError):
            os.close(image.fd)


def replace_image(path: str, part: NewImage, *, outdated: Sequence[str] = (), remove: str | None = None) -> None:
    """Rename ``part`` over the file or symbolic link ``path``, durably. What fails is undone; a crash comes between the steps and never within one.

    :arg outdated: what is removed before, where it exists: it is about the old file.
    :arg remove: what is removed afterwards; once it is renamed it isn't brought back, as another run may have swept it.
    :raises NoSpace, FileAccessFailed: a file operation failed.
    """
    directory = os.path.dirname(part.path)
    with os_errors(f"replace {path}"), contextlib.ExitStack() as undo:
        os.fsync(part.fd)
        aside = _set_aside(directory, outdated, undo)
        aside.append(_part_name(directory))
        os.link(path, aside[-1], follow_symlinks=False)
        undo.callback(_remove, aside[-1])
        os.rename(part.path, path)
        part.done = True
        undo.callback(os.rename, aside[-1], path)
        for changed in sorted({os.path.dirname(path), directory}):
            sync_directory(changed)
        if remove is not None:
            aside.append(_part_name(directory))
            os.rename(remove, aside[-1])
        undo.pop_all()
    _finish(directory, aside)


def remove_files(paths: Sequence[str]) -> bool:
    """Remove those of the files and directories ``paths`` that exist, all in one directory, one after the other; ``False`` when none does.

    What fails is undone, but for the removal of data whose name is gone already.

    :raises NoSpace, FileAccessFailed: a file operation failed.
    """
    directory = os.path.dirname(paths[0])
    sweep(directory)
    with os_errors(f"remove {paths[0]}"), contextlib.ExitStack() as undo:
        aside = _set_aside(directory, paths, undo)
        undo.pop_all()
    if aside:
        _finish(directory, aside)
    return bool(aside)


def _set_aside(directory: str, paths: Sequence[str], undo: contextlib.ExitStack) -> list[str]:
    """Rename what exists of ``paths`` to names of parts, durably, and tell ``undo`` how to bring it back."""
    aside = []
    for path in paths:
        if os.path.lexists(path):
            aside.append(_part_name(directory))
            os.rename(path, aside[-1])
            undo.callback(os.rename, aside[-1], path)
            sync_directory(directory)
    return aside


def _finish(directory: str, aside: Sequence[str]) -> None:
    """Make renames durable, and only then remove what was renamed."""
    try:
        sync_directory(directory)
        for path in aside:
            _remove(path)
    except OSError as error:
        # Not NoSpace, which says that nothing was changed.
        raise FileAccessFailed(f"A change in {directory} is made, but not yet durable or not cleaned up: {error.strerror}; repeat it.") from error


def sweep(directory: str) -> None:
    """Remove the parts that nobody holds. One that can't be removed is left for the next run.

    :raises FileAccessFailed: the directory can't be read.
    """
    with os_errors(f"read {directory}"), os.scandir(directory) as entries:
        parts = [entry for entry in entries if PART.fullmatch(entry.name)]
    for part in parts:
        with contextlib.suppress(OSError):
            if part.is_file(follow_symlinks=False):
                descriptor = os.open(part.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    _lock(descriptor, fcntl.F_OFD_SETLK)
                    os.unlink(part.path)
                finally:
                    os.close(descriptor)
            else:
                _remove(part.path)


def is_held(path: str) -> bool:
    """Whether a running program holds the part ``path``, as far as can be told; only then, and where locks don't work, :func:`sweep` leaves it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            (kind,) = struct.unpack_from("h", _lock(descriptor, fcntl.F_OFD_GETLK))
        finally:
            os.close(descriptor)
    except OSError:
        return True
    return kind != fcntl.F_UNLCK


def _open_part(directory: str) -> NewImage:
    while True:
        path = _part_name(directory)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor, fcntl.F_OFD_SETLKW)
            swept = os.fstat(descriptor).st_nlink == 0  # by another run, before it was locked
        except BaseException:
            os.unlink(path)
            os.close(descriptor)
            raise
        if not swept:
            return NewImage(path, descriptor)
        os.close(descriptor)


def _part_name(directory: str) -> str:
    return os.path.join(directory, f".{os.urandom(16).hex()}.part")


def _lock(descriptor: int, how: int) -> bytes:
    """Lock the first byte for this open file, or ask about that lock.

    Not flock(2), which over NFS locks all bytes, also those by which qemu-img locks (flock(2), "NFS details").
    """
    return fcntl.fcntl(descriptor, how, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        import shutil  # which loads every compression; directories are rare

        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):  # another run has swept it
            os.unlink(path)


__all__ = ["PART", "NewImage", "is_held", "new_image", "remove_files", "replace_image", "sweep"]
