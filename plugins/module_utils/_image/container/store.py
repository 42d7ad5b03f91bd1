# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of the cache of container disks: the disks, and one record for each image.

Images with the same disk share one file. The name of a disk is the checksum of its content, so that each disk can be
verified. The modification time of a record is the time when its image was last used.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import struct
import time
from collections.abc import Iterator, Sequence

from ..._core.chunks import read_chunks
from ..._core.digits import is_hexadecimal
from ..._core.directory import opened_directory, opened_file_at
from ..._core.errors import os_errors
from ..._core.files import read_text, remove_durably, write_atomic
from ..._core.locks import locked
from ..._core.plain import Mismatch, from_plain, to_plain
from ..._core.records import dataclass
from ..._host.made_directory import open_or_make, require_only_root
from ..new_image import NewImage

#: The default directory.
DIRECTORY = "/var/lib/libvirt/granary-vmstore/container-disks"

#: Permission bits of a disk: everybody reads, nobody writes.
DISK_MODE = 0o444
#: The modification time of each disk. A program that writes to the disk changes this time.
UNTOUCHED = 1

#: Upper bound of the time for which a change of the records waits for another one in seconds, and of the time for which
#: a download waits for another download of the same layers.
_SHORT_WAIT, _LONG_WAIT = 60, 4 * 3600

#: States of the file of a disk: as it was written; with the same content, but with another owner or other times; and
#: missing or with another content.
SOUND, LOOSE, DAMAGED = "sound", "loose", "damaged"


@dataclass(frozen=True)
class CachedDisk:
    """The record of an image in the cache.

    :arg names: the full names that stand for this image, in the order of their use.
    :arg path: the path that the user gave for the disk, or ``None``.
    :arg digest: the digest of the image.
    :arg layers: the digests of its layers, the lowest first.
    :arg disk: the path of the disk in the image.
    :arg checksum: the sha256 of the disk in hexadecimal digits.
    :arg format: qemu's name of the format.
    :arg virtual_size: size of the disk in bytes.
    :arg size: bytes of the file.
    :arg pulled: the time of the download in seconds since the epoch.
    """

    names: tuple[str, ...]
    architecture: str
    path: str | None
    digest: str
    layers: tuple[str, ...]
    disk: str
    checksum: str
    format: str
    virtual_size: int
    size: int
    pulled: int

    @property
    def variant(self) -> tuple[str, str | None]:
        """Return the requested variant of the image: the architecture and the path."""
        return self.architecture, self.path

    @property
    def key(self) -> str:
        """Return the name of the record, without its suffix."""
        return hashlib.sha256(json.dumps([self.digest, *self.variant]).encode()).hexdigest()


