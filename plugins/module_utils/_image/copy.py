# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copies of image data. Holes stay holes, and the data is read once for both checksums and target."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from .._core.block_device import is_block_device, length_of
from .._core.directory import descriptor_path
from .._core.errors import CommandFailed, InvalidInput, NoSpace, StaleState, os_errors
from .._core.records import TYPE_CHECKING
from .._core.sparse import extents, start_write_out
from .._core.throttle import throttle
from .image_file import SECTOR, disk_size
from .room import may_compress, require_room, reserve_of, space, stores_all

if TYPE_CHECKING:
    from hashlib import _Hash

#: ioctl_ficlone(2).
FICLONE = 0x40049409
#: The work in errors, for every way to copy.
WRITING = "write an image"
#: Size of one read of a file in bytes.
CHUNK = 2**20
#: Size of one write of a stream in bytes. For larger pieces, the C library takes new memory from the kernel each time,
#: which takes longer than the write.
PIECE = 2**18
#: Interval in bytes after which written data is sent to the disk.
STRIDE = 32 * CHUNK
#: Alignment of holes in bytes: the block size of most file systems.
BLOCK = 4096

_ZEROS = bytes(CHUNK)
_ZERO_BLOCK = bytes(BLOCK)
#: Bytes of zeros that qemu-img reads, or looks up in tables, in the time for one byte of data. qemu-img reads all the
#: zeros of a VHDX.
_EMPTY_RATIO = 1024
#: Errors if two files can't share data, or if the file system never shares data (ioctl_ficlone(2), copy_file_range(2)).
_CANT_SHARE = frozenset([errno.EINVAL, errno.ENOSYS, errno.ENOTTY, errno.EOPNOTSUPP, errno.EXDEV])
#: Names of allowed options for qcow2 files (qemu-img(1)). Other options name files or keys.
_QCOW2_OPTIONS = "cluster_size|compat|compression_type|extended_l2|lazy_refcounts|nocow|preallocation|refcount_bits"


def copy_local(
    source_fd: int,
    target_fd: int,
    *,
    digests: Sequence[_Hash] = (),
    sparse: bool = True,
    bandwidth: int | None = None,
) -> None:
    """Fill the empty file ``target_fd`` with the file or block device ``source_fd``. Share the data if the file system
    can, else read the data once.

    :arg sparse: ``False`` allocates storage for holes, too.
    :arg bandwidth: upper bound in bytes a second if data is copied.
    :raises NoSpace, FileAccessFailed: a file operation failed.
    :raises StaleState: the source became shorter meanwhile.
    """
    with os_errors(WRITING):
        if _clone(source_fd, target_fd):
            if digests:
                _feed(digests, _read(target_fd))
        elif digests or bandwidth or is_block_device(source_fd) or not _copy_extents(source_fd, target_fd):
            write_stream(throttle(_read(source_fd), bandwidth), target_fd, digests=digests)
        size = os.fstat(target_fd).st_size
        if not sparse and size:
            os.posix_fallocate(target_fd, 0, size)


def foresee_copy(source_fd: int, directory: int, *, sparse: bool = True) -> int:
    """Refuse a :func:`copy_local` without enough space. Return the bytes that the copy takes, or 0 if that isn't known.

    :arg directory: descriptor of the target directory.
    :raises NoSpace, FileAccessFailed: see :func:`copy_local`.
    """
    with os_errors(WRITING):
        size = length_of(source_fd)
        if sparse and not stores_all(source_fd, directory):
            return 0
        needed = _stored_size(source_fd, space(directory).free) if sparse else size
    require_room(directory, needed, WRITING)
    return needed


def _stored_size(descriptor: int, free: int) -> int:
    """Return the bytes that a copy of a file stores.

    Stored zeros are counted, too, if the sum fits into the ``free`` bytes. Otherwise the data is read, and zeros are
    left out.
    """
    size = length_of(descriptor)
    stored = sum(end - start for start, end in extents(descriptor, size))
    if stored <= free:
        return stored
    return sum(end - start for piece in _split(_read(descriptor)) for start, end in _data(piece))


