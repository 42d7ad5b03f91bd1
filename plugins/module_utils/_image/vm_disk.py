# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An open disk of a virtual machine: its files, its format, and the image that it comes from.

A disk is one of these (design: transfers):

* a file ``disk.N``, with whole copies ``disk.N.snap/<id>`` as snapshots
* layers: qcow2 overlays ``disk.N.snap/<k>``, each based on the one before. ``disk.N`` is a link to the last one, which
  receives the writes. The first one may be based on an image.
* a link to an image of shared storage, raw, or to the last layer of an image, ``<image>.snap/<k>``
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

from .._core.directory import exists_at, is_link_at, opened_file_at, sync_opened
from .._core.errors import Conflict, InvalidInput, NotFound, os_errors
from .._core.paths import absolute, is_same_path
from .._core.records import dataclass
from .._core.temporary import new_part_name
from .image_files import ImageFiles, Pointer, files_in, make_link, opened_files, owner_like
from .layout import checksum_file, is_image_name, snapshot_directory, snapshot_number
from .new_image import NewImage, new_image, remove_files, sweep
from .still import StillFiles, is_used, require_unused
from .vm_directory import DiskPath, make_directory_at, opened_vm_directory, parse_disk_path
from .vm_lock import DEADLINE, locked_disk
from .vm_removal import remove_disk_at, require_unused_at

#: Upper bound of the attempts to make a link. Another action may remove the new link as a stale temporary.
_ATTEMPTS = 10


@dataclass(frozen=True)
class DiskRecord:
    """The facts about a disk that its files can't give, because a guest or another user may have changed these.

    :arg path: path of the disk, ``<datastores>/<system datastore>/<vm>/disk.N``.
    :arg format: ``raw`` or ``qcow2``. The format is never probed.
    :arg image: path of the image that the disk is a link to, a copy of, or based on. ``None`` for an empty disk.
    """

    path: str
    format: str
    image: str | None = None


@dataclass(frozen=True)
class OpenDisk:
    """A disk whose lock this process holds.

    :arg directory: descriptor of the VM directory.
    :arg files: the files of the disk, or of the image that the disk is a link to.
    """

    path: DiskPath
    format: str
    directory: int
    files: ImageFiles

    @property
    def is_layered(self) -> bool:
        """Return whether the disk is a link to the last one of its layers."""
        return self.files.active_number() is not None

    def current(self) -> int | None:
        """Return the file that receives the writes of the disk. A raw disk has no overlays."""
        return self.files.active() if self.format == "qcow2" else self.files.target()

    def opened_data(self, snapshot: int | None = None) -> contextlib.AbstractContextManager[Mapping[int, str]]:
        """Open the files with the data of the disk or of a snapshot, each before its backing file. Yield their paths by
        descriptor.

        :raises NotFound: the snapshot or the disk is missing.
        :raises Conflict: a file refers to another one than those of the disk and its image.
        """
        file = self.current() if snapshot is None else self.files.data_of(snapshot)
        return self.files.opened_chain(file) if self.format == "qcow2" else self.files.opened_alone(file)

    @contextlib.contextmanager
    def opened_for_writing(self, doing: str) -> Iterator[tuple[int, str]]:
        """Open the file that receives the writes of the disk. Yield its descriptor and its path.

        :arg doing: the work, as the rest of "can't".
        :raises Conflict: a program uses the file.
        """
        file = self.current()
        path = self.files.path(file)
        directory, name = self.files.place(file)
        with os_errors(f"write {path}"), opened_file_at(directory, name, os.O_RDWR) as descriptor:
            require_unused(descriptor, path, doing)
            yield descriptor, path

    def require_unused(self, doing: str) -> None:
        """Refuse to change a disk that a program uses.

        :raises Conflict: a program uses the file that receives the writes.
        """
        file = self.current()
        with self.files.opened(file) as descriptor:
            require_unused(descriptor, self.files.path(file), doing)

    def require_unused_by(self, snapshot: int) -> None:
        """Refuse to remove a snapshot while a program uses its file or an overlay that is based on it.

        :raises Conflict: a program uses one of these files.
        """
        files = self.files
        for number in [files.data_of(snapshot), *(files.children(snapshot) if self.format == "qcow2" else [])]:
            with files.opened(number) as descriptor:
                require_unused(descriptor, files.path(number), "be changed")

    def require_settled(self) -> None:
        """Refuse to work on a disk while an overlay that isn't used yet has data: QEMU has switched to the overlay, and
        the live snapshot was interrupted.

        :raises Conflict: there is such an overlay.
        """
        number = self.files.active_number()
        if self.format != "qcow2" or number is None or not self.files.has(number + 1):
            return
        if not self.files.is_empty_overlay(number + 1):
            raise Conflict(
                f"{self.files.path(number + 1)} has newer data than {self.files.path(number)}, because a live snapshot "
                f"was interrupted: take the snapshot {number} of {self.path.path} again."
            )

    def remove_checksum(self) -> None:
        """Remove the checksum of the old data of an image."""
        if self.files.pointer is not None:
            remove_files(self.files.directory, [checksum_file(self.files.name)])

    def layer_of(self, path: str) -> int:
        """Return the number of the layer with this path.

        :raises Conflict: the path isn't that of a layer of the disk.
        """
        directory, name = os.path.split(path)
        number = snapshot_number(name)
        if number is None or not is_same_path(directory, snapshot_directory(self.files.image)):
            raise Conflict(f"{path} is no layer of the disk {self.path.path}.")
        return number

    def is_used(self) -> bool:
        with self.files.opened(self.current()) as descriptor:
            return is_used(descriptor)

    def new_file(self) -> contextlib.AbstractContextManager[NewImage]:
        """Create a part in the directory of the disk's files, with the owner of this directory."""
        return new_image(self.files.directory, owner=owner_like(self.files.directory))

    def switch(self, number: int) -> None:
        """Let the disk be a link to the layer with this number, atomically and durably."""
        target = f"{snapshot_directory(self.files.name)}/{number}"
        if self.files.pointer is not None:
            target = f"{os.path.dirname(self.files.image)}/{target}"
        replace_link(self.directory, self.path, target)


