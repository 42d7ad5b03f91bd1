# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of an image or of a VM's disk: its own file, the files of its snapshots, and links between them (design:
driver-contract, transfers).

All names are relative to open directories, because the directories belong to other users. A header or a link
counts only if it leads to another file of the same image or disk, or to the image that a disk is based on.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping

from .._core.directory import exists_at, is_link_at, list_directory, open_directory_at, opened_directory, sync_opened
from .._core.errors import Conflict, NotFound, os_errors
from .._core.paths import is_same_path
from .._core.records import dataclass
from .image_file import opened_image_at
from .layout import snapshot_directory, snapshot_file, snapshot_number
from .new_image import NewImage, new_image

#: Upper bound of the files of an image: the limit of libvirt. Each file needs a descriptor and a part of qemu-img's
#: command line.
LONGEST_CHAIN = 200


@dataclass(frozen=True)
class Pointer:
    """A symbolic link that selects the current file of an image, and that is in another directory than the image.

    :arg directory: descriptor of the link's directory.
    :arg name: the link's name there.
    :arg path: the link's path, for messages.
    """

    directory: int
    name: str
    path: str


@dataclass(frozen=True)
class ImageFiles:
    """The own file of an image or a disk, and the files of its snapshots. A number identifies a snapshot, and ``None``
    the own file. Names are relative to open directories.

    :arg image: the path of the image or disk, for messages.
    :arg directory: descriptor of the directory of the own file.
    :arg name: name of the own file there.
    :arg snapshots: descriptor of the directory with the snapshots, or ``None`` without snapshots.
    :arg pointer: the link of a disk that leads to this image. Without one, the own name can be such a link.
    :arg base: path of the image that the first qcow2 file may be based on.
    """

    directory: int
    name: str
    image: str
    snapshots: int | None
    pointer: Pointer | None = None
    base: str | None = None

    def path(self, number: int | None) -> str:
        return self.image if number is None else snapshot_file(self.image, number)

    def place(self, number: int | None) -> tuple[int, str]:
        """Return a file's directory and its name there."""
        if number is None or self.snapshots is None:
            return self.directory, self.name
        return self.snapshots, str(number)

    def has(self, snapshot: int) -> bool:
        return self.snapshots is not None and exists_at(self.snapshots, str(snapshot))

    def is_regular(self) -> bool:
        """Return whether the image's own name belongs to a regular file."""
        try:
            return stat.S_ISREG(self._status(None).st_mode)
        except FileNotFoundError:
            return False

    def allocated(self, snapshot: int) -> int:
        """Return the storage in bytes of the file with a snapshot's data; 0 if the snapshot was just removed."""
        with os_errors(f"read {self.path(snapshot)}"), contextlib.suppress(FileNotFoundError, NotFound):
            return self._status(self.data_of(snapshot)).st_blocks * 512
        return 0

    def unlink(self, snapshot: int) -> None:
        with os_errors(f"remove {self.path(snapshot)}"), contextlib.suppress(FileNotFoundError):
            directory, name = self.place(snapshot)
            os.unlink(name, dir_fd=directory)
            sync_opened(directory)

    def opened(self, number: int | None) -> contextlib.AbstractContextManager[int]:
        """Yield a descriptor for reading a file.

        :raises InvalidInput, FileAccessFailed: see :func:`opened_image_at`.
        """
        return opened_image_at(*self.place(number), self.path(number))

    @contextlib.contextmanager
    def opened_alone(self, file: int | None) -> Iterator[Mapping[int, str]]:
        """Open a single file. Yield its path by descriptor."""
        with self.opened(file) as descriptor:
            yield {descriptor: self.path(file)}

    @contextlib.contextmanager
    def opened_chain(self, file: int | None) -> Iterator[Mapping[int, str]]:
        """Open a qcow2 file and its backing files, in this order. Yield their paths by descriptor.

        :raises Conflict: a backing file is neither a file of this image nor the base.
        """
        with contextlib.ExitStack() as stack:
            chain = self.chain_from(file)
            reads = {stack.enter_context(self.opened(number)): self.path(number) for number in chain}
            if self.base is not None and self._is_based(chain[-1]):
                base = stack.enter_context(opened_files(self.base))
                reads.update(stack.enter_context(base.opened_chain(base.target())))
            yield reads

    def new_image(self, like: int) -> contextlib.AbstractContextManager[NewImage]:
        """Create a part in the image's directory that will belong to the owner of the file ``like``, a descriptor."""
        return new_image(self.directory, owner=owner_like(like))

    def data_of(self, snapshot: int) -> int | None:
        """Return the file with a snapshot's data: the snapshot's own file, or the image's if both are the same."""
        path = self.path(snapshot)
        with os_errors(f"read {path}"):
            if not self.has(snapshot):
                raise NotFound(f"The image {self.image} has no snapshot {snapshot}: {path} does not exist.")
            found = self._status(snapshot)
            with contextlib.suppress(FileNotFoundError):
                own = self._status(None)
                is_link = stat.S_ISLNK(found.st_mode)
                if not stat.S_ISLNK(own.st_mode) and os.path.samestat(
                    os.stat(str(snapshot), dir_fd=self.snapshots) if is_link else found, own
                ):
                    return None
            if stat.S_ISREG(found.st_mode):
                return snapshot
        raise Conflict(f"{path} is not used: it is not a regular file in a directory of the image {self.image}.")

    def numbers(self) -> list[int]:
        """Return the numbers of all files in the directory with the snapshots, ascending."""
        if self.snapshots is None:
            return []
        with os_errors(f"read {snapshot_directory(self.image)}"):
            return sorted(
                number for number in map(snapshot_number, list_directory(self.snapshots)) if number is not None
            )

    def list_snapshots(self) -> list[int]:
        """Return the ids of the snapshots, ascending. The current data is no snapshot, also if its file has a number. A
        file with a higher number is an overlay that isn't used yet.

        :raises Conflict: the files have another layout than those of :mod:`.snapshots`.
        """
        if self.snapshots is None:
            return []
        active, limit = self.active(), self.active_number()
        limit = active if limit is None else limit
        numbers = [number for number in self.numbers() if limit is None or number < limit]
        return [number for number in numbers if self.data_of(number) != active]

    def active(self) -> int | None:
        """Return the file that receives the writes."""
        target = self.target()
        if (
            target is None
            and self.snapshots is not None
            and self.pointer is None
            and self.is_linked_to_itself()
            and (numbers := self.numbers())
        ):
            return self.data_of(numbers[-1])
        return target

    def active_number(self) -> int | None:
        """Return the number of the file that receives the writes, also if the file is the own one under a number.
        Return ``None`` if the file has no number.
        """
        name = self._link()
        return None if name is None or self._is_own(name[0]) else self._number(*name)

    def target(self) -> int | None:
        """Return the file that the image's own name, or the pointer, leads to."""
        number = self.active_number()
        with os_errors(f"read {self.image}"):
            return None if number is None else self.data_of(number)

    def parent(self, number: int | None) -> int | None:
        """Return the snapshot that is the backing file of a qcow2 file. Return ``None`` without a backing file, and if
        the backing file is the base.
        """
        name = self.backing_name(number)
        return None if name is None or self._is_base(name) else self._number(name, self.path(number))

    def backing_directory(self) -> str:
        """Return the directory in the name of a new overlay's backing file.

        A relative name starts at the directory of the name by which QEMU opens the overlay. So the layers of an image
        that a disk elsewhere is a link to have absolute names.
        """
        directory = snapshot_directory(self.name)
        if self.pointer is not None:
            return f"{os.path.dirname(self.image)}/{directory}"
        active = self.active()
        return (
            os.path.dirname(self.backing_name(active) or "") if self.parent(active) is not None else ""
        ) or directory

    def backing_name(self, number: int | None) -> str | None:
        """Return the name of the backing file in the header of a qcow2 file, or ``None`` without one. The name is
        untrusted.
        """
        from .layer_header import read_backing_name

        with self.opened(number) as descriptor:
            return read_backing_name(descriptor, self.path(number))

    def virtual_size(self, number: int | None) -> int:
        """Return the size of the disk in a qcow2 file in bytes."""
        from .layer_header import read_layer_header

        with self.opened(number) as descriptor:
            return read_layer_header(descriptor, self.path(number)).virtual_size

    def is_empty_overlay(self, number: int) -> bool:
        """Return whether a qcow2 file has no data of its own."""
        from .layer_header import has_data

        with self.opened(number) as descriptor:
            return not has_data(descriptor, self.path(number))

    def chain(self, snapshot: int) -> list[int | None]:
        """Return the qcow2 files of a snapshot, down to the last one that belongs to the image."""
        return self.chain_from(self.data_of(snapshot))

    def chain_from(self, file: int | None) -> list[int | None]:
        files = [file]
        while (number := self.parent(files[-1])) is not None:
            file = self.data_of(number)
            if file in files:
                raise Conflict(f"{self.path(file)} is not used: it is a backing file of itself.")
            if len(files) == LONGEST_CHAIN:
                raise Conflict(
                    f"{self.path(files[0])} is not used: it is based on {LONGEST_CHAIN} or more files, one on the "
                    "other."
                )
            files.append(file)
        return files

    def children(self, snapshot: int) -> list[int | None]:
        """Return the qcow2 files of the image whose backing file is the snapshot."""
        numbers = [None, *self.numbers()]
        return [
            number
            for number in numbers
            if exists_at(*self.place(number))
            and not is_link_at(*self.place(number))
            and self.parent(number) == snapshot
        ]

    def is_linked_to_itself(self) -> bool:
        """Return whether the directory of the snapshots has the link of :meth:`link_to_itself`."""
        name, place = snapshot_directory(self.name), snapshot_directory(self.image)
        if self.snapshots is None or not exists_at(self.snapshots, name):
            return False
        if not is_link_at(self.snapshots, name) or os.readlink(name, dir_fd=self.snapshots) != ".":
            raise Conflict(f"{place} is not used: {place}/{name} is not a symbolic link to '.'.")
        return True

    def link_to_itself(self) -> None:
        """Create a link to ``.`` in the directory of the snapshots. The names of backing files begin with this
        directory, and the link makes them lead to the files from there, too.
        """
        with os_errors(f"write {snapshot_directory(self.image)}"):
            if self.snapshots is not None and not self.is_linked_to_itself():
                with contextlib.suppress(FileExistsError):
                    make_link(self.snapshots, snapshot_directory(self.name), ".")

    def _status(self, number: int | None) -> os.stat_result:
        directory, name = self.place(number)
        return os.stat(name, dir_fd=directory, follow_symlinks=False)

    def _link(self) -> tuple[str, str] | None:
        """Return the text and the path of the link that selects the current file, or ``None`` without such a link."""
        at = self.pointer or Pointer(self.directory, self.name, self.image)
        with os_errors(f"read {at.path}"):
            if not is_link_at(at.directory, at.name):
                return None
            return os.readlink(at.name, dir_fd=at.directory), at.path

    def _is_own(self, name: str) -> bool:
        """Return whether the link of a pointer leads to the own file."""
        return self.pointer is not None and is_same_path(name, self.image)

    def _is_based(self, number: int | None) -> bool:
        name = self.backing_name(number)
        return name is not None and self._is_base(name)

    def _is_base(self, name: str) -> bool:
        return self.base is not None and is_same_path(name, self.base)

    def _number(self, name: str, named_by: str) -> int:
        """Return the snapshot that a symbolic link or a backing file's name leads to. Relative names start at the
        image's directory.
        """
        directory, file = os.path.split(name)
        number = snapshot_number(file)
        with contextlib.suppress(OSError):
            if number is not None and self.snapshots is not None:
                if os.path.samestat(os.stat(directory or ".", dir_fd=self.directory), os.fstat(self.snapshots)):
                    return number
        place = snapshot_directory(self.image)
        raise Conflict(f"{named_by} is not used: it refers to {name!r}, which is not in {place}.")


