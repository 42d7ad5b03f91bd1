# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots of an image: the files ``<image>.snap/<id>`` (design: driver-contract). There are three layouts, by
transfer driver:

* whole copies: each snapshot is a whole copy, and the image is a file (raw, and qcow2 with ``ssh``).
* overlays: each file is a qcow2 overlay of the file before, and the image is a symbolic link to the newest file. The
  newest file is no snapshot, because it receives the writes.
* overlays on shared storage: the image is the first file, and ``<image>.snap/0`` is a symbolic link to the image. The
  file with the highest number receives the writes. ``<image>.snap/<image>.snap`` is a symbolic link to ``.``, so that
  backing files are found from both directories.

A change is written to a new file, which is then renamed over the old one, so all data stays complete at any time. Every
action can be repeated.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from collections.abc import Iterator, Mapping

from .._core.directory import (
    descriptor_path,
    exists_at,
    is_link_at,
    list_directory,
    open_directory_at,
    opened_directory,
    sync_opened,
)
from .._core.errors import Conflict, InvalidInput, NotFound, os_errors
from .._core.records import TYPE_CHECKING, dataclass
from .copy import convert, copy_local, foresee_conversion, foresee_copy
from .image_file import disk_size, opened_image_at
from .layout import checksum_file, is_image_name, snapshot_directory, snapshot_file, snapshot_number
from .new_image import NewImage, new_image, remove_files, replace_image, sweep

if TYPE_CHECKING:
    from .batch import Batch

#: Upper bound of the time of a command that copies data in seconds.
TIMEOUT = 86400

#: Upper bound of the name of a backing file in bytes (QEMU, docs/interop/qcow2.txt).
_LONGEST_BACKING_NAME = 1023

#: Upper bound of the files of an image: the limit of libvirt. Each file needs a descriptor and a part of qemu-img's
#: command line.
LONGEST_CHAIN = 200


def delete_snapshot(image: str, format: str, snapshot: int, *, timeout: float = TIMEOUT) -> None:
    """Remove a snapshot. qcow2 files that are based on the snapshot are first rebased on its backing file. A missing
    snapshot counts as removed.

    :arg image: the image's path. The driver has checked that it is in the datastore.
    :raises Conflict: the file is the current data of the image, or the files have another layout than those above.
    :raises PathNotAllowed: a link of another user leads to the datastore.
    :raises CommandFailed: qemu-img failed.
    :raises NoSpace, FileAccessFailed: a file operation failed.
    """
    with _opened(image) as files:
        sweep(files.directory)  # a killed run may have left the files that it replaced
        if not files.has(snapshot):
            return
        if format == "qcow2":
            if files.data_of(snapshot) == files.active():
                raise Conflict(
                    f"{files.path(snapshot)} can't be deleted: it is not a snapshot but what the image {image} holds "
                    "now."
                )
            for child in files.children(snapshot):
                _rebase(files, child, snapshot, timeout)
        files.unlink(snapshot)


def revert_snapshot(image: str, format: str, snapshot: int) -> None:
    """Replace the data of the image by that of a snapshot. The snapshot stays. Arguments and errors are those of
    :func:`delete_snapshot`.

    :raises NotFound: there is no such snapshot.
    """
    with _opened(image) as files:
        source = files.chain(snapshot)[0] if format == "qcow2" else files.data_of(snapshot)
        target = files.active() if format == "qcow2" else None
        if source == target:
            return
        with files.opened(source) as descriptor, files.new_image(descriptor) as part:
            copy_local(descriptor, part.fd)
            replace_image(part, files.place(target), path=files.path(target), outdated=[checksum_file(files.name)])


def flatten_snapshot(image: str, format: str, snapshot: int, *, timeout: float = TIMEOUT) -> None:
    """Replace the image by a single file with the data of a snapshot, and remove all snapshots. Arguments and errors
    are those of :func:`delete_snapshot`.

    A crash can leave the new image beside the snapshots, because no rename changes two names. A repeated call removes
    the snapshots. Until then the snapshots stay complete, except on shared storage. There, the backing file of all
    snapshots is the image's own file, which now has other data.
    """
    with _opened(image) as files:
        if files.snapshots is None and files.is_regular():
            sweep(files.directory)  # an earlier run may have been killed before it removed all files
            return
        chain = files.chain(snapshot) if format == "qcow2" else [files.data_of(snapshot)]
        with files.opened_all(chain) as reads, files.new_image(next(iter(reads))) as part:
            if format == "qcow2":
                from .qemu_img import as_one_image

                convert(as_one_image(tuple(reads)), "qcow2", part.fd, "qcow2", reads=reads, timeout=timeout)
            else:
                copy_local(next(iter(reads)), part.fd)
            outdated, remove = [checksum_file(files.name)], snapshot_directory(files.name)
            replace_image(part, files.place(None), path=image, outdated=outdated, remove=remove)


