# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is in a datastore's directory. Names, links and headers there can be anybody's: no link counts that leads elsewhere; only regular files are opened."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from .._core.errors import InvalidInput, NotFound, from_os_error, os_errors
from .image_file import HEAD_SIZE, QEMU_FORMATS, sniff, virtual_size
from .new_image import PART, is_held

_IMAGE = re.compile("[0-9a-f]{32}")
_BESIDE = re.compile(r"([0-9a-f]{32})\.(snap|md5sum)")
_SNAPSHOT = re.compile("[0-9]{1,9}")

#: Bytes that tell a format, and its size; only a VHDX has it further behind.
_HEAD = 512

#: Bytes that are read at once.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class StoredSnapshot:
    """``allocated`` is in bytes, as everywhere here: what the file takes on disk."""

    id: int
    allocated: int


@dataclass(frozen=True)
class StoredImage:
    """An image whose data is there. Whether its header is to be believed, only the catalog knows: whoever writes to a raw disk can write one there.

    :arg format: by its header; ``raw`` where it has none, ``None`` where it can't be read, as ``error`` says.
    :arg length: bytes of the file, which is what a guest sees of a raw image.
    :arg header_size: bytes that a guest sees of an image of this ``format``; ``None`` where ``error`` says why it isn't known.
    :arg allocated: without the snapshots.
    :arg modified: nanoseconds since 1970.
    :arg checksum: hexadecimal digest of the file, where it was asked for.
    """

    path: str
    format: str | None
    length: int
    header_size: int | None
    allocated: int
    modified: int
    snapshots: tuple[StoredSnapshot, ...] = ()
    error: str | None = None
    checksum: str | None = None

    def virtual_size(self, format: str) -> int | None:
        """Bytes that a guest sees if it is what the catalog says; ``None`` when it isn't, or its header can't be read."""
        if format == "raw":
            return self.length
        return self.header_size if format == self.format else None


@dataclass(frozen=True)
class StoredFile:
    """What is no image. A directory counts with the files in it."""

    path: str
    allocated: int


@dataclass(frozen=True)
class Inventory:
    """
    :arg strays: the snapshots (else the checksum file) of images whose own file isn't there, together with the checksum file.
    :arg leftovers: parts that no running program holds.
    :arg held: paths of parts that are being made or removed.
    :arg unknown: names of all the rest, in which ``\\x`` and two digits stand for a byte that isn't UTF-8.
    """

    images: tuple[StoredImage, ...] = ()
    strays: tuple[StoredFile, ...] = ()
    leftovers: tuple[StoredFile, ...] = ()
    held: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def take_inventory(directory: str, checksums: Mapping[str, str]) -> Iterator[Inventory | None]:
    """What is in ``directory``: the last item. The ones before, ``None``, tell whoever waits that data is being read.

    :arg checksums: names of algorithms by the path of the image whose checksum is wanted; one that isn't there is left out.
    :raises NotFound: there is no such directory; :raises FileAccessFailed: it, or data in it, can't be read.
    """
    found = _scan(directory)
    images = []
    for image in found.images:
        if image.path in checksums:
            digest = hashlib.new(checksums[image.path], usedforsecurity=False)
            with os_errors(f"read {image.path}"), contextlib.suppress(FileNotFoundError):  # it has just been removed
                for chunk in _chunks(_data_file(image.path) or image.path):
                    digest.update(chunk)
                    yield None
                image = replace(image, checksum=digest.hexdigest())
        images.append(image)
    yield replace(found, images=tuple(images))


def _scan(directory: str) -> Inventory:
    with _entries(directory) as entries:
        listed = {entry.name: entry for entry in entries}
    images, beside, leftovers, held, unknown = [], {}, [], [], []
    with os_errors(f"read the directory {directory}"):
        for name, entry in sorted(listed.items()):
            of = _BESIDE.fullmatch(name)
            if PART.fullmatch(name):
                if entry.is_file(follow_symlinks=False) and is_held(entry.path):
                    held.append(entry.path)
                else:
                    leftovers.append(entry)
            elif _IMAGE.fullmatch(name) and _has_data(entry):
                snapshots = listed.get(f"{name}.snap")
                image = _image(entry, snapshots is not None and snapshots.is_dir(follow_symlinks=False))
                if image is not None:
                    images.append(image)
            elif of is not None and (entry.is_dir if of[2] == "snap" else entry.is_file)(follow_symlinks=False):
                beside.setdefault(of[1], []).append(entry)
            else:
                unknown.append(os.fsencode(name).decode(errors="backslashreplace"))
        whole = {os.path.basename(image.path) for image in images}
        strays = [files for name, files in beside.items() if name not in whole]
        return Inventory(
            tuple(images),
            tuple(StoredFile(files[-1].path, sum(map(_allocated, files))) for files in strays),
            tuple(StoredFile(entry.path, _allocated(entry)) for entry in leftovers),
            tuple(held),
            tuple(unknown),
        )


