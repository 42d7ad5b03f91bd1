# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Detect the format of an image file by its first bytes, its virtual size, and references to other files.

An image is hostile input. A small image can keep qemu-img busy for half a minute or take gigabytes of memory (bitmaps).
A header can name other files, whose content the guest would then read. So qemu gets the format from here and never
guesses. An image with references is refused before qemu opens the image. qemu-img runs under limits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Iterator

from .._core.block_device import length_of
from .._core.directory import descriptor_path, opened_directory, opened_file_at
from .._core.errors import InvalidInput, os_errors
from .._core.records import TYPE_CHECKING, dataclass
from .magic import QEMU_FORMATS, sniff

if TYPE_CHECKING:
    from typing import Any

    from .table_file import Read

#: Bytes at the beginning that contain the size of every format. A VHDX has its size behind its log and its block table.
HEAD_SIZE = 4 << 20
#: Upper bound of a virtual disk in bytes: the maximum of VHDX.
LARGEST = 64 << 40

#: Unit of the size of a disk in bytes, for qemu.
SECTOR = 512
#: Bytes that ``inspect`` reads. They contain every header with references.
_SNIFFED = 64 << 10


@dataclass(frozen=True)
class ImageFile:
    """An image file.

    :arg format: qemu's name of the format.
    :arg virtual_size: size of the disk in bytes.
    :arg allocated: storage of the file in bytes.
    """

    format: str
    virtual_size: int
    allocated: int


def virtual_size(head: bytes, length: int | None, *, option: str = "path", path: str = "image") -> int:
    """Return the size of the disk in bytes, from the first ``HEAD_SIZE`` bytes of an image.

    :arg length: bytes of the whole image, or ``None`` if that isn't known.

    :arg option: the option for errors, and ``path`` its value.
    :raises InvalidInput: ``head`` has no size, or an absurd one.
    """
    image_format = sniff(head)
    try:
        size = (
            _header_size(image_format, lambda offset, count: head[offset : offset + count])
            if image_format in QEMU_FORMATS
            else length
        )
    except (struct.error, ValueError) as error:
        raise InvalidInput(
            option,
            path,
            f"a whole image is expected, and the beginning of this {image_format} image doesn't have its size",
        ) from error
    if size is None:
        raise InvalidInput(
            option, path, "its size isn't known, because neither its beginning nor the server has the size"
        )
    return _require_sane_size(size, option, path)


def require_alone(head: bytes, length: int | None, *, path: str, option: str = "path") -> None:
    """Refuse an image if its beginning shows that it needs other files or is incomplete.

    :arg head: the first bytes of the image.
    :arg length: bytes of the whole image, or ``None`` to skip the check for completeness.
    :raises InvalidInput: see :func:`inspect`.
    """
    image_format, beginning = sniff(head), head[:_SNIFFED].ljust(_SNIFFED, b"\0")
    reason = _external_reference(image_format, beginning) or _missing_tables(image_format, beginning, length)
    if reason:
        raise _not_alone(option, path, image_format, reason)


def is_encrypted(head: bytes) -> bool:
    """Return whether qemu-img needs a key to read the image that begins with ``head``."""
    if sniff(head) != "qcow2":
        return False
    from .qcow2 import HEADER_SIZE, Qcow2Header

    return Qcow2Header.parse(head.ljust(HEADER_SIZE, b"\0")).is_encrypted


def disk_size(descriptor: int, image_format: str, path: str) -> int:
    """Return the size of the disk in an open image in bytes.

    :arg path: the path for errors.
    :raises InvalidInput: the header has no valid size.
    :raises FileAccessFailed: the file can't be read.
    """
    if image_format != "raw":
        return _require_sane_size(_read_size(descriptor, image_format, "image", path), "image", path)
    with os_errors(f"read {path}"):
        return os.fstat(descriptor).st_size


