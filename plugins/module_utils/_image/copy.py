# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Image data from one place to another: holes stay holes, and one read of the data feeds checksums and target
together.
"""

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
from .._core.throttle import throttle
from .image_file import SECTOR, disk_size
from .room import may_compress, require_room, reserve_of, space, stores_all

if TYPE_CHECKING:
    from hashlib import _Hash

#: ioctl_ficlone(2).
FICLONE = 0x40049409
#: What errors call the work, however the data gets into the image.
WRITING = "write an image"
#: Bytes that are read and written at once.
CHUNK = 2**20
#: Bytes after which what was written is sent to the disk.
STRIDE = 32 * CHUNK
#: Bytes: a hole begins and ends at a multiple of it, as the blocks of most file systems do.
BLOCK = 4096

_ZEROS = bytes(CHUNK)
_ZERO_BLOCK = bytes(BLOCK)
#: Bytes of a disk without data that qemu-img reads, or looks up in tables, in the time of one byte of data: it reads
#: all the zeros of a VHDX.
_EMPTY_RATIO = 1024
#: What says that two files can't share data, or that a file system doesn't do it at all (ioctl_ficlone(2),
#: copy_file_range(2)).
_CANT_SHARE = frozenset([errno.EINVAL, errno.ENOSYS, errno.ENOTTY, errno.EOPNOTSUPP, errno.EXDEV])
#: What may be chosen of a qcow2 file (qemu-img(1)). Others name files or keys.
_QCOW2_OPTIONS = "cluster_size|compat|compression_type|extended_l2|lazy_refcounts|nocow|preallocation|refcount_bits"


def copy_local(
    source_fd: int,
    target_fd: int,
    *,
    digests: Sequence[_Hash] = (),
    sparse: bool = True,
    bandwidth: int | None = None,
) -> None:
    """Fill the empty file ``target_fd`` with the file or block device ``source_fd``: sharing its data if the file
    system can, else reading it once.

    :arg sparse: ``False`` gives the holes storage too.
    :arg bandwidth: bytes a second, where data is really copied.
    :raises NoSpace, FileAccessFailed: a file operation failed; :raises StaleState: the source became shorter
        meanwhile.
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
    """Refuse a copy as :func:`copy_local` makes it that there is no room for, and return the bytes that the copy
    takes, 0 where that isn't known.

    :arg directory: descriptor of the directory that the copy is to be in.
    :raises NoSpace, FileAccessFailed: as :func:`copy_local`.
    """
    with os_errors(WRITING):
        size = length_of(source_fd)
        if sparse and not stores_all(source_fd, directory):
            return 0
        needed = _stored_size(source_fd, space(directory).free) if sparse else size
    require_room(directory, needed, WRITING)
    return needed


def _stored_size(descriptor: int, free: int) -> int:
    """Return the bytes of a file that a copy stores.

    Zeros between other data count as long as that makes no difference to what is free.
    """
    size = length_of(descriptor)
    stored = sum(end - start for start, end in extents(descriptor, size))
    if stored <= free:
        return stored
    return sum(end - start for piece in _in_pieces(_read(descriptor)) for start, end in _data(piece))


