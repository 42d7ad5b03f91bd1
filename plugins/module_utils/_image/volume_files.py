# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files that a domain's volumes have on their host: empty disks, overlays, raw disks and small media.

A new file gets its name when all of its data is durable. The directory of a domain's files belongs to root. The files
belong to the user of QEMU, who can write nothing else there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

from .._core.directory import exists_at, is_writable_for_others, open_file_at, opened_directory, opened_file_at
from .._core.errors import PathNotAllowed, StaleState, os_errors
from .._core.records import dataclass
from .._host.made_directory import open_or_make
from .image_file import disk_size
from .layer_header import has_data, read_backing_name
from .new_image import NewImage, new_image, remove_files
from .resize import grow_opened
from .room import require_room

#: Mode of a directory with volumes: programs can open the files by name, and only root can list them.
DIRECTORY_MODE = 0o711
#: Mode of the files. Secrets are among them.
FILE_MODE = 0o600
#: Mode of a host's disk, which other programs of QEMU's group use, too.
SHARED_FILE_MODE = 0o660
#: Upper bound of the size of a small medium in bytes.
LARGEST_MEDIUM = 64 << 20
#: Upper bound of the time that qemu-img takes, in seconds.
TIMEOUT = 300


@dataclass(frozen=True)
class VolumeFile:
    """An existing file of a volume.

    :arg size: virtual size of the disk in bytes.
    :arg allocated: storage of the file in bytes.
    :arg backing: the path of an overlay's backing file.
    :arg has_data: whether a guest has written to an overlay.
    """

    size: int
    allocated: int
    backing: str | None = None
    has_data: bool = False


@dataclass(frozen=True)
class VolumeDirectory:
    """The directory with the files of one domain's volumes.

    :arg owner: uid and gid of the files. ``None`` is the user of the process.
    """

    path: str
    owner: tuple[int, int] | None = None

    def path_of(self, name: str) -> str:
        return os.path.join(self.path, name)

    def names(self) -> list[str]:
        """Return the names of all files and directories here. Without the directory, there are none.

        :raises FileAccessFailed: the directory can't be read.
        """
        with os_errors(f"read {self.path}"), contextlib.suppress(FileNotFoundError):
            return sorted(os.listdir(self.path))
        return []

    def overlay(self, name: str) -> VolumeFile | None:
        """Return the state of a qcow2 file; ``None`` without the file.

        :raises Conflict: the file isn't a qcow2 image.
        :raises FileAccessFailed: the file can't be read.
        """
        with self._opened_file(name) as descriptor:
            if descriptor is None:
                return None
            path = self.path_of(name)
            backing = read_backing_name(descriptor, path)  # first, because it refuses what is no qcow2 image
            return VolumeFile(
                size=disk_size(descriptor, "qcow2", path),
                allocated=os.fstat(descriptor).st_blocks * 512,
                backing=backing,
                has_data=has_data(descriptor, path),
            )

    def medium(self, name: str) -> bytes | None:
        """Return the data of a small medium; ``None`` without the file, or if it is larger than any medium.

        :raises FileAccessFailed: the file can't be read.
        """
        with self._opened_file(name) as descriptor, os_errors(f"read {self.path_of(name)}"):
            if descriptor is None or os.fstat(descriptor).st_size > LARGEST_MEDIUM:
                return None
            return os.pread(descriptor, LARGEST_MEDIUM, 0)

    @contextlib.contextmanager
    def _opened_file(self, name: str) -> Iterator[int | None]:
        with contextlib.ExitStack() as stack:
            descriptor = None
            with os_errors(f"open {self.path_of(name)}"), contextlib.suppress(FileNotFoundError):
                directory = stack.enter_context(opened_directory(self.path))
                descriptor = stack.enter_context(opened_file_at(directory, name))
            yield descriptor

    def create_empty(self, name: str, size: int, *, thick: bool = False) -> None:
        """Create a qcow2 disk without data.

        :arg size: in bytes.
        :arg thick: whether the storage is allocated now.
        :raises NoSpace, CommandFailed, FileAccessFailed: the disk can't be written.
        """
        from .qemu_img import run_qemu_img

        with self._new_file(name) as part:
            if thick:
                require_room(part.fd, size, f"make {self.path_of(name)}")
            options = ["-o", "preallocation=falloc"] if thick else []
            arguments = ["create", "-q", "-f", "qcow2", *options, "--", part.file, str(size)]
            run_qemu_img(*arguments, reads={}, writes={part.fd: "the new disk"}, data=size, timeout=TIMEOUT)

    def create_overlay(self, name: str, backing: str, format: str, size: int) -> None:
        """Create a qcow2 overlay, over an existing file.

        :arg backing: the path of the backing file or block device, which isn't opened.
        :arg format: format of the backing file.
        :arg size: in bytes.
        :raises NoSpace, CommandFailed, FileAccessFailed: the overlay can't be written.
        """
        from .snapshots import create_overlay

        with self._new_file(name) as part:
            create_overlay(part, backing, size, format=format)

    def write(self, name: str, data: bytes) -> None:
        """Write a small medium, over an existing file. A running domain keeps the old one.

        :raises NoSpace, FileAccessFailed: the file can't be written.
        """
        with self._new_file(name) as part, os_errors(f"write {self.path_of(name)}"):
            os.pwrite(part.fd, data, 0)

    @contextlib.contextmanager
    def _new_file(self, name: str) -> Iterator[NewImage]:
        """Yield a file that gets its name at the end of the block. A missing directory is created.

        :raises PathNotAllowed: the existing directory is another user's.
        """
        self._create()
        with new_image(self.path, owner=self.owner, mode=FILE_MODE) as part:
            yield part
            with os_errors(f"write {self.path_of(name)}"):
                part.publish_durably(part.directory, name)

    def _create(self) -> None:
        make_passable(self.path)
        with os_errors(f"open {self.path}"), opened_directory(self.path) as directory:
            status = os.fstat(directory)
        if status.st_uid not in (0, os.geteuid()) or is_writable_for_others(status):
            reason = (
                "another user can replace the files in it. A directory of root that only root can write is expected"
            )
            raise PathNotAllowed("directory", self.path, reason)

    def remove(self, names: Sequence[str]) -> bool:
        """Remove the existing files among ``names``. Return ``False`` if none exists.

        :raises FileAccessFailed: a file can't be removed.
        """
        return os.path.isdir(self.path) and remove_files(self.path, names)

    def remove_if_empty(self) -> None:
        """Remove the directory unless it has files."""
        with contextlib.suppress(OSError):
            os.rmdir(self.path)