def make_link(directory: int, name: str, target: str) -> None:
    """Create a symbolic link in an open directory. If root creates the link, it belongs to the owner of the directory.

    :raises OSError: the link can't be created. :raises FileExistsError: the name exists.
    """
    os.symlink(target, name, dir_fd=directory)
    owner = owner_like(directory)
    if owner is not None:
        os.chown(name, *owner, dir_fd=directory, follow_symlinks=False)


def owner_like(descriptor: int) -> tuple[int, int] | None:
    """Return the user and the group of a new file that belongs to the owner of an open file. Only root gives files to
    other users.
    """
    found = os.fstat(descriptor)
    return (found.st_uid, found.st_gid) if os.geteuid() == 0 else None


@contextlib.contextmanager
def opened_files(image: str, *, pointer: Pointer | None = None) -> Iterator[ImageFiles]:
    """Open the directories of an image's files, and yield the files.

    :raises Conflict: the name of the directory with the snapshots belongs to another file.
    :raises PathNotAllowed: a link of another user leads to the datastore.
    :raises FileAccessFailed: a directory can't be opened.
    """
    around, _name = os.path.split(image)
    with contextlib.ExitStack() as stack:
        with os_errors(f"read {image}"):
            directory = stack.enter_context(opened_directory(around, option="source"))
        yield stack.enter_context(files_in(directory, image, pointer=pointer))


@contextlib.contextmanager
def files_in(
    directory: int, image: str, *, pointer: Pointer | None = None, base: str | None = None
) -> Iterator[ImageFiles]:
    """Yield the files of an image or a disk in an open directory.

    :arg image: its path. The name in the directory is the last component.
    :raises Conflict, FileAccessFailed: see :func:`opened_files`.
    """
    name, snapshots = os.path.basename(image), None
    with os_errors(f"read {image}"):
        try:
            snapshots = open_directory_at(directory, snapshot_directory(name), os.O_PATH)
        except FileNotFoundError:
            pass
        except NotADirectoryError as error:
            place = snapshot_directory(image)
            raise Conflict(f"{place} is not used: it is not a directory of the image {image}.") from error
    try:
        yield ImageFiles(directory, name, image, snapshots, pointer, base)
    finally:
        if snapshots is not None:
            os.close(snapshots)


__all__ = [
    "LONGEST_CHAIN",
    "ImageFiles",
    "Pointer",
    "files_in",
    "is_same_path",
    "make_link",
    "opened_files",
    "owner_like",
]
