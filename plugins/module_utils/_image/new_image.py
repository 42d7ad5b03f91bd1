# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The write discipline for image files: a temporary name beside the final one, fsync, rename, fsync of the directory.

A file that is being created or removed is a part with the name ``.<32 hex digits>.part``. A running program holds a
lock on its parts. A part without a lock was left by a killed run, and the next run in the directory removes it.

The directory may belong to another user, who can replace names at any moment. So all names are relative to an open
directory, and a part is used only through its descriptor. A part belongs to the user of this process until it is
complete, so its future owner can't open it before.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence

from .._core.directory import (
    descriptor_path,
    exists_at,
    list_directory,
    open_directory_at,
    opened_directory,
    sync_opened,
)
from .._core.errors import FULL, FileAccessFailed, StaleState, os_errors
from .._core.records import TYPE_CHECKING, dataclass
from .._core.temporary import create_part, is_part_name, new_part_name, remove_unheld
from .layout import name_of_part

if TYPE_CHECKING:
    from .batch import Batch

#: Permission bits of every image file.
MODE = 0o640


@dataclass
class NewImage:
    """An image that is being created.

    :arg directory: descriptor of the image's directory.
    :arg place: path of the directory, for messages.
    :arg name: the image's current name in the directory.
    :arg fd: descriptor for reading and writing. A command uses :attr:`file`.
    :arg owner: uid and gid of the complete image.
    :arg mode: permission bits of the complete image, 0600 before.
    """

    directory: int
    place: str
    name: str
    fd: int
    owner: tuple[int, int] | None = None
    mode: int = MODE
    #: The batch that gives the image its name together with others.
    batch: Batch | None = None
    #: Whether the image stays, because it has its final name or is part of a batch.
    done: bool = False

    @property
    def file(self) -> str:
        """Return the path through which a command that inherits ``fd`` opens this file."""
        return descriptor_path(self.fd)

    @property
    def final(self) -> str:
        """Return the final name. It replaces no other file, because its 128 random bits never repeat."""
        return name_of_part(self.name)

    @property
    def path(self) -> str:
        """Return the path with the final name."""
        return os.path.join(self.place, self.final)

    def commit(self) -> str:
        """Give the image its final name, durably, and return its path, ``<directory>/<32 hex digits>``. In a batch, the
        batch does the rename later.

        :raises NoSpace, FileAccessFailed: the image can't be written, and will be removed.
        :raises StaleState: another program replaced the image.
        """
        path = self.path
        with os_errors(f"write an image in {self.place}"):
            if self.batch is None:
                self.publish_durably(self.directory, self.final)
            else:
                self.batch.add(self)
        return path

    def publish(self, directory: int, name: str) -> None:
        """Make the image durable, set its owner, and rename it, over an existing file.

        :raises OSError: one of the steps failed.
        :raises StaleState: another program replaced the image.
        """
        self.make_durable()
        self.rename(directory, name)

    def publish_durably(self, directory: int, name: str) -> None:
        """Publish the image, and make the rename durable. A rename between two directories needs the fsync of both.

        :raises OSError, StaleState: see :meth:`publish`.
        """
        self.publish(directory, name)
        sync_opened(directory)
        if not os.path.samestat(os.fstat(directory), os.fstat(self.directory)):
            sync_opened(self.directory)

    def make_durable(self) -> None:
        """Set the owner of the image, and write all of the image to the disk.

        :raises OSError: one of the steps failed.
        """
        os.fchmod(self.fd, self.mode)
        if self.owner is not None:
            os.fchown(self.fd, *self.owner)
        os.fsync(self.fd)

    def rename(self, directory: int, name: str) -> None:
        """Rename the durable image, over an existing file.

        :raises OSError, StaleState: see :meth:`publish`.
        """
        os.rename(self.name, name, src_dir_fd=self.directory, dst_dir_fd=directory)
        self.name = name
        self.done = True
        if not os.path.samestat(os.stat(name, dir_fd=directory, follow_symlinks=False), os.fstat(self.fd)):
            raise StaleState(f"Another program replaced the image that was written in {self.place}.")


@contextlib.contextmanager
def new_image(
    directory: str | int,
    *,
    owner: tuple[int, int] | None = None,
    mode: int = MODE,
    sweeping: bool = True,
    batch: Batch | None = None,
) -> Iterator[NewImage]:
    """Create an empty image file under a temporary name in ``directory``, a path or a descriptor, and yield it. The end
    of the context removes an image that wasn't committed.

    :arg owner: uid and gid. The default is the user of the process.
    :arg sweeping: whether to sweep the directory before. A sweep reads the directory, so one sweep for many images is
        enough.
    :arg batch: the batch that gives the image its name.
    :raises PathNotAllowed: a link of another user leads to the directory.
    :raises NoSpace, FileAccessFailed: the image can't be created.
    """
    with _opened(directory, "make an image in") as (opened, place):
        if sweeping:
            _sweep(opened, place)
        with os_errors(f"make an image in {place}"):
            descriptor, name = create_part(opened)
        image = NewImage(opened, place, name, descriptor, owner, mode, batch)
        try:
            yield image
        finally:
            with contextlib.suppress(OSError):
                if not image.done:
                    os.unlink(image.name, dir_fd=opened)
            # Errors of close(2) don't matter, because durable data was fsynced before.
            with contextlib.suppress(OSError):
                os.close(image.fd)