@contextlib.contextmanager
def opened_file(path: str) -> Iterator[int]:
    """Yield a descriptor for reading a regular file.

    :raises PathNotAllowed: a link of another user leads to the file's directory.
    :raises InvalidInput, FileAccessFailed: see :func:`opened_image_at`.
    """
    directory, name = os.path.split(path)
    with contextlib.ExitStack() as stack:
        with os_errors(f"read {path}"):
            opened = stack.enter_context(opened_directory(directory, option="image"))
        yield stack.enter_context(opened_image_at(opened, name, path))


@contextlib.contextmanager
def opened_image_at(directory: int, name: str, path: str) -> Iterator[int]:
    """Yield a descriptor for reading the regular file ``name`` of an open directory.

    :arg path: the path of the file, for messages.
    :raises InvalidInput: ``name`` isn't a regular file. Symbolic links are refused, too.
    :raises FileAccessFailed: the file can't be opened.
    """
    with contextlib.ExitStack() as stack:
        with os_errors(f"read {path}"):
            try:
                descriptor = stack.enter_context(opened_file_at(directory, name))
            except OSError as error:
                if error.errno == errno.EINVAL:
                    raise InvalidInput("image", path, "a regular file is expected") from error
                raise
        yield descriptor


def inspect(
    descriptor: int, *, path: str, option: str = "path", timeout: float = 60, is_cut: bool = False
) -> ImageFile:
    """Return the format and the size of an open regular file, or of a device with a raw disk. A compressed file or an
    archive counts as ``raw``.

    The result is valid as long as nobody writes to the file, so inspect a copy if another user may change the file.

    :arg path: the path for errors, and ``option`` the option with this value.
    :arg timeout: seconds for qemu-img.
    :arg is_cut: whether to accept tables behind the end of the file.
    :raises InvalidInput: qemu-img can't read the image within its limits, or the image needs other files.
    :raises FileAccessFailed: the file can't be read.
    :raises CommandFailed: qemu-img is missing, or ran longer than ``timeout``.
    """
    with os_errors(f"read {path}"):
        status = os.fstat(descriptor)
        head = os.pread(descriptor, _SNIFFED, 0)
        size = length_of(descriptor)
    image_format = sniff(head)
    if image_format in QEMU_FORMATS:
        beginning = head.ljust(_SNIFFED, b"\0")
        reason = (
            _external_reference(image_format, beginning)
            or _missing_tables(image_format, beginning, None if is_cut else size)
            or _missing_end(descriptor, image_format, path)
        )
        info = {} if reason else _run_info(descriptor, image_format, option, path, timeout)
        if reason or "backing-filename" in info:
            raise _not_alone(option, path, image_format, reason or "has a backing file")
        size = info["virtual-size"]
        told = _read_size(descriptor, image_format, option, path)
        if size != -(-told // SECTOR) * SECTOR:
            raise InvalidInput(
                option, path, f"its header says that the disk has {told} bytes, and qemu-img reads {size}"
            )
    else:
        image_format = "raw"
    return ImageFile(image_format, _require_sane_size(size, option, path), status.st_blocks * 512)


def qemu_name(descriptor: int, image_format: str, path: str) -> str:
    """Return the name of an open image without backing files for qemu-img, which selects the size that
    :func:`virtual_size` returns.

    :raises FileAccessFailed: the file can't be read.
    """
    if image_format != "vpc":
        return descriptor_path(descriptor)
    from .qemu_img import as_vhd
    from .vhd_tables import FOOTER, is_by_geometry

    with os_errors(f"read {path}"):
        return as_vhd(descriptor, by_geometry=is_by_geometry(os.pread(descriptor, FOOTER, 0).ljust(FOOTER, b"\0")))


def _not_alone(option: str, path: str, image_format: str, reason: str) -> InvalidInput:
    return InvalidInput(option, path, f"an image that stands alone is expected, and this {image_format} image {reason}")


def _require_sane_size(size: int, option: str, path: str) -> int:
    if size > LARGEST:
        raise InvalidInput(
            option, path, f"its virtual size is {size} bytes, and at most {LARGEST} (64 TiB) are accepted"
        )
    return size


def _external_reference(image_format: str, head: bytes) -> str | None:
    """Return the dependency of an image on another file, as a part of a sentence. Dependencies that qemu-img refuses
    itself are left out.
    """
    if image_format == "qcow2":
        from .qcow2 import Qcow2Header

        return Qcow2Header.parse(head).external_reference
    # A VMDK without this magic, or with a capacity of 0, consists of a descriptor that lists other files (VMware's
    # Virtual Disk Format 5.0).
    if image_format == "vmdk" and (not head.startswith(b"KDMV") or not any(head[12:20])):
        return "is a descriptor of other files"
    if image_format == "vpc" and head[60:64] == b"\0\0\0\4":
        return "holds the differences to another image"
    return None


def _missing_tables(image_format: str, head: bytes, length: int | None) -> str | None:
    """Return the reason why an image is incomplete, or ``None`` if it may be complete, also if its ``length`` isn't
    known.
    """
    if image_format != "qcow2" or length is None:
        return None
    from .qcow2 import Qcow2Header

    # qemu reads zeros behind the end of a file.
    return "is not whole: its tables lie behind its end" if Qcow2Header.parse(head).tables_end > length else None


def _missing_end(descriptor: int, image_format: str, path: str) -> str | None:
    """Return the reason why a file without its end can't be read."""
    if image_format != "vmdk":
        return None
    from .table_file import TableFile
    from .vmdk_tables import has_footer

    with os_errors(f"read {path}"):
        return None if has_footer(TableFile(descriptor)) else "is not whole: the header at its end is missing"


def _run_info(descriptor: int, image_format: str, option: str, path: str, timeout: float) -> dict[str, Any]:
    """Return the output of ``qemu-img info``. The command doesn't open backing files."""
    import json

    from .qemu_img import describe_failure, limits_for, run_qemu_img

    # -U allows images that a guest uses.
    command = ["info", "-U", "--output=json", "-f", image_format, qemu_name(descriptor, image_format, path)]
    done = run_qemu_img(*command, reads={descriptor: path}, data=0, timeout=timeout, accept=None)
    if done.returncode:
        raise InvalidInput(
            option,
            path,
            f"a {image_format} image that qemu-img reads in {limits_for(0)} is expected ({describe_failure(done)})",
        )
    info: dict[str, Any] = json.loads(done.stdout)
    return info


def _read_size(descriptor: int, image_format: str, option: str, path: str) -> int:
    """Return the virtual size in the header of an open file in bytes."""

    def read(offset: int, size: int) -> bytes:
        return os.pread(descriptor, size, offset)

    with os_errors(f"read {path}"):
        try:
            return _header_size(image_format, read)
        except (OverflowError, struct.error, ValueError) as error:
            raise InvalidInput(option, path, f"a {image_format} image with a size in its header is expected") from error


def _header_size(image_format: str, read: Read) -> int:
    """Return the virtual size in a header in bytes.

    :raises struct.error, ValueError: the header is too short, or its offsets lead nowhere.
    """
    head = read(0, SECTOR)
    if image_format == "qcow2":
        from .qcow2 import Qcow2Header

        return Qcow2Header.parse(head).virtual_size
    if image_format == "vdi":
        return int(struct.unpack_from("<Q", head, 368)[0])
    if image_format == "vhdx":
        from .vhdx_tables import vhdx_size

        return vhdx_size(read)
    if image_format == "vpc":
        from .vhd_tables import vhd_size

        return vhd_size(head)
    capacity: int = struct.unpack_from("<Q", head, 12)[0] if head.startswith(b"KDMV") else 0
    if not capacity:
        raise ValueError("a descriptor of other files")
    return 512 * capacity


__all__ = [
    "HEAD_SIZE",
    "SECTOR",
    "ImageFile",
    "disk_size",
    "inspect",
    "is_encrypted",
    "opened_file",
    "opened_image_at",
    "qemu_name",
    "require_alone",
    "virtual_size",
]