@contextlib.contextmanager
def opened_disk(record: DiskRecord, *, doing: str | None = None, deadline: float = DEADLINE) -> Iterator[OpenDisk]:
    """Hold the lock of a disk, and yield the open disk.

    :arg doing: name of the action, which waiting actions report. ``None`` takes no lock, to look at a disk only.
    :arg deadline: seconds to wait for another action on the disk.
    :raises InvalidInput: the record has an invalid path or format.
    :raises NotFound: there is no such disk.
    :raises Conflict: the disk is a link to something else than its layers or its image.
    :raises LockTimeout: another action on the disk didn't end before the deadline.
    :raises PathNotAllowed, FileAccessFailed: a directory can't be opened.
    """
    path = parse_disk_path(record.path)
    check_format(record.format)
    image = None if record.image is None else check_image(record.image)
    directories = opened_vm_directory(path) if doing is None else locked_disk(path, doing=doing, deadline=deadline)
    with directories as directory, contextlib.ExitStack() as stack:
        with os_errors(f"read {path.path}"):
            is_link = is_link_at(directory, path.name)
            target = os.readlink(path.name, dir_fd=directory) if is_link else None
        if target is None or is_own_layer(path, target):
            opened = files_in(directory, path.path, base=image)
        elif image is not None and is_in_image(image, target):
            opened = opened_files(image, pointer=Pointer(directory, path.name, path.path))
        else:
            raise Conflict(f"{path.path} is not used: it is a link to {target!r}, which is not the image of the disk.")
        files = stack.enter_context(opened)
        if target is None and not files.is_regular():
            raise NotFound(f"The disk {path.path} does not exist.")
        yield OpenDisk(path, record.format, directory, files)


def check_format(format: str) -> None:
    if format not in ("raw", "qcow2"):
        raise InvalidInput("format", format, "raw or qcow2 is expected")


def check_image(image: str) -> str:
    """Return the path of an image without repeated slashes.

    :raises InvalidInput: the path is no absolute path of an image.
    """
    path = absolute("image", image)
    if not is_image_name(os.path.basename(path)):
        raise InvalidInput("image", image, "the path of an image is expected, which ends in 32 hexadecimal digits")
    return path