def replace_image(
    part: NewImage, target: tuple[int, str], *, path: str, outdated: Sequence[str] = (), remove: str | None = None
) -> None:
    """Rename ``part`` over the file or symbolic link ``target``, durably. A failure is undone. A crash leaves the state
    between two steps.

    :arg target: descriptor of the target's directory, and the name there.
    :arg path: path of the target, for messages.
    :arg outdated: names in the part's directory that describe the old file. They are removed before, if they exist.
    :arg remove: a name to remove afterwards. Its removal isn't undone, because another run may have swept the file.
    :raises NoSpace, FileAccessFailed: a file operation failed.
    """
    directory, name = target
    with os_errors(f"replace {path}"), contextlib.ExitStack() as undo:
        aside = _set_aside(part.directory, outdated, undo)
        aside.append(new_part_name())
        os.link(name, aside[-1], src_dir_fd=directory, dst_dir_fd=part.directory, follow_symlinks=False)
        undo.callback(_remove, part.directory, aside[-1])
        old = aside[-1]
        undo.callback(
            lambda: os.rename(old, name, src_dir_fd=part.directory, dst_dir_fd=directory) if part.done else None
        )
        part.publish_durably(directory, name)
        if remove is not None:
            aside.append(new_part_name())
            os.rename(remove, aside[-1], src_dir_fd=part.directory, dst_dir_fd=part.directory)
        undo.pop_all()
    _finish(part.directory, part.place, aside)


def remove_files(
    directory: str | int, names: Sequence[str], *, sweeping: bool = True, batch: Batch | None = None
) -> bool:
    """Remove the existing files and directories among ``names`` in ``directory``, one after the other. Return ``False``
    if none exists.

    A failure is undone, except for the removal of data whose name is already gone. On a full file system, a rename can
    need a block. Then files are removed under their own names, and a crash leaves the last ones.

    :arg sweeping: see :func:`new_image`.
    :arg batch: the batch that makes the removal of a single file durable.
    :raises PathNotAllowed: a link of another user leads to the directory.
    :raises NoSpace, FileAccessFailed: a file operation failed.
    """
    with _opened(directory, "read") as (opened, place):
        if sweeping:
            _sweep(opened, place)
        with os_errors(f"remove {os.path.join(place, names[0])}"):
            found = [name for name in names if exists_at(opened, name)]
            if len(found) == 1 and not _is_directory(opened, found[0]):
                os.unlink(found[0], dir_fd=opened)  # a single step can't fail halfway
                if batch is None:
                    sync_opened(opened)
                else:
                    batch.note_removal(opened, place)
                return True
            try:
                with contextlib.ExitStack() as undo:
                    found = _set_aside(opened, names, undo)
                    undo.pop_all()
            except OSError as error:
                if error.errno not in FULL:
                    raise
        if found:
            _finish(opened, place, found)
        return bool(found)


def sweep(directory: str | int) -> None:
    """Remove the parts without a lock. A part that can't be removed is left for the next run.

    :raises PathNotAllowed: a link of another user leads to the directory.
    :raises FileAccessFailed: the directory can't be read.
    """
    with _opened(directory, "read") as (opened, place):
        _sweep(opened, place)


@contextlib.contextmanager
def _opened(directory: str | int, doing: str) -> Iterator[tuple[int, str]]:
    """Yield a descriptor of a directory, and its path for messages."""
    with contextlib.ExitStack() as stack:
        if isinstance(directory, int):
            opened, place = directory, os.readlink(descriptor_path(directory))
        else:
            with os_errors(f"{doing} {directory}"):
                opened, place = stack.enter_context(opened_directory(directory)), directory
        yield opened, place


def _set_aside(directory: int, names: Sequence[str], undo: contextlib.ExitStack) -> list[str]:
    """Rename the existing files among ``names`` to names of parts, durably, and register the way back in ``undo``."""
    aside = []
    for name in names:
        if exists_at(directory, name):
            aside.append(new_part_name())
            os.rename(name, aside[-1], src_dir_fd=directory, dst_dir_fd=directory)
            undo.callback(os.rename, aside[-1], name, src_dir_fd=directory, dst_dir_fd=directory)
            sync_opened(directory)
    return aside


def _finish(directory: int, place: str, aside: Sequence[str]) -> None:
    """Make renames durable, and then remove the renamed files."""
    try:
        sync_opened(directory)
        for name in aside:
            _remove(directory, name)
    except OSError as error:
        # NoSpace would be wrong, because its message promises that nothing was changed.
        raise FileAccessFailed(
            f"A change in {place} is made, but not yet durable or not cleaned up: {error.strerror}; repeat it."
        ) from error


def _sweep(directory: int, place: str) -> None:
    with os_errors(f"read {place}"):
        parts = [name for name in list_directory(directory) if is_part_name(name)]
    for name in parts:
        with contextlib.suppress(OSError):
            if stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                remove_unheld(directory, name)
            else:
                _remove(directory, name)


def _remove(directory: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # another run has swept the file
        if _is_directory(directory, name):
            _remove_directory(directory, name)
        else:
            os.unlink(name, dir_fd=directory)


def _is_directory(directory: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)


def _remove_directory(directory: int, name: str) -> None:
    """Remove a directory with its files. Subdirectories are kept, except those of a part directory that no running
    program holds: a directory of snapshots has none, and the owner may have moved a directory of root's there.

    :raises OSError: a file can't be removed, or a running program holds the directory.
    """
    from .._core.part_directory import remove_unheld_directory

    try:
        remove_unheld_directory(directory, name)
        return
    except FileNotFoundError:  # it has no lock, and so is a directory that was set aside
        pass
    opened = open_directory_at(directory, name)
    try:
        for file in os.listdir(opened):
            os.unlink(file, dir_fd=opened)
    finally:
        os.close(opened)
    os.rmdir(name, dir_fd=directory)


__all__ = ["NewImage", "new_image", "remove_files", "replace_image", "sweep"]
