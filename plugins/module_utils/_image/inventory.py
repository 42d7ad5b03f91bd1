# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""List the files in a datastore's directory.

The directory is untrusted: symbolic links that leave it are ignored, and only regular files are opened.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping

from .._core.directory import is_link_at, open_directory_at, opened_directory, opened_file_at
from .._core.errors import InvalidInput, NotFound, from_os_error, os_errors
from .._core.records import dataclass, replace
from .._core.temporary import is_held, is_part_name
from .image_file import HEAD_SIZE, virtual_size
from .layout import SNAPSHOTS, is_image_name, parse_name, snapshot_directory, snapshot_file, snapshot_number
from .magic import QEMU_FORMATS, sniff

#: Bytes that tell a format, and its size; only a VHDX has it further behind.
_HEAD = 512

#: Kinds of entries, by the meaning of their names.
_IMAGE, _BESIDE, _STALE, _IN_PROGRESS, _FOREIGN = range(5)

#: Bytes that are read at once.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class StoredSnapshot:
    """A snapshot. ``allocated`` is in bytes, as everywhere here: what the file takes on disk."""

    id: int
    allocated: int


@dataclass(frozen=True)
class StoredImage:
    """An image whose data is there. Whether its header is to be believed, only the catalog knows: whoever writes to
    a raw disk can write one there.

    :arg format: by its header; ``raw`` where it has none, ``None`` where it can't be read, as ``error`` says.
    :arg length: bytes of the file, which is what a guest sees of a raw image.
    :arg header_size: bytes that a guest sees of an image of this ``format``; ``None`` where ``error`` says why it
        isn't known.
    :arg allocated: without the snapshots.
    :arg modified: nanoseconds since 1970.
    :arg checksum: hexadecimal digest of the file, where it was asked for.
    :arg flaw: why it isn't whole if it is of this ``format``, where that was asked for.
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
    flaw: str | None = None

    def virtual_size(self, format: str) -> int | None:
        """Return the bytes that a guest sees if it is what the catalog says; ``None`` when it isn't, or its header
        can't be read.
        """
        if format == "raw":
            return self.length
        return self.header_size if format == self.format else None


@dataclass(frozen=True)
class StoredFile:
    """A file that is no image. A directory counts with the files in it."""

    path: str
    allocated: int


@dataclass(frozen=True)
class Inventory:
    """The files in a directory, by what they are.

    :arg orphaned: the directories of snapshots (else the checksum files) of images whose own file is missing, each
        together with the checksum file.
    :arg stale: temporary files that no running program holds.
    :arg in_progress: paths of temporary files that a program is creating or removing.
    :arg foreign: names of all other files, in which ``\\x`` and two digits stand for a byte that isn't UTF-8.
    """

    images: tuple[StoredImage, ...] = ()
    orphaned: tuple[StoredFile, ...] = ()
    stale: tuple[StoredFile, ...] = ()
    in_progress: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


def take_inventory(directory: str, checksums: Mapping[str, str], *, whole: bool = False) -> Iterator[Inventory | None]:
    """Yield the files in ``directory`` as the last item. The items before are ``None``: a sign that data is being
    read.

    :arg checksums: names of algorithms by the path of the image whose checksum is wanted; one that isn't there is
        left out.
    :arg whole: whether each image is compared with its own tables.
    :raises NotFound: there is no such directory; :raises PathNotAllowed: a link of another user leads to it.
    :raises FileAccessFailed: it, or data in it, can't be read.
    """
    with _opened(directory) as opened:
        found = _scan(opened, directory)
        images = []
        for image in found.images:
            if image.path in checksums:
                digest = hashlib.new(checksums[image.path], usedforsecurity=False)
                name = os.path.basename(image.path)
                with (
                    os_errors(f"read {image.path}"),
                    contextlib.suppress(FileNotFoundError),
                ):  # it has just been removed
                    for chunk in _chunks(opened, _data_file(opened, name) or name):
                        digest.update(chunk)
                        yield None
                    image = replace(image, checksum=digest.hexdigest())
            if whole:
                yield None
                image = replace(image, flaw=_damage(opened, directory, image))
            images.append(image)
    yield replace(found, images=tuple(images))


def _damage(opened: int, directory: str, image: StoredImage) -> str | None:
    from .checked_image import missing_end  # few actions need it

    name = os.path.basename(image.path)
    file = _data_file(opened, name) or name
    with contextlib.suppress(FileNotFoundError), _file(opened, file) as descriptor:
        return missing_end(descriptor, image.format or "raw", os.path.join(directory, file))
    return None


def _scan(opened: int, directory: str) -> Inventory:
    images: list[StoredImage] = []
    beside: dict[str, list[os.DirEntry[str]]] = {}
    stale: list[os.DirEntry[str]] = []
    in_progress: list[str] = []
    foreign: list[str] = []
    with os_errors(f"read the directory {directory}"):
        listed = {entry.name: entry for entry in _entries(opened)}
        for name, entry in sorted(listed.items()):
            kind = _kind(opened, entry)
            if kind == _IMAGE:
                snapshots = listed.get(snapshot_directory(name))
                has_snapshots = snapshots is not None and snapshots.is_dir(follow_symlinks=False)
                image = _image(opened, directory, entry, has_snapshots)
                images += [] if image is None else [image]
            elif kind == _BESIDE:
                beside.setdefault(os.path.splitext(name)[0], []).append(entry)
            elif kind == _STALE:
                stale.append(entry)
            elif kind == _IN_PROGRESS:
                in_progress.append(os.path.join(directory, name))
            else:
                foreign.append(os.fsencode(name).decode(errors="backslashreplace"))

        def stored(entries: list[os.DirEntry[str]]) -> StoredFile:
            return StoredFile(
                os.path.join(directory, entries[-1].name), sum(_allocated(opened, entry) for entry in entries)
            )

        whole = {os.path.basename(image.path) for image in images}
        return Inventory(
            tuple(images),
            tuple(stored(entries) for name, entries in beside.items() if name not in whole),
            tuple(stored([entry]) for entry in stale),
            tuple(in_progress),
            tuple(foreign),
        )


def _kind(opened: int, entry: os.DirEntry[str]) -> int:
    """Return what an entry is, by its name and its type."""
    if is_part_name(entry.name):
        is_locked = entry.is_file(follow_symlinks=False) and is_held(opened, entry.name)
        return _IN_PROGRESS if is_locked else _STALE
    found = parse_name(entry.name)
    if found is None:
        return _FOREIGN
    _image_name, end = found
    if not end:
        return _IMAGE if _has_data(opened, entry) else _FOREIGN
    is_expected = (entry.is_dir if end == SNAPSHOTS else entry.is_file)(follow_symlinks=False)
    return _BESIDE if is_expected else _FOREIGN


def _image(opened: int, directory: str, entry: os.DirEntry[str], has_snapshots: bool) -> StoredImage | None:
    """Return the image of an entry; ``None`` when it has just been removed."""
    name = entry.name
    try:
        active = _data_file(opened, name) if entry.is_symlink() else name
        files, shared = _snapshot_files(opened, name) if has_snapshots else ({}, False)
        if active == name and shared and files:
            active = files[max(files)]
        if active is None:
            return None
        sizes = {
            number: os.stat(file, dir_fd=opened, follow_symlinks=False).st_blocks * 512
            for number, file in sorted(files.items())
            if file != active
        }
        return _look(
            opened, directory, name, active, tuple(StoredSnapshot(number, size) for number, size in sizes.items())
        )
    except FileNotFoundError:
        return None


def _snapshot_files(opened: int, image: str) -> tuple[dict[int, str], bool]:
    """Return the file of each snapshot, of which one may be the image's own, and whether they are laid out for shared
    storage (see snapshots.py).
    """
    files: dict[int, str] = {}
    shared = False
    with _directory_at(opened, snapshot_directory(image)) as snapshots:
        for entry in _entries(snapshots):
            number = snapshot_number(entry.name)
            if entry.name == snapshot_directory(image):
                shared = entry.is_symlink()
            elif number is not None:
                if entry.is_file(follow_symlinks=False):
                    files[number] = snapshot_file(image, number)
                elif (
                    entry.is_symlink()
                    and not is_link_at(opened, image)
                    and _same(os.stat(entry.name, dir_fd=snapshots), opened, image)
                ):
                    files[number] = image
    return files, shared


def _same(status: os.stat_result, directory: int, name: str) -> bool:
    return os.path.samestat(status, os.stat(name, dir_fd=directory, follow_symlinks=False))


def _look(opened: int, directory: str, name: str, file: str, snapshots: tuple[StoredSnapshot, ...]) -> StoredImage:
    status = os.stat(file, dir_fd=opened, follow_symlinks=False)
    place = os.path.join(directory, file)
    image_format, size, error = None, None, None
    try:
        with _file(opened, file) as descriptor:
            status = os.fstat(descriptor)
            head = os.pread(descriptor, _HEAD, 0)
            found = sniff(head)
            if found == "vhdx":
                head = os.pread(descriptor, HEAD_SIZE, 0)
            image_format = found if found in QEMU_FORMATS else "raw"
            size = virtual_size(head, status.st_size, option="source", path=place)
    except FileNotFoundError:
        raise
    except OSError as refused:
        error = str(from_os_error(refused, f"read {place}"))
    except InvalidInput as refused:
        error = str(refused)
    path = os.path.join(directory, name)
    return StoredImage(
        path, image_format, status.st_size, size, status.st_blocks * 512, status.st_mtime_ns, snapshots, error
    )


@contextlib.contextmanager
def _file(opened: int, name: str) -> Iterator[int]:
    """Yield a descriptor of a file that was a regular one when it was listed.

    :arg name: of a file of the directory, or of one in a directory of snapshots, ``<image>.snap/<id>``.
    """
    with contextlib.ExitStack() as stack:
        directory, name = os.path.split(name)
        try:
            descriptor = stack.enter_context(
                opened_file_at(stack.enter_context(_directory_at(opened, directory)) if directory else opened, name)
            )
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise FileNotFoundError(name) from error
            raise
        yield descriptor


@contextlib.contextmanager
def _directory_at(opened: int, name: str) -> Iterator[int]:
    descriptor = open_directory_at(opened, name)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _chunks(opened: int, name: str) -> Iterator[bytes]:
    with _file(opened, name) as descriptor:
        chunk = os.read(descriptor, _CHUNK)
        while chunk:
            yield chunk
            chunk = os.read(descriptor, _CHUNK)


def _allocated(opened: int, entry: os.DirEntry[str]) -> int:
    """Return the bytes on disk of a file, or of a directory and the files in it; 0 when it has just been removed."""
    with contextlib.suppress(FileNotFoundError):
        taken = os.stat(entry.name, dir_fd=opened, follow_symlinks=False).st_blocks * 512
        if entry.is_dir(follow_symlinks=False):
            with _directory_at(opened, entry.name) as directory:
                names = [one.name for one in _entries(directory)]
                taken += sum(os.stat(name, dir_fd=directory, follow_symlinks=False).st_blocks * 512 for name in names)
        return taken
    return 0


def stored_images(directory: str) -> list[str]:
    """Return the names of the images in ``directory`` whose data is there.

    :raises NotFound, PathNotAllowed, FileAccessFailed: as :func:`take_inventory`.
    """
    with _opened(directory) as opened, os_errors(f"read the directory {directory}"):
        return [entry.name for entry in _entries(opened) if is_image_name(entry.name) and _has_data(opened, entry)]


@contextlib.contextmanager
def _opened(directory: str) -> Iterator[int]:
    with contextlib.ExitStack() as stack:
        with os_errors(f"read the directory {directory}"):
            try:
                found = stack.enter_context(opened_directory(directory, option="source"))
            except FileNotFoundError as error:
                raise NotFound(f"The directory {directory} could not be read: it does not exist.") from error
            opened = stack.enter_context(_directory_at(found, "."))
        yield opened


def _entries(opened: int) -> list[os.DirEntry[str]]:
    """Return the entries of an open directory.

    They look up links by name, so call their methods only with ``follow_symlinks=False``.
    """
    with os.scandir(opened) as entries:
        return list(entries)


def _has_data(opened: int, entry: os.DirEntry[str]) -> bool:
    """Return whether an image has data. Only links cost a system call, which images with qcow2 snapshots are."""
    if entry.is_symlink():
        return _data_file(opened, entry.name) is not None
    return entry.is_file(follow_symlinks=False)


def _data_file(opened: int, image: str) -> str | None:
    """Return the name of the regular file that has an image's data: its own or, where it is a link, one of its
    snapshots; ``None`` when it is neither.
    """
    name = image
    with contextlib.suppress(OSError):
        if is_link_at(opened, image):
            directory, file = os.path.split(os.readlink(image, dir_fd=opened))
            number, own = snapshot_number(file), snapshot_directory(image)
            if number is None or not _same(os.stat(directory or ".", dir_fd=opened), opened, own):
                return None
            name = snapshot_file(image, number)
        if stat.S_ISREG(os.stat(name, dir_fd=opened, follow_symlinks=False).st_mode):
            return name
    return None


__all__ = ["Inventory", "StoredFile", "StoredImage", "StoredSnapshot", "stored_images", "take_inventory"]