def foresee_change(action: str, image: str, format: str, snapshot: int) -> None:
    """Refuse a change of snapshots that lacks space.

    :arg action: the driver's name of one of the functions above: ``snap_delete``, ``snap_flatten`` or ``snap_revert``.
    :raises NoSpace: the space isn't enough.
    :raises NotFound, Conflict, FileAccessFailed, CommandFailed: see the function.
    """
    with _opened(image) as files:
        if action == "snap_delete":
            # Each file is copied and replaced before the next one.
            copied = files.children(snapshot) if format == "qcow2" and files.has(snapshot) else []
        elif action == "snap_flatten" and format == "qcow2":
            from .qemu_img import as_one_image

            with files.opened_all(files.chain(snapshot)) as reads:
                foresee_conversion(
                    as_one_image(tuple(reads)), "qcow2", files.directory, "qcow2", reads=reads, timeout=TIMEOUT
                )
            return
        else:
            copied = [files.chain(snapshot)[0] if format == "qcow2" else files.data_of(snapshot)]
        for number in copied:
            with files.opened(number) as descriptor:
                foresee_copy(descriptor, files.directory)


def list_snapshots(image: str) -> list[int]:
    """Return the ids of an image's snapshots, ascending. The current data of the image is no snapshot, also if its file
    has a number.

    :raises Conflict: the files have another layout than those above.
    :raises FileAccessFailed: the files can't be read.
    """
    with _opened(image) as files:
        if files.snapshots is None:
            return []
        active = files.active()
        return [number for number in files.numbers() if files.data_of(number) != active]


def chain_files(image: str, format: str, snapshot: int | None = None) -> list[str]:
    """Return the files with the data of the image or of a snapshot: one file, or qcow2 overlays, each before its
    backing file.

    :raises NotFound, Conflict, FileAccessFailed: see :func:`delete_snapshot`.
    :raises InvalidInput: a file isn't a regular one.
    """
    with _opened(image) as files:
        if format == "qcow2":
            chain = files.chain_from(files.active() if snapshot is None else files.data_of(snapshot))
        else:
            chain = [None if snapshot is None else files.data_of(snapshot)]
        return [files.path(number) for number in chain]


def data_file(image: str) -> str:
    """Return the file that an image's name leads to: the image itself or, for a symbolic link, the file of a snapshot.

    :raises NotFound, Conflict, FileAccessFailed: see :func:`delete_snapshot`.
    """
    with _opened(image) as files:
        return files.path(files.target())


def remove_image(image: str, *, sweeping: bool = True, batch: Batch | None = None) -> bool:
    """Remove an image with its snapshots and its checksum. Return ``False`` if there is none.

    :arg sweeping: see :func:`remove_files`, also for ``batch``.
    :raises InvalidInput: ``image`` isn't the name of an image.
    :raises PathNotAllowed, NoSpace, FileAccessFailed: see :func:`remove_files`.
    """
    directory, name = os.path.split(image)
    if not is_image_name(name):
        raise InvalidInput("source", image, "the path of an image is expected, which ends in 32 hexadecimal digits")
    names = [name, snapshot_directory(name), checksum_file(name)]
    return remove_files(directory, names, sweeping=sweeping, batch=batch)