class StoredSize:
    """A counter of the bytes that :func:`write_stream`, which takes the same arguments, would store."""

    def __init__(self, *, limit: int, sparse: bool, path: str) -> None:
        self._limit, self._sparse, self._path = limit, sparse, path
        #: Bytes so far.
        self.stored = 0

    def count(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the same bytes.

        :raises NoSpace: as :func:`write_stream`. What ``chunks`` raises passes.
        """
        for piece in _in_pieces(chunks):
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
    """Fill the empty file ``target_fd`` with ``chunks`` of any length, and return how many bytes they were.

    :arg sparse: blocks of zeros become holes.
    :arg limit: upper bound of what is stored, in bytes, without the holes; ``path`` is where it comes from, for
        messages.
    :raises NoSpace, FileAccessFailed: a write failed, or it would be more than ``limit``. What ``chunks`` raises
        passes.
    """
    position = stored = 0
    for piece in _in_pieces(chunks):
        _feed(digests, [piece])
        with os_errors(WRITING):
            for start, end in _data(piece) if sparse else [(0, len(piece))]:
                stored += end - start
                if limit is not None and stored > limit:
                    raise _no_room(limit, path)
                _write(target_fd, memoryview(piece)[start:end], position + start)
            position += len(piece)
            if position % STRIDE == 0:
                _send(target_fd, position - STRIDE, STRIDE)
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
    """Write the image ``source`` into an existing file in another format, standing alone; formats by qemu's names.

    :arg source: as qemu-img takes it, made of the descriptors in ``reads``; these have the paths of the files, for
        messages. The first file's header tells the size of the disk.
    :arg target: descriptor of the file, and its ``path``, for messages.
    :arg data: upper bound in bytes of the data that the source has; the whole disk where that isn't known.
    :arg options: as :func:`creation_options` takes them.
    :arg sparse: ``False`` stores zeros too.
    :arg timeout: seconds at most.
    :raises CommandFailed: qemu-img is missing, failed, exceeded a limit, or wrote a disk of another size.
    :raises InvalidInput: the header of the source tells no size.
    :raises NoSpace: the file system of the target is about to be full; :raises FileAccessFailed: the target can't be
        read.
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
        arguments += ["-r", str(2 * before.reserve)]  # so that the reserve outlasts the time between two looks
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
            f"qemu-img made a disk of {stored} bytes of {names}, whose header says {size} bytes; nothing was stored."
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
    """Refuse a conversion as :func:`convert` makes it, whose arguments these are, that fails or that there is no
    room for.

    :arg directory: descriptor of the directory that the new file is to be in.
    :arg taken: bytes that are stored in the same file system before.
    :raises NoSpace, CommandFailed, UnsupportedAction: as :func:`convert`; :raises FileAccessFailed: the file system
        doesn't answer.
    """
    import json

    from .qemu_img import run_qemu_img

    # Of a raw image, qemu-img knows no holes. It also counts zeros that are stored as data, and blocks of which only
    # a part is data.
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
    """Refuse a conversion that would end for lack of space.

    :arg directory: descriptor of the directory that the new file is to be in.
    :arg needed: bytes of the new file, and ``taken`` what is stored in the same file system before.
    :arg names: paths of what is converted, for messages.
    :raises NoSpace: as :func:`convert`; :raises FileAccessFailed: the file system doesn't answer.
    """
    with os_errors("look at the file system to convert an image"):
        found = os.fstatvfs(directory)
        free = max(space(directory).free - taken, 0)
        is_known = found.f_blocks and not (sparse and may_compress(directory))
    if is_known and needed > free - reserve_of(found, free):
        raise _no_space_left(reserve_of(found, free), f"convert {names}")


def _check_space(target: int, reserve: int, doing: str) -> None:
    """Refuse to go on when a file system is nearly full.

    :raises NoSpace: the file system of ``target``, a descriptor, has no more than the reserve left.
    """
    if space(target).free < reserve:
        raise _no_space_left(reserve, doing)


def _no_space_left(reserve: int, doing: str) -> NoSpace:
    left = f"but {reserve >> 20} MiB, which a conversion leaves to other users"
    return NoSpace(f"Could not {doing}: {os.strerror(errno.ENOSPC)} {left}. Nothing was changed.")


def creation_options(options: str | None) -> list[str]:
    """Return QCOW2_OPTIONS (spec: onestor-datastore) as arguments of qemu-img, from ``name=value,...`` as its ``-o``
    takes them.

    :raises InvalidInput: something else, or an option that isn't about the qcow2 file itself, such as a backing
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
    """Copy by copy_file_range(2); return ``False`` when the kernel can't do that here, or when the file system hides
    where the holes are.
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
                _send(target_fd, position, copied)
                position += copied
    except OSError as error:
        if error.errno not in _CANT_SHARE:
            raise
        return False
    os.ftruncate(target_fd, size)
    return True


def extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield where there is data, as (start, end). A block device has no holes."""
    if size and is_block_device(descriptor):
        yield 0, size
        return
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # no data up to the end
                raise
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end


def _read(descriptor: int) -> Iterator[bytes]:
    """Yield the whole file; holes aren't read."""
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


def _in_pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in pieces of :data:`CHUNK`, the last one shorter."""
    rest = bytearray()
    for chunk in chunks:
        if not rest and len(chunk) == CHUNK:
            yield chunk
            continue
        rest += chunk
        while len(rest) >= CHUNK:
            yield bytes(rest[:CHUNK])
            del rest[:CHUNK]
    if rest:
        yield bytes(rest)


def _data(piece: bytes) -> Iterator[tuple[int, int]]:
    """Yield the runs of blocks that aren't all zeros, as (start, end)."""
    if piece == _ZEROS:
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


def _send(descriptor: int, position: int, length: int) -> None:
    """Begin to write it to the disk while the next is copied, so that fsync(2) has little left to do: it halves the
    time of a large image.

    Linux does that where pages that are no longer needed are dirty (mm/fadvise.c). The page cache isn't filled
    with the image, either.
    """
    os.posix_fadvise(descriptor, position, length, os.POSIX_FADV_DONTNEED)


def _feed(digests: Sequence[_Hash], chunks: Iterable[bytes]) -> None:
    for chunk in chunks:
        for digest in digests:
            digest.update(chunk)


__all__ = [
    "StoredSize",
    "convert",
    "copy_local",
    "creation_options",
    "extents",
    "foresee_conversion",
    "foresee_copy",
    "require_room_to_convert",
    "write_stream",
]
