# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An image that is to be stored: what it is, whether it is whole by its own tables, and how much data it has.

qemu-img reads zeros behind the end of a file, and so takes half a file for a whole image. A few tables can refer to the
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

#: Bytes of memory that qemu-img check may need for its reference counts. For more, it isn't cheap, and is left out.
_CHECK_MEMORY = 128 << 20
#: Seconds for qemu-img check at most, however large the image is.
_CHECK_TIMEOUT = 86400
#: Exit codes of qemu-img check: sound, damaged, with clusters that nothing uses.
_CHECKED = (0, 2, 3)


@dataclass
class CheckedImage:
    """An image whose format and tables were looked at.

    :arg format: qemu's name for it; ``virtual_size`` is what a guest sees, in bytes. Of a fixed VHD, that is a raw disk
        without its footer.
    :arg data: upper bound of its data in bytes, which a conversion reads.
    """

    format: str
    virtual_size: int
    data: int
    #: Number of internal snapshots.
    snapshots: int = 0
    #: Whether qemu-img needs a key to read it.
    is_encrypted: bool = False
    #: Sentences without their ends: why it is no whole, sound image.
    flaws: list[str] = field(default_factory=list)

    @property
    def has_snapshots_to_leave_out(self) -> bool:
        """Return whether a conversion can leave snapshots out, for which qemu-img has to read the content."""
        return self.snapshots > 0 and not self.is_encrypted


def checked_image(
    descriptor: int,
    *,
    path: str,
    image_format: str | None = None,
    verify: bool | None = True,
    option: str = "path",
    timeout: float = 60,
    words: Words = MODULE,
) -> tuple[CheckedImage, tuple[str, ...]]:
    """Return what an open regular file, or a device with a raw disk, is, and warnings. The answer holds for as long as
    nobody writes to the file.

    :arg path: names the file in errors, and ``option`` the option that it comes from.
    :arg image_format: what it is, whatever it looks like; ``None`` lets its content tell.
    :arg verify: whether an image is refused that isn't whole or is damaged; ``False`` warns. ``None`` doesn't look and
        keeps all: an image of a datastore.
    :arg timeout: seconds for qemu-img to read the header.
    :arg words: what errors call the choices of the user.
    :raises InvalidInput: no image that can be stored, one whose tables refer to the same blocks several times, or one
        that isn't whole.
    :raises FileAccessFailed: the file can't be read; :raises CommandFailed: qemu-img is missing, or ran too long.
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
    """Return warnings about a raw disk of which only the beginning is known. Otherwise as :func:`checked_image`.

    :arg head: its first bytes, and ``length`` those of the whole.
    """
    flaws = _raw_flaws(lambda offset, size: head[offset : offset + size].ljust(size, b"\0"), length)
    return _judge(flaws, path, option, verify=verify, words=words)


def missing_ends(files: Mapping[int, str], image_format: str | None) -> str | None:
    """Return why one of the files of an image isn't whole, as a part of a sentence; ``None`` when all are. Otherwise as
    :func:`missing_end`.

    :arg files: their paths by descriptor.
    :arg image_format: of the files; ``None`` lets each one's header tell.
    """
    for descriptor, path in files.items():
        with os_errors(f"read {path}"):
            head = os.pread(descriptor, ENOUGH, 0)
        damage = missing_end(descriptor, image_format or sniff(head), path)
        if damage:
            return damage
    return None


def missing_end(descriptor: int, image_format: str, path: str) -> str | None:
    """Return why an image of a datastore isn't whole by its own tables, as a part of a sentence; ``None`` when it is.

    What it is based on isn't looked at, and nothing of a raw disk, which is its guest's.

    :raises FileAccessFailed: it can't be read.
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
    """Return the bytes of a raw disk: all of a file but for the footer of a fixed VHD."""
    from .vhd_tables import FOOTER, fixed_vhd_size

    if file.length < FOOTER:
        return file.length
    return fixed_vhd_size(file.read(file.length - FOOTER, FOOTER), file.length) or file.length


def _judge(flaws: Sequence[str], path: str, option: str, *, verify: bool, words: Words) -> list[str]:
    """Return the warnings about flaws that are accepted.

    :raises InvalidInput: there are some that aren't.
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

    It takes counts that are written later (lazy refcounts) for damage, and can't open what is encrypted.
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


__all__ = ["CheckedImage", "check_beginning", "checked_image", "missing_end", "missing_ends"]