@dataclass(frozen=True)
class ImageFiles:
    """An image's own file and the files of its snapshots. A number identifies a snapshot, and ``None`` the image's own
    file. Names are relative to open directories.

    :arg image: the image's path, for messages.
    :arg directory: descriptor of the image's directory.
    :arg name: the image's name in the directory.
    :arg snapshots: descriptor of the directory with the snapshots, or ``None`` without snapshots.
    """

    directory: int
    name: str
    image: str
    snapshots: int | None

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
    def opened_all(self, numbers: list[int | None]) -> Iterator[Mapping[int, str]]:
        """Open files, and yield their paths by descriptor."""
        with contextlib.ExitStack() as stack:
            yield {stack.enter_context(self.opened(number)): self.path(number) for number in numbers}

    def new_image(self, like: int) -> contextlib.AbstractContextManager[NewImage]:
        """Create a part in the image's directory that will belong to the owner of the file ``like``, a descriptor."""
        found = os.fstat(like)
        return new_image(self.directory, owner=(found.st_uid, found.st_gid) if os.geteuid() == 0 else None)

    def data_of(self, snapshot: int) -> int | None:
        """Return the file with a snapshot's data: its own, or the image's if the snapshot is a link to the image."""
        path = self.path(snapshot)
        with os_errors(f"read {path}"):
            if not self.has(snapshot):
                raise NotFound(f"The image {self.image} has no snapshot {snapshot}: {path} does not exist.")
            if stat.S_ISREG(self._status(snapshot).st_mode):
                return snapshot
            own = self._status(None)
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISLNK(own.st_mode) and os.path.samestat(
                    os.stat(str(snapshot), dir_fd=self.snapshots), own
                ):
                    return None
        raise Conflict(f"{path} is not used: it is not a regular file in a directory of the image {self.image}.")

    def numbers(self) -> list[int]:
        """Return the numbers of all files in the directory with the snapshots, ascending."""
        if self.snapshots is None:
            return []
        with os_errors(f"read {snapshot_directory(self.image)}"):
            return sorted(
                number for number in map(snapshot_number, list_directory(self.snapshots)) if number is not None
            )

    def active(self) -> int | None:
        """Return the file that receives the image's writes."""
        target = self.target()
        if target is None and self.snapshots is not None and is_link_at(self.snapshots, snapshot_directory(self.name)):
            return self.data_of(self.numbers()[-1])
        return target

    def target(self) -> int | None:
        """Return the file that the image's own name leads to."""
        with os_errors(f"read {self.image}"):
            if not is_link_at(self.directory, self.name):
                return None
            return self.data_of(self._number(os.readlink(self.name, dir_fd=self.directory), self.image))

    def parent(self, number: int | None) -> int | None:
        """Return the snapshot that is the backing file of a qcow2 file, or ``None`` without a backing file."""
        name = self.backing_name(number)
        return None if name is None else self._number(name, self.path(number))

    def backing_name(self, number: int | None) -> str | None:
        """Return the name of the backing file in the header of a qcow2 file. It is checked, because qemu-img would open
        this file.
        """
        from .qcow2 import HEADER_SIZE, Qcow2Header

        path = self.path(number)
        with self.opened(number) as descriptor, os_errors(f"read {path}"):
            try:
                header = Qcow2Header.parse(os.pread(descriptor, HEADER_SIZE, 0))
            except ValueError as error:
                raise Conflict(f"{path} is not used: it isn't a qcow2 image.") from error
            if header.has_external_data or header.backing_length > _LONGEST_BACKING_NAME:
                raise Conflict(f"{path} is not used: it has an external data file, or its header is damaged.")
            if not header.backing_offset:
                return None
            return os.fsdecode(os.pread(descriptor, header.backing_length, header.backing_offset))

    def chain(self, snapshot: int) -> list[int | None]:
        """Return the qcow2 files of a snapshot, down to the file without a backing file. All of them belong to the
        image.
        """
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
        return [number for number in numbers if not is_link_at(*self.place(number)) and self.parent(number) == snapshot]

    def _status(self, number: int | None) -> os.stat_result:
        directory, name = self.place(number)
        return os.stat(name, dir_fd=directory, follow_symlinks=False)

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


@contextlib.contextmanager
def _opened(image: str) -> Iterator[ImageFiles]:
    """Open the directories of an image's files, and yield the files.

    :raises Conflict: the name of the directory with the snapshots belongs to another file.
    """
    around, name = os.path.split(image)
    with contextlib.ExitStack() as stack:
        with os_errors(f"read {image}"):
            directory = stack.enter_context(opened_directory(around, option="source"))
            snapshots: int | None = None
            try:
                snapshots = open_directory_at(directory, snapshot_directory(name), os.O_PATH)
                stack.callback(os.close, snapshots)
            except FileNotFoundError:
                pass
            except NotADirectoryError as error:
                place = snapshot_directory(image)
                raise Conflict(f"{place} is not used: it is not a directory of the image {image}.") from error
        yield ImageFiles(directory, name, image, snapshots)


def _rebase(files: ImageFiles, child: int | None, snapshot: int, timeout: float) -> None:
    """Rebase ``child`` on the backing file of ``snapshot``, and keep its content."""
    from .qemu_img import run_qemu_img

    chain = files.chain(snapshot)
    parent = files.parent(files.data_of(snapshot))
    # The name keeps the directory part of the old name.
    name = "" if parent is None else os.path.join(os.path.dirname(files.backing_name(child) or ""), str(parent))
    with files.opened(child) as source, files.opened_all(chain) as reads, files.new_image(source) as part:
        copy_local(source, part.fd)
        # qemu-img looks up backing files relative to the image's name. Only names that lead to the chain are
        # accessible.
        named = descriptor_path(files.directory, part.name)
        run = functools.partial(
            run_qemu_img,
            reads=reads,
            writes={part.fd: files.path(child)},
            directories={files.directory: os.path.dirname(files.image)},
            data=disk_size(source, "qcow2", files.path(child)),
            timeout=timeout,
        )
        # Each write is flushed, because qemu-img ignores errors that occur only when it closes the file.
        run(*"rebase -t writethrough -f qcow2 -F qcow2 -b".split(), name, "--", named)
        run("check", "-q", "-f", "qcow2", "--", named)
        replace_image(part, files.place(child), path=files.path(child))


__all__ = [
    "chain_files",
    "data_file",
    "delete_snapshot",
    "flatten_snapshot",
    "foresee_change",
    "list_snapshots",
    "remove_image",
    "revert_snapshot",
]
