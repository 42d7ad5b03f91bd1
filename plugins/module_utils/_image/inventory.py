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

#: Bytes at the beginning that contain the format and the size, except for a VHDX.
_HEAD = 512

#: Kinds of directory entries.
_IMAGE, _BESIDE, _STALE, _IN_PROGRESS, _FOREIGN = range(5)

#: Size of one read in bytes.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class StoredSnapshot:
    """A snapshot.

    :arg allocated: storage of the file in bytes, as everywhere in this module.
    """

    id: int
    allocated: int


@dataclass(frozen=True)
class StoredImage:
    """An image with data. Its header is untrusted, because a guest can write any header to a raw disk. Only the catalog
    has the true format.

    :arg format: the format in the header, ``raw`` without a header, or ``None`` if the header can't be read (see
        ``error``).
    :arg length: bytes of the file, the virtual size of a raw image.
    :arg header_size: virtual size in bytes of an image of this ``format``, or ``None`` if the size isn't known (see
        ``error``).
    :arg allocated: storage in bytes, without the snapshots.
    :arg modified: nanoseconds since 1970.
    :arg checksum: hexadecimal digest of the file, if requested.
    :arg flaw: the reason why an image of this ``format`` is incomplete, if the check was requested.
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
        """Return the virtual size in bytes if the image has the format of the catalog, or ``None`` if it has another
        format or its header can't be read.
        """
        if format == "raw":
            return self.length
        return self.header_size if format == self.format else None


@dataclass(frozen=True)
class StoredFile:
    """A file that is no image. The size of a directory includes its files."""

    path: str
    allocated: int


@dataclass(frozen=True)
class Inventory:
    """The files in a directory, by kind.

    :arg orphaned: the directories of snapshots of images whose own file is missing, together with the checksum file.
        Without such a directory, the checksum file alone.
    :arg stale: temporary files that no running program holds.
    :arg in_progress: paths of temporary files that a program is creating or removing.
    :arg foreign: names of all other files. ``\\x`` and two digits stand for a byte that isn't UTF-8.
    """

    images: tuple[StoredImage, ...] = ()
    orphaned: tuple[StoredFile, ...] = ()
    stale: tuple[StoredFile, ...] = ()
    in_progress: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


def take_inventory(directory: str, checksums: Mapping[str, str], *, whole: bool = False) -> Iterator[Inventory | None]:
    """Yield the files in ``directory`` as the last item. Earlier items are ``None`` and show progress, because reading
    data takes long.

    :arg checksums: for each image that needs a checksum, the name of the algorithm by the image's path. Missing images
        are left out.
    :arg whole: whether each image is compared with its own tables.
    :raises NotFound: there is no such directory.
    :raises PathNotAllowed: a link of another user leads to the directory.
    :raises FileAccessFailed: the directory, or data in the directory, can't be read.
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
                ):  # the image has just been removed
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
    from .checked_image import missing_end  # few actions need this module

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

        def as_stored_file(entries: list[os.DirEntry[str]]) -> StoredFile:
            return StoredFile(
                os.path.join(directory, entries[-1].name), sum(_allocated(opened, entry) for entry in entries)
            )

        whole = {os.path.basename(image.path) for image in images}
        return Inventory(
            tuple(images),
            tuple(as_stored_file(entries) for name, entries in beside.items() if name not in whole),
            tuple(as_stored_file([entry]) for entry in stale),
            tuple(in_progress),
            tuple(foreign),
        )


def _kind(opened: int, entry: os.DirEntry[str]) -> int:
    """Return the kind of an entry, by its name and its type."""
    if is_part_name(entry.name):
        if entry.is_dir(follow_symlinks=False):
            from .._core.part_directory import is_directory_held

            is_locked = is_directory_held(opened, entry.name)
        else:
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
    """Return the image of an entry, or ``None`` if the image has just been removed."""
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
    """Return the file of each snapshot, and whether the snapshots have the layout for shared storage (see
    snapshots.py). One of the files may be the image's own.
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
    """Yield a descriptor of a file that was a regular file when the directory was listed.

    :arg name: the name of the file in the directory, or ``<image>.snap/<id>``.
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
    """Return the storage in bytes of a file, or of a directory and its files. Return 0 if the entry has just been
    removed.
    """
    with contextlib.suppress(FileNotFoundError):
        taken = os.stat(entry.name, dir_fd=opened, follow_symlinks=False).st_blocks * 512
        if entry.is_dir(follow_symlinks=False):
            with _directory_at(opened, entry.name) as directory:
                names = [one.name for one in _entries(directory)]
                taken += sum(os.stat(name, dir_fd=directory, follow_symlinks=False).st_blocks * 512 for name in names)
        return taken
    return 0


def stored_images(directory: str) -> list[str]:
    """Return the names of the images in ``directory`` that have data.

    :raises NotFound, PathNotAllowed, FileAccessFailed: see :func:`take_inventory`.
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

    The methods of an entry follow links by name. Call them only with ``follow_symlinks=False``.
    """
    with os.scandir(opened) as entries:
        return list(entries)


def _has_data(opened: int, entry: os.DirEntry[str]) -> bool:
    """Return whether an image has data. Only links, used by images with qcow2 snapshots, need a system call."""
    if entry.is_symlink():
        return _data_file(opened, entry.name) is not None
    return entry.is_file(follow_symlinks=False)


def _data_file(opened: int, image: str) -> str | None:
    """Return the name of the regular file with an image's data, or ``None`` without such a file. The name of an image
    can be a link to a snapshot.
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
