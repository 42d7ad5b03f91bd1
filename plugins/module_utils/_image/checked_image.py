# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks of an image before it is stored: its format, its completeness by its own tables, and the amount of its data.

qemu-img reads zeros behind the end of a file, so half a file looks like a whole image. A hostile image can refer to the
same block a million times.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence

from .._core.block_device import length_of
from .._core.directory import descriptor_path
from .._core.errors import CommandFailed, InvalidInput, os_errors
from .._core.records import dataclass, field
from .._core.words import MODULE, Words
from .image_file import inspect
from .magic import ENOUGH, QEMU_FORMATS, sniff
from .table_file import Allocation, Read, TableFile

#: Upper bound of the memory that qemu-img check needs for its reference counts, in bytes. A larger check is left out,
#: because it is expensive.
_CHECK_MEMORY = 128 << 20
#: Upper bound of the time of qemu-img check in seconds, for images of any size.
_CHECK_TIMEOUT = 86400
#: Exit codes of qemu-img check: sound, damaged, with unused clusters.
_CHECKED = (0, 2, 3)


@dataclass
class CheckedImage:
    """An image whose format and tables were checked.

    :arg format: qemu's name of the format. A fixed VHD is a raw disk without its footer.
    :arg virtual_size: size of the disk in bytes.
    :arg data: upper bound of the data that a conversion reads, in bytes.
    """

    format: str
    virtual_size: int
    data: int
    #: Number of internal snapshots.
    snapshots: int = 0
    #: Whether qemu-img needs a key to read the image.
    is_encrypted: bool = False
    #: Damages of the image, as parts of sentences.
    flaws: list[str] = field(default_factory=list)

    @property
    def has_snapshots_to_leave_out(self) -> bool:
        """Return whether a conversion leaves out snapshots. This requires that qemu-img can read the content."""
        return self.snapshots > 0 and not self.is_encrypted


def check_image(
    descriptor: int,
    *,
    path: str,
    image_format: str | None = None,
    verify: bool | None = True,
    option: str = "path",
    timeout: float = 60,
    words: Words = MODULE,
) -> tuple[CheckedImage, tuple[str, ...]]:
    """Check an open regular file, or a device with a raw disk. Return the image and warnings. The result is valid as
    long as nobody writes to the file.

    :arg path: the path for errors, and ``option`` the option with this value.
    :arg image_format: the format, regardless of the content. ``None`` detects the format.
    :arg verify: whether an incomplete or damaged image is refused. ``False`` returns warnings. ``None`` skips the
        checks, for an image of a datastore.
    :arg timeout: seconds for qemu-img to read the header.
    :arg words: names of the user's options for errors.
    :raises InvalidInput: the image can't be stored, is incomplete, or has tables that refer to the same blocks several
        times.
    :raises FileAccessFailed: the file can't be read.
    :raises CommandFailed: qemu-img is missing, or ran too long.
    """
    if image_format == "raw":
        with os_errors(f"read {path}"):
            length = length_of(descriptor)
            image = CheckedImage("raw", length, length)
    else:
        found = inspect(descriptor, path=path, option=option, timeout=timeout, is_cut=not verify)
        if image_format not in (None, found.format):
            raise InvalidInput("format", image_format, f"{path} is {found.format}")
        image = CheckedImage(found.format, found.virtual_size, found.virtual_size)
    with os_errors(f"read {path}"):
        file = TableFile(descriptor)
        if image.format != "raw":
            _check_tables(image, file, path, option)
        else:
            if image_format is None and verify is not None:
                image.virtual_size = _without_footer(file)
            if verify is not None:
                image.flaws += _raw_flaws(file.read, image.virtual_size)
    if verify is not None and image.format == "qcow2" and not image.flaws:
        _check_qcow2(image, file, path)
    warnings = [] if verify is None else _judge(image.flaws, path, option, verify=verify, words=words)
    if image.has_snapshots_to_leave_out:
        warnings.append(f"{path} has {image.snapshots} internal snapshots, which are left out.")
    return image, tuple(warnings)


def check_beginning(
    head: bytes, length: int, *, path: str, verify: bool, words: Words = MODULE, option: str = "path"
) -> list[str]:
    """Return warnings about a raw disk of which only the beginning is known. Errors and further arguments are those of
    :func:`check_image`.

    :arg head: the first bytes of the disk.
    :arg length: bytes of the whole disk.
    """
    flaws = _raw_flaws(lambda offset, size: head[offset : offset + size].ljust(size, b"\0"), length)
    return _judge(flaws, path, option, verify=verify, words=words)


def missing_ends(files: Mapping[int, str], image_format: str | None) -> str | None:
    """Return the reason why a file of an image is incomplete, as a part of a sentence, or ``None`` if all files are
    complete. See :func:`missing_end`.

    :arg files: the paths of the files by descriptor.
    :arg image_format: the format of the files. ``None`` detects the format of each file.
    """
    for descriptor, path in files.items():
        with os_errors(f"read {path}"):
            head = os.pread(descriptor, ENOUGH, 0)
        damage = missing_end(descriptor, image_format or sniff(head), path)
        if damage:
            return damage
    return None