def _image(entry: os.DirEntry[str], has_snapshots: bool) -> StoredImage | None:
    """``None`` when it has just been removed."""
    path = entry.path
    try:
        active = _data_file(path) if entry.is_symlink() else path
        files, shared = _snapshot_files(path) if has_snapshots else ({}, False)
        if active == path and shared and files:
            active = files[max(files)]
        if active is None:
            return None
        snapshots = tuple(StoredSnapshot(number, os.lstat(file).st_blocks * 512) for number, file in sorted(files.items()) if file != active)
        return _look(path, active, snapshots)
    except FileNotFoundError:
        return None


def _snapshot_files(image: str) -> tuple[dict[int, str], bool]:
    """The file of each snapshot, of which one may be the image's own, and whether they are laid out for shared storage (see snapshots.py)."""
    files, shared = {}, False
    with os.scandir(f"{image}.snap") as entries:
        for entry in entries:
            if entry.name == f"{os.path.basename(image)}.snap":
                shared = entry.is_symlink()
            elif _SNAPSHOT.fullmatch(entry.name):
                if entry.is_file(follow_symlinks=False):
                    files[int(entry.name)] = entry.path
                elif entry.is_symlink() and not os.path.islink(image) and os.path.realpath(entry.path) == os.path.realpath(image):
                    files[int(entry.name)] = image
    return files, shared


def _look(path: str, file: str, snapshots: tuple[StoredSnapshot, ...]) -> StoredImage:
    status = os.lstat(file)
    image_format, size, error = None, None, None
    try:
        with _opened(file) as descriptor:
            status = os.fstat(descriptor)
            head = os.pread(descriptor, _HEAD, 0)
            found = sniff(head)
            if found == "vhdx":
                head = os.pread(descriptor, HEAD_SIZE, 0)
            image_format = found if found in QEMU_FORMATS else "raw"
            size = virtual_size(head, status.st_size, option="source", path=file)
    except FileNotFoundError:
        raise
    except OSError as refused:
        error = str(from_os_error(refused, f"read {file}"))
    except InvalidInput as refused:
        error = str(refused)
    return StoredImage(path, image_format, status.st_size, size, status.st_blocks * 512, status.st_mtime_ns, snapshots, error)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    """A descriptor of a file that was a regular one when it was listed: what it was replaced by meanwhile doesn't keep waiting, and no link is followed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileNotFoundError(path)
        yield descriptor
    finally:
        os.close(descriptor)


def _chunks(path: str) -> Iterator[bytes]:
    with _opened(path) as descriptor:
        chunk = os.read(descriptor, _CHUNK)
        while chunk:
            yield chunk
            chunk = os.read(descriptor, _CHUNK)


def _allocated(entry: os.DirEntry[str]) -> int:
    """Bytes on disk of a file, or of a directory and the files in it; of what has just been removed none."""
    with contextlib.suppress(FileNotFoundError):
        taken = entry.stat(follow_symlinks=False).st_blocks * 512
        if entry.is_dir(follow_symlinks=False):
            with os.scandir(entry.path) as entries:
                taken += sum(one.stat(follow_symlinks=False).st_blocks * 512 for one in entries)
        return taken
    return 0


def stored_images(directory: str) -> list[str]:
    """The names of the images in ``directory`` whose data is there.

    :raises NotFound: there is no such directory; :raises FileAccessFailed: it can't be read.
    """
    with _entries(directory) as entries:
        return [entry.name for entry in entries if _IMAGE.fullmatch(entry.name) and _has_data(entry)]


@contextlib.contextmanager
def _entries(directory: str) -> Iterator[Iterator[os.DirEntry[str]]]:
    with os_errors(f"read the directory {directory}"):
        try:
            entries = os.scandir(directory)
        except FileNotFoundError as error:
            raise NotFound(f"The directory {directory} could not be read: it does not exist.") from error
        with entries:
            yield entries


def _has_data(entry: os.DirEntry[str]) -> bool:
    """Costs a system call only for links, which images with qcow2 snapshots are."""
    if entry.is_symlink():
        return _data_file(entry.path) is not None
    return entry.is_file(follow_symlinks=False)


def _data_file(image: str) -> str | None:
    """The regular file that has an image's data: its own or, where it is a link, one of its snapshots; ``None`` when it is neither."""
    path = image
    with contextlib.suppress(OSError):
        if os.path.islink(image):
            directory, number = os.path.split(os.path.join(os.path.dirname(image), os.readlink(image)))
            own = f"{image}.snap"
            if _SNAPSHOT.fullmatch(number) is None or os.path.islink(own) or os.path.realpath(directory) != os.path.realpath(own):
                return None
            path = os.path.join(own, number)
        if stat.S_ISREG(os.lstat(path).st_mode):
            return path
    return None


__all__ = ["Inventory", "StoredFile", "StoredImage", "StoredSnapshot", "stored_images", "take_inventory"]