def is_own_layer(path: DiskPath, target: str) -> bool:
    """Return whether the text of a link leads to the directory of the disk's own layers."""
    directory, name = os.path.split(target)
    own = snapshot_directory(path.name)
    return snapshot_number(name) is not None and (
        directory == own or is_same_path(directory, f"{path.directory}/{own}")
    )


def is_in_image(image: str, target: str) -> bool:
    """Return whether the text of a link leads to an image or to a layer of the image."""
    directory, name = os.path.split(target)
    return is_same_path(target, image) or (
        snapshot_number(name) is not None and is_same_path(directory, snapshot_directory(image))
    )


def place_file(directory: int, path: DiskPath, part: NewImage) -> None:
    """Give a new disk its name ``disk.N``, durably. An existing disk of this name is replaced, with its snapshots.

    Without snapshots, a crash leaves the old disk or the new one. Otherwise the crash can leave none of them.

    :raises Conflict: a program uses the old disk.
    :raises NoSpace, FileAccessFailed: the file can't be written.
    """
    with os_errors(f"write {path.path}"):
        part.make_durable()
    make_room(directory, path, keeps_file=True)
    with os_errors(f"write {path.path}"):
        part.rename(directory, path.name)
        sync_opened(directory)


def place_layer(directory: int, path: DiskPath, part: NewImage) -> None:
    """Make a new file the layer 0 of a disk, durably: ``disk.N.snap/0``, and the link ``disk.N`` to it. An existing
    disk of this name is replaced. A crash can leave neither of them.

    :raises Conflict, NoSpace, FileAccessFailed: see :func:`place_file`.
    """
    with os_errors(f"write {path.path}"):
        part.make_durable()
    make_room(directory, path, keeps_file=False)
    with os_errors(f"write {path.path}"):
        make_directory_at(directory, snapshot_directory(path.name))
    with files_in(directory, path.path) as files:
        files.link_to_itself()
        place, name = files.place(0)
        with os_errors(f"write {path.path}"):
            part.rename(place, name)
            sync_opened(place)
    replace_link(directory, path, f"{snapshot_directory(path.name)}/0")


def make_room(directory: int, path: DiskPath, *, keeps_file: bool) -> None:
    """Remove an old disk before a new one gets its name.

    :arg keeps_file: whether to keep a file without snapshots, because the new one will replace it.
    """
    with os_errors(f"look at {path.path}"):
        has_snapshots = exists_at(directory, snapshot_directory(path.name))
    if keeps_file and not has_snapshots:
        require_unused_at(directory, path.name, path.path)
    else:
        remove_disk_at(directory, path)


def replace_link(directory: int, path: DiskPath, target: str) -> None:
    """Make the disk a symbolic link, atomically and durably.

    :raises NoSpace, FileAccessFailed: the link can't be made.
    """
    sweep(directory)  # a killed run may have left a link
    with os_errors(f"write {path.path}"):
        for left in reversed(range(_ATTEMPTS)):
            name = new_part_name()
            try:
                make_link(directory, name, target)
                os.rename(name, path.name, src_dir_fd=directory, dst_dir_fd=directory)
                break
            except FileNotFoundError:
                if not left:
                    raise
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=directory)
                raise
        sync_opened(directory)


@contextlib.contextmanager
def unchanged(reads: Mapping[int, str], *, is_paused: bool = False) -> Iterator[None]:
    """Require that files don't change in a block that copies them.

    :arg is_paused: whether a program may have the files open, because it writes nothing until the end of the block.
    :raises Conflict: a program has a file open for writing, or wrote to one.
    """
    still = StillFiles(reads, verify=False)
    if not is_paused:
        _refuse(still.warnings)
    still.warnings.clear()
    yield
    still.check()
    _refuse(still.warnings)


def _refuse(warnings: list[str]) -> None:
    if warnings:
        raise Conflict(warnings[0])


__all__ = [
    "DiskRecord",
    "OpenDisk",
    "check_format",
    "check_image",
    "opened_disk",
    "place_file",
    "place_layer",
    "replace_link",
    "unchanged",
]