def missing_end(descriptor: int, image_format: str, path: str) -> str | None:
    """Return the reason why an image of a datastore is incomplete by its own tables, as a part of a sentence, or
    ``None`` if the image is complete.

    Backing files aren't checked, and neither are raw disks, because a guest controls the content of a raw disk.

    :raises FileAccessFailed: the image can't be read.
    """
    if image_format not in QEMU_FORMATS:
        return None
    image = CheckedImage(image_format, 0, 0)
    try:
        with os_errors(f"read {path}"):
            _check_tables(image, TableFile(descriptor), path, "image")
    except InvalidInput as error:
        return error.accepted
    return image.flaws[0] if image.flaws else None


def _check_tables(image: CheckedImage, file: TableFile, path: str, option: str) -> None:
    try:
        found = _allocation(image, file)
    except (ArithmeticError, MemoryError, ValueError, struct.error) as error:
        raise InvalidInput(option, path, f"the tables of this {image.format} image lead nowhere") from error
    if found.is_shared():
        raise InvalidInput(
            option, path, f"the tables of this {image.format} image refer to the same blocks several times"
        )
    image.data = min(found.data, image.virtual_size)
    if found.end > file.length:
        image.flaws.append(
            f"by the tables of this {image.format} image the file has {found.end} bytes at least, of which "
            f"{file.length} are there"
        )


def _allocation(image: CheckedImage, file: TableFile) -> Allocation:
    if image.format == "qcow2":
        from .qcow2 import HEADER_SIZE, Qcow2Header
        from .qcow2_tables import qcow2_allocation

        header = Qcow2Header.parse(file.read(0, HEADER_SIZE))
        image.snapshots, image.is_encrypted = header.snapshots, header.is_encrypted
        return qcow2_allocation(file, header)
    if image.format == "vmdk":
        from .vmdk_tables import vmdk_allocation as allocation
    elif image.format == "vdi":
        from .vdi_tables import vdi_allocation as allocation
    elif image.format == "vhdx":
        from .vhdx_tables import vhdx_allocation as allocation
    else:
        from .vhd_tables import vhd_allocation as allocation
    return allocation(file)


def _without_footer(file: TableFile) -> int:
    """Return the bytes of a raw disk: the length of the file, without the footer of a fixed VHD."""
    from .vhd_tables import FOOTER, fixed_vhd_size

    if file.length < FOOTER:
        return file.length
    return fixed_vhd_size(file.read(file.length - FOOTER, FOOTER), file.length) or file.length


def _judge(flaws: Sequence[str], path: str, option: str, *, verify: bool, words: Words) -> list[str]:
    """Return warnings about accepted damages.

    :raises InvalidInput: a damage isn't accepted.
    """
    if flaws and verify:
        raise InvalidInput(
            option, path, f"a whole, sound image is expected, and {flaws[0]}; {words.unverified} stores it nevertheless"
        )
    return [f"{path} is stored because {words.is_unverified}, but {flaw}." for flaw in flaws]


def _raw_flaws(read: Read, size: int) -> list[str]:
    from .raw_tables import own_sizes

    return [
        f"by its {own.table} the disk has {own.size} bytes, of which {size} are there"
        for own in own_sizes(read)
        if own.size > size
    ]


def _check_qcow2(image: CheckedImage, file: TableFile, path: str) -> None:
    """Run ``qemu-img check``, which compares the reference counts with the tables.

    The command reports reference counts that are behind (lazy refcounts) as damage, and can't open encrypted images.
    """
    import json

    from .qcow2 import HEADER_SIZE, Qcow2Header
    from .qemu_img import run_qemu_img

    header = Qcow2Header.parse(file.read(0, HEADER_SIZE))
    if header.is_corrupt:
        image.flaws.append("it is marked as corrupt (qemu-img check -r all repairs that)")
        return
    if (
        header.is_dirty
        or header.is_encrypted
        or (file.length >> header.cluster_bits) * header.refcount_bits // 8 > _CHECK_MEMORY
    ):
        return
    command = ["check", "-U", "--output=json", "-f", "qcow2", descriptor_path(file.descriptor)]
    try:
        done = run_qemu_img(
            *command, reads={file.descriptor: path}, data=file.length, timeout=_CHECK_TIMEOUT, accept=_CHECKED
        )
        told = json.loads(done.stdout)
    except (CommandFailed, ValueError) as error:
        image.flaws.append(f"it can't be checked ({str(error).rstrip('.')})")
        return
    errors = told.get("corruptions", 0) + told.get("check-errors", 0)
    if errors:
        image.flaws.append(
            f"qemu-img check finds {errors} errors in it (qemu-img check -r all repairs what can be repaired)"
        )


__all__ = ["CheckedImage", "check_beginning", "check_image", "missing_end", "missing_ends"]
