# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The write discipline for image files: under a temporary name beside the final one, fsync, rename, fsync of the
directory.

What is on its way in or out bears a name of its own, ``.<32 hex digits>.part``. The file of a running program is
locked; a part that nobody holds is what a killed run left, and the next run in that directory removes it.

The directory can belong to somebody else, who replaces names there at any moment. So all names are relative to an open
directory, a part is used by its descriptor only, and it belongs to the user who runs this until it is whole: its future
owner can't open it before.
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

#: Of every image file.
MODE = 0o640


@dataclass
class NewImage:
    """An image that is being made.

    :arg directory: descriptor of the directory that it is in; ``place`` is that directory's path, for messages.
    :arg name: its name there.
    :arg fd: open for reading and writing. A command gets it as :attr:`file`.
    :arg owner: uid and gid that it gets when it is whole.
    :arg mode: that it gets then; before, it is 0600.
    """

    directory: int
    place: str
    name: str
    fd: int
    owner: tuple[int, int] | None = None
    mode: int = MODE
    #: Gives it its name together with others.
    batch: Batch | None = None
    #: Its place is final, or its batch decides about it: it stays.
    done: bool = False

    @property
    def file(self) -> str:
        """The path by which a command that inherits ``fd`` opens this very file."""
        return descriptor_path(self.fd)

    @property
    def final(self) -> str:
        """The name that it gets. Nobody else draws the same 128 random bits, so it replaces nothing."""
        return name_of_part(self.name)

    @property
    def path(self) -> str:
        """The path with that name."""
        return os.path.join(self.place, self.final)

    def commit(self) -> str:
        """Give the image its final name, durably, and return its path, ``<directory>/<32 hex digits>``. In a batch, the
        batch gives it the name.

        :raises NoSpace, FileAccessFailed: it can't be written; it will be removed.
        :raises StaleState: somebody put another file in its place.
        """
        path = self.path
        with os_errors(f"write an image in {self.place}"):
            if self.batch is None:
                self.publish(self.directory, self.final)
                sync_opened(self.directory)
            else:
                self.batch.add(self)
        return path

    def publish(self, directory: int, name: str) -> None:
        """Make it durable, hand it to its owner, and rename it, in place of whatever is there.

        :raises OSError: it can't be done; :raises StaleState: somebody put another file in its place.
        """
        self.make_durable()
        self.rename(directory, name)

    def make_durable(self) -> None:
        """Hand it to its owner, and write all of it to the disk.

        :raises OSError: it can't be done.
        """
        os.fchmod(self.fd, self.mode)
        if self.owner is not None:
            os.fchown(self.fd, *self.owner)
        os.fsync(self.fd)

    def rename(self, directory: int, name: str) -> None:
        """Rename what is durable, in place of whatever is there.

        :raises OSError, StaleState: as :meth:`publish`.
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
    """Create an empty image file under a temporary name in ``directory``, a path or a descriptor. It is removed at the
    end of the block unless it was committed.

    :arg owner: uid and gid; otherwise those of the process.
    :arg sweeping: whether the directory is swept before, which reads it: with many images, once a run is enough.
    :arg batch: gives the image its name together with others.
    :raises PathNotAllowed: a link of another user leads to the directory; :raises NoSpace, FileAccessFailed: it can't
        be made.
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
            # What is to last was fsynced before; close(2) can't tell anything new.
            with contextlib.suppress(OSError):
                os.close(image.fd)


def replace_image(
    part: NewImage, target: tuple[int, str], *, path: str, outdated: Sequence[str] = (), remove: str | None = None
) -> None:
    """Rename ``part`` over the file or symbolic link ``target``, durably. What fails is undone; a crash comes between
    the steps and never within one.

    :arg target: descriptor of its directory, and its name there; ``path`` is both, for messages.
    :arg outdated: names, in the part's directory, of what is removed before, where it exists: it is about the old file.
    :arg remove: name of what is removed afterwards; once it is renamed it isn't brought back, as another run may have
        swept it.
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
        part.publish(directory, name)
        sync_opened(directory)
        if not os.path.samestat(os.fstat(directory), os.fstat(part.directory)):
            sync_opened(part.directory)
        if remove is not None:
            aside.append(new_part_name())
            os.rename(remove, aside[-1], src_dir_fd=part.directory, dst_dir_fd=part.directory)
        undo.pop_all()
    _finish(part.directory, part.place, aside)


def remove_files(directory: str, names: Sequence[str], *, sweeping: bool = True, batch: Batch | None = None) -> bool:
    """Remove those of the files and directories ``names`` in ``directory`` that exist, one after the other; ``False``
    when none does.

    What fails is undone, but for the removal of data whose name is gone already. On a full file system, where a rename
    can need a block, they are removed under their own names: a crash then leaves the last ones.

    :arg sweeping: as of :func:`new_image`.
    :arg batch: makes the removal durable together with others, where only one file is removed.
    :raises PathNotAllowed: a link of another user leads to the directory; :raises NoSpace, FileAccessFailed: a file
        operation failed.
    """
    with _opened(directory, "read") as (opened, place):
        if sweeping:
            _sweep(opened, place)
        with os_errors(f"remove {os.path.join(place, names[0])}"):
            found = [name for name in names if exists_at(opened, name)]
            if len(found) == 1 and not _is_directory(opened, found[0]):
                os.unlink(found[0], dir_fd=opened)  # which needs no other step that could fail
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
    """Remove the parts that nobody holds. One that can't be removed is left for the next run.

    :raises PathNotAllowed: a link of another user leads to the directory; :raises FileAccessFailed: it can't be read.
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
    """Rename what exists of ``names`` to names of parts, durably, and tell ``undo`` how to bring it back."""
    aside = []
    for name in names:
        if exists_at(directory, name):
            aside.append(new_part_name())
            os.rename(name, aside[-1], src_dir_fd=directory, dst_dir_fd=directory)
            undo.callback(os.rename, aside[-1], name, src_dir_fd=directory, dst_dir_fd=directory)
            sync_opened(directory)
    return aside


def _finish(directory: int, place: str, aside: Sequence[str]) -> None:
    """Make renames durable, and only then remove what was renamed."""
    try:
        sync_opened(directory)
        for name in aside:
            _remove(directory, name)
    except OSError as error:
        # Not NoSpace, which says that nothing was changed.
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
    with contextlib.suppress(FileNotFoundError):  # another run has swept it
        if _is_directory(directory, name):
            _remove_directory(directory, name)
        else:
            os.unlink(name, dir_fd=directory)


def _is_directory(directory: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)


def _remove_directory(directory: int, name: str) -> None:
    """Remove a directory with the files in it, and no directories: those of snapshots have none, and its owner may have
    moved one of root's there.
    """
    opened = open_directory_at(directory, name)
    try:
        for file in os.listdir(opened):
            os.unlink(file, dir_fd=opened)
    finally:
        os.close(opened)
    os.rmdir(name, dir_fd=directory)


__all__ = ["NewImage", "new_image", "remove_files", "replace_image", "sweep"]