class DiskStore:
    """The cache in a directory.

    :arg directory: the absolute path.
    """

    def __init__(self, directory: str = DIRECTORY) -> None:
        self.directory = directory
        self.disks = os.path.join(directory, "disks")
        self._records = os.path.join(directory, "records")

    def check_directory(self) -> None:
        """Refuse a directory that other users than root can change.

        :raises PathNotAllowed: other users can change the directory, or a directory around it.
        :raises FileAccessFailed: the directory can't be read.
        """
        with os_errors(f"look at the directory {self.directory}"):
            require_only_root("directory", self.directory, "guests would boot from changed disks")

    def create(self) -> None:
        """Create the missing directories.

        :raises PathNotAllowed: see :meth:`check_directory`.
        :raises NoSpace, FileAccessFailed: a directory can't be created.
        """
        self.check_directory()
        for path in (self.directory, self.disks, self._records):
            with os_errors(f"create the directory {path}"):
                os.close(open_or_make(path, 0o755))

    def changing(self) -> contextlib.AbstractContextManager[None]:
        """Return the lock under which records change.

        :raises LockTimeout: another program holds the lock.
        """
        return locked(os.path.join(self.directory, "lock"), deadline=_SHORT_WAIT)

    def downloading(self, layers: Sequence[str], path: str | None) -> contextlib.AbstractContextManager[None]:
        """Return the lock for the download of a disk.

        :raises LockTimeout: another program holds the lock.
        """
        # Each disk has a byte of one file, so that no lock files have to be removed.
        place = int.from_bytes(hashlib.sha256(json.dumps([layers, path]).encode()).digest()[:7], "big")
        request = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
        return locked(
            os.path.join(self.directory, "downloads"),
            deadline=_LONG_WAIT,
            style=lambda descriptor, _how: fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request),
        )

    def read_records(self) -> list[CachedDisk]:
        """Return all records. A damaged record counts as missing.

        :raises FileAccessFailed: the directory can't be read.
        """
        found = []
        for name in self._listed(self._records):
            key, _dot, suffix = name.partition(".")
            if suffix == "json" and is_hexadecimal(key, 64):
                with contextlib.suppress(ValueError, Mismatch):
                    found.append(from_plain(CachedDisk, json.loads(read_text(os.path.join(self._records, name)))))
        return sorted(found, key=lambda one: (one.names, one.digest, one.key))

    def last_use(self, disk: CachedDisk) -> float:
        """Return the time when an image was last used, in seconds since the epoch. A record that was just removed is
        used now.
        """
        with os_errors(f"read the record of {disk.digest}"):
            try:
                return os.stat(self._record_path(disk)).st_mtime
            except FileNotFoundError:
                return time.time()

    def write(self, disk: CachedDisk, last_use: float | None = None) -> None:
        """Write a record.

        :arg last_use: the time of the last use. The default is now.
        :raises NoSpace, FileAccessFailed: the record can't be written.
        """
        path = self._record_path(disk)
        write_atomic(path, json.dumps(to_plain(disk)).encode(), mode=0o644)
        if last_use is not None:
            self._set_time(path, last_use)

    def note_use(self, disk: CachedDisk) -> None:
        """Note that an image is used now.

        :raises FileAccessFailed: the record is missing, or can't be changed.
        """
        self._set_time(self._record_path(disk), time.time())

    def remove(self, disk: CachedDisk) -> None:
        """Remove the record of an image. The disk stays.

        :raises FileAccessFailed: the record can't be removed.
        """
        remove_durably(self._record_path(disk))

    def file(self, checksum: str) -> str:
        """Return the path of a disk."""
        return os.path.join(self.disks, checksum)

    def list_disks(self) -> list[str]:
        """Return the checksums of all disks, with or without a record.

        :raises FileAccessFailed: the directory can't be read.
        """
        return [name for name in self._listed(self.disks) if is_hexadecimal(name, 64)]

    def stored_size(self, checksum: str) -> int:
        """Return the storage of a disk in bytes, 0 for a missing one."""
        try:
            return os.stat(self.file(checksum)).st_blocks * 512
        except FileNotFoundError:
            return 0

    def remove_disk(self, checksum: str) -> None:
        """Remove a disk.

        :raises FileAccessFailed: the disk can't be removed.
        """
        remove_durably(self.file(checksum))

    def publish(self, part: NewImage, checksum: str) -> None:
        """Give a new disk its name, unless the same disk is there.

        :raises NoSpace, FileAccessFailed: the disk can't be written.
        """
        with os_errors(f"write {self.file(checksum)}"):
            if self.check(checksum, os.fstat(part.fd).st_size) != SOUND:
                os.utime(part.fd, (UNTOUCHED, UNTOUCHED))
                part.publish_durably(part.directory, checksum)

    def check(self, checksum: str, size: int) -> str:
        """Return the state of a disk. The content is read only if another program may have changed it.

        :raises FileAccessFailed: the disk can't be read.
        """
        with contextlib.suppress(FileNotFoundError), self._opened(checksum) as descriptor:
            with os_errors(f"read {self.file(checksum)}"):
                if _is_untouched(descriptor, size):
                    return SOUND
                return LOOSE if _checksum_of(descriptor) == checksum else DAMAGED
        return DAMAGED

    def protect(self, checksum: str, size: int) -> bool:
        """Give a disk back its owner and its times, and verify its content. Return ``False`` for another content.

        A running virtual machine may have got the disk as its own, which libvirt does with backing files.

        :raises FileAccessFailed: the disk can't be read or changed.
        """
        with os_errors(f"change {self.file(checksum)}"), self._opened(checksum) as descriptor:
            os.fchown(descriptor, os.geteuid(), os.getegid())
            os.fchmod(descriptor, DISK_MODE)
            os.fsync(descriptor)
            os.utime(descriptor, (UNTOUCHED, UNTOUCHED))
            # A program that still has the file open for writing changes the time again.
            return _checksum_of(descriptor) == checksum and _is_untouched(descriptor, size)

    @contextlib.contextmanager
    def _opened(self, checksum: str) -> Iterator[int]:
        with opened_directory(self.disks, option="directory") as directory:
            with opened_file_at(directory, checksum) as descriptor:
                yield descriptor

    def _record_path(self, disk: CachedDisk) -> str:
        return os.path.join(self._records, f"{disk.key}.json")

    def _set_time(self, path: str, when: float) -> None:
        with os_errors(f"change the time of {path}"):
            os.utime(path, (when, when))

    def _listed(self, directory: str) -> list[str]:
        with os_errors(f"read the directory {directory}"):
            try:
                return sorted(os.listdir(directory))
            except FileNotFoundError:
                return []


def _is_untouched(descriptor: int, size: int) -> bool:
    found = os.fstat(descriptor)
    return (found.st_uid, stat.S_IMODE(found.st_mode), found.st_size, found.st_mtime_ns) == (
        os.geteuid(),
        DISK_MODE,
        size,
        UNTOUCHED * 10**9,
    )


def _checksum_of(descriptor: int) -> str:
    digest = hashlib.sha256()
    for chunk in read_chunks(descriptor):
        digest.update(chunk)
    return digest.hexdigest()


__all__ = ["DAMAGED", "DIRECTORY", "DISK_MODE", "LOOSE", "SOUND", "CachedDisk", "DiskStore"]