class StoredSize:
    """A counter of the bytes that :func:`write_stream` would store. The arguments are the same."""

    def __init__(self, *, limit: int, sparse: bool, path: str) -> None:
        self._limit, self._sparse, self._path = limit, sparse, path
        #: Number of bytes so far.
        self.stored = 0

    def count(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the same bytes.

        :raises NoSpace: see :func:`write_stream`. Errors of ``chunks`` pass, too.
        """
        for piece in _split(chunks):
            self.stored += sum(end - start for start, end in _data(piece)) if self._sparse else len(piece)
            if self.stored > self._limit:
                raise _no_room(self._limit, self._path)
            yield piece


def write_stream(
    chunks: Iterable[bytes],
    target_fd: int,
    *,
    digests: Sequence[_Hash] = (),
    sparse: bool = True,
    limit: int | None = None,
    path: str = "an image",
) -> int:
    """Fill the empty file ``target_fd`` with ``chunks`` of any length, and return the number of bytes.

    :arg sparse: whether blocks of zeros become holes.
    :arg limit: upper bound of the stored data in bytes, without holes.
    :arg path: the source of the data, for messages.
    :raises NoSpace, FileAccessFailed: a write failed, or the data exceeds ``limit``. Errors of ``chunks`` pass, too.
    """
    position = stored = written_out = 0
    for piece in _split(chunks):
        _feed(digests, [piece])
        with os_errors(WRITING):
            for start, end in _data(piece) if sparse else [(0, len(piece))]:
                stored += end - start
                if limit is not None and stored > limit:
                    raise _no_room(limit, path)
                _write(target_fd, memoryview(piece)[start:end], position + start)
            position += len(piece)
            if position - written_out >= STRIDE:
                start_write_out(target_fd, written_out, position - written_out)
                written_out = position
    with os_errors(WRITING):
        os.ftruncate(target_fd, position)
    return position


def _no_room(limit: int, path: str) -> NoSpace:
    return NoSpace(
        f"Could not store {path}: it has more data than the {limit} bytes that there is room for. Nothing was changed."
    )


def convert(
    source: str,
    source_format: str,
    target: int,
    target_format: str,
    *,
    data: int | None = None,
    reads: Mapping[int, str],
    path: str = "the new image",
    options: str | None = None,
    sparse: bool = True,
    timeout: float,
) -> None:
    """Convert the image ``source`` to another format, and write the result, without a backing file, to an existing
    file. Formats have qemu's names.

    :arg source: the name for qemu-img, made of the descriptors in ``reads``.
    :arg reads: the paths of the files by descriptor, for messages. The header of the first file has the size of the
        disk.
    :arg target: descriptor of the new file.
    :arg path: the path of the new file, for messages.
    :arg data: upper bound of the source's data in bytes. ``None`` stands for the size of the disk.
    :arg options: see :func:`creation_options`.
    :arg sparse: ``False`` stores zeros, too.
    :arg timeout: upper bound in seconds.
    :raises CommandFailed: qemu-img is missing, failed, exceeded a limit, or wrote a disk of another size.
    :raises InvalidInput: the header of the source has no valid size.
    :raises NoSpace: the file system of the target is nearly full.
    :raises FileAccessFailed: the target can't be read.
    :raises UnsupportedAction: the kernel can't confine qemu-img to the files.
    """
    from .qemu_img import run_qemu_img

    size = disk_size(next(iter(reads)), source_format, next(iter(reads.values())))
    if data is None or not sparse or "preallocation" in (options or ""):
        data = size
    names = ", ".join(reads.values())
    arguments = [
        "convert",
        "-f",
        source_format,
        "-O",
        target_format,
        "-S",
        "4k" if sparse else "0",
        *creation_options(options),
    ]
    before = space(target)
    if before.reserve and data > before.free - before.reserve:
        arguments += ["-r", str(2 * before.reserve)]  # the rate lets the reserve outlast the time between two checks
    arguments += ["--", source, descriptor_path(target)]
    watch = functools.partial(_check_space, target, before.reserve, f"convert {names}")
    run_qemu_img(
        *arguments, reads=reads, writes={target: path}, data=data + size // _EMPTY_RATIO, timeout=timeout, watch=watch
    )
    with (
        os_errors(f"read {path}"),
        open(descriptor_path(target), "rb", buffering=0) as written,
    ):  # the descriptor may be for writing only
        stored = disk_size(written.fileno(), target_format, path)
    if stored != -(-size // SECTOR) * SECTOR:
        raise CommandFailed(
            f"qemu-img made a disk of {stored} bytes of {names}, whose header has {size} bytes; nothing was stored."
        )


def foresee_conversion(
    source: str,
    source_format: str,
    directory: int,
    target_format: str,
    *,
    reads: Mapping[int, str],
    options: str | None = None,
    sparse: bool = True,
    taken: int = 0,
    timeout: float,
) -> None:
    """Refuse a :func:`convert` with the same arguments that would fail or lack space.

    :arg directory: descriptor of the target directory.
    :arg taken: bytes that are stored in the same file system before.
    :raises NoSpace, CommandFailed, UnsupportedAction: see :func:`convert`.
    :raises FileAccessFailed: the file system can't be read.
    """
    import json

    from .qemu_img import run_qemu_img

    # For a raw image, qemu-img ignores holes. For other formats, it counts stored zeros as data, and blocks that are
    # only partly data.
    arguments = ["measure", "--output=json", "-f", source_format, "-O", "qcow2"]
    arguments += creation_options(options if target_format == "qcow2" else None)
    size = disk_size(next(iter(reads)), source_format, next(iter(reads.values())))
    measured = json.loads(
        run_qemu_img(*arguments, source, reads=reads, data=size // _EMPTY_RATIO, timeout=timeout).stdout
    )
    needed = measured["required" if sparse else "fully-allocated"]
    if sparse and source_format == "raw":
        with os_errors("read an image"):
            needed = min(needed, _stored_size(next(iter(reads)), space(directory).free - taken))
    require_room_to_convert(directory, needed, taken=taken, names=", ".join(reads.values()), sparse=sparse)


def require_room_to_convert(directory: int, needed: int, *, taken: int, names: str, sparse: bool = True) -> None:
    """Refuse a conversion that would fail for lack of space.

    :arg directory: descriptor of the target directory.
    :arg needed: bytes of the new file.
    :arg taken: bytes that are stored in the same file system before.
    :arg names: paths of the source, for messages.
    :raises NoSpace: see :func:`convert`.
    :raises FileAccessFailed: the file system can't be read.
    """
    with os_errors("look at the file system to convert an image"):
        found = os.fstatvfs(directory)
        free = max(space(directory).free - taken, 0)
        is_known = found.f_blocks and not (sparse and may_compress(directory))
    if is_known and needed > free - reserve_of(found, free):
        raise _no_space_left(reserve_of(found, free), f"convert {names}")


def _check_space(target: int, reserve: int, doing: str) -> None:
    """Refuse to continue on a file system that is nearly full.

    :raises NoSpace: only the reserve is left in the file system of the descriptor ``target``.
    """
    if space(target).free < reserve:
        raise _no_space_left(reserve, doing)


def _no_space_left(reserve: int, doing: str) -> NoSpace:
    left = f"but {reserve >> 20} MiB, which a conversion leaves to other users"
    return NoSpace(f"Could not {doing}: {os.strerror(errno.ENOSPC)} {left}. Nothing was changed.")


def creation_options(options: str | None) -> list[str]:
    """Return QCOW2_OPTIONS (spec: onestor-datastore) as arguments of qemu-img. The syntax is ``name=value,...`` of
    qemu-img's ``-o``.

    :raises InvalidInput: another syntax, or an option that names something outside the qcow2 file, such as a backing
        file.
    """
    if not options:
        return []
    import re

    if re.fullmatch(rf"({_QCOW2_OPTIONS})=[A-Za-z0-9.]+(,({_QCOW2_OPTIONS})=[A-Za-z0-9.]+)*", options) is None:
        raise InvalidInput(
            "qcow2_options",
            options,
            f"name=value[,name=value...] is expected, with names of {_QCOW2_OPTIONS.replace('|', ', ')}",
        )
    return ["-o", options]


def _clone(source_fd: int, target_fd: int) -> bool:
    try:
        fcntl.ioctl(target_fd, FICLONE, source_fd)
    except OSError as error:
        if error.errno not in _CANT_SHARE:
            raise
        return False
    return True


def _copy_extents(source_fd: int, target_fd: int) -> bool:
    """Copy with copy_file_range(2). Return ``False`` if the kernel can't copy here, or if the file system hides the
    holes.
    """
    found = os.fstat(source_fd)
    size = found.st_size
    found_extents = list(extents(source_fd, size))
    if found_extents == [(0, size)] and found.st_blocks * 512 < size:
        return False
    try:
        for start, end in found_extents:
            position = start
            while position < end:
                copied = os.copy_file_range(source_fd, target_fd, min(STRIDE, end - position), position, position)
                if not copied:
                    return False
                start_write_out(target_fd, position, copied)
                position += copied
    except OSError as error:
        if error.errno not in _CANT_SHARE:
            raise
        return False
    os.ftruncate(target_fd, size)
    return True


def _read(descriptor: int) -> Iterator[bytes]:
    """Yield the whole file without reading holes."""
    size = length_of(descriptor)
    position = 0
    for start, end in [*extents(descriptor, size), (size, size)]:
        while position < start:
            yield _ZEROS[: start - position]
            position += min(CHUNK, start - position)
        while position < end:
            chunk = os.pread(descriptor, min(CHUNK, end - position), position)
            if not chunk:
                raise StaleState(
                    "The file that an image is copied from became shorter meanwhile; copy it when nothing writes to it."
                )
            yield chunk
            position += len(chunk)


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in pieces of whole blocks. The last piece may be shorter."""
    waiting: list[bytes] = []
    length = 0
    for chunk in chunks:
        if not waiting and len(chunk) >= PIECE and len(chunk) % BLOCK == 0:
            yield chunk
            continue
        while length + len(chunk) >= PIECE:
            taken = PIECE - length
            waiting.append(chunk[:taken])
            yield b"".join(waiting)
            waiting, length, chunk = [], 0, chunk[taken:]
        if chunk:
            waiting.append(chunk)
            length += len(chunk)
    if waiting:
        yield b"".join(waiting)


def _data(piece: bytes) -> Iterator[tuple[int, int]]:
    """Yield the runs of blocks that aren't all zeros, as (start, end)."""
    if _ZEROS.startswith(piece):
        return
    start = None
    for position in range(0, len(piece), BLOCK):
        zero = _ZERO_BLOCK.startswith(piece[position : position + BLOCK])
        if zero and start is not None:
            yield start, position
            start = None
        elif not zero and start is None:
            start = position
    if start is not None:
        yield start, len(piece)


def _write(descriptor: int, data: memoryview, position: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, position)
        data, position = data[written:], position + written


def _feed(digests: Sequence[_Hash], chunks: Iterable[bytes]) -> None:
    for chunk in chunks:
        for digest in digests:
            digest.update(chunk)


__all__ = [
    "StoredSize",
    "convert",
    "copy_local",
    "creation_options",
    "foresee_conversion",
    "foresee_copy",
    "require_room_to_convert",
    "write_stream",
]