def make_passable(path: str) -> None:
    """Create the directory ``path`` and its missing parents, through which QEMU opens files. The umask doesn't matter.

    :raises PathNotAllowed: a symbolic link of another user leads there.
    :raises FileAccessFailed: a directory can't be created.
    """
    with os_errors(f"create the directory {path}"):
        for one in (os.path.dirname(path), path):
            os.close(open_or_make(one, DIRECTORY_MODE))


def grow_file(path: str, format: str, size: int, *, sparse: bool) -> None:
    """Grow a raw or qcow2 file, which may be a layer of a chain, to ``size`` bytes.

    :arg sparse: ``False`` allocates storage for the new part.
    :raises NoSpace, CommandFailed, FileAccessFailed: the file can't be grown.
    """
    directory, name = os.path.split(path)
    with contextlib.ExitStack() as stack:
        with os_errors(f"open {path}"):
            opened = stack.enter_context(opened_directory(directory))
            descriptor = open_file_at(opened, name, os.O_RDWR)
            stack.callback(os.close, descriptor)
        grow_opened(descriptor, format, size, path, sparse=sparse, timeout=TIMEOUT)


def create_raw(path: str, size: int, owner: tuple[int, int] | None) -> None:
    """Create a raw disk of zeros without allocated storage.

    :arg size: in bytes.
    :arg owner: uid and gid of the file.
    :raises NoSpace, FileAccessFailed: the file can't be created.
    :raises StaleState: another program has created the file meanwhile.
    """
    directory, name = os.path.split(path)
    with new_image(directory, owner=owner, mode=SHARED_FILE_MODE) as part, os_errors(f"make {path}"):
        os.truncate(part.fd, size)
        if exists_at(part.directory, name):
            raise StaleState(f"Another program created {path} in the meantime, and the file stays.")
        part.publish_durably(part.directory, name)


def remove_raw(path: str) -> None:
    """Remove a raw disk that :func:`create_raw` created. The directory can be another user's.

    :raises PathNotAllowed: that user has replaced the directory by a symbolic link to another user's directory.
    :raises FileAccessFailed: the file can't be removed.
    """
    directory, name = os.path.split(path)
    remove_files(directory, [name])


__all__ = [
    "VolumeDirectory",
    "VolumeFile",
    "create_raw",
    "grow_file",
    "make_passable",
    "remove_raw",
]
