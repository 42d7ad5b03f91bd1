# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an image file is: its format by its first bytes, its virtual size, and whether it can be trusted to stand alone.

An image is hostile input. A small one can make qemu-img busy for half a minute or take gigabytes of memory (bitmaps), and a header can
name other files whose content would then be the disk's. So the format is decided here and told to qemu, which never guesses; what refers
to another file is refused before qemu opens it; and qemu-img runs under limits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .._core.command import reason
from .._core.directory import descriptor_path, opened_directory, opened_file_at
from .._core.errors import InvalidInput, os_errors
from .magic import QEMU_FORMATS, sniff

#: Bytes of an image's beginning that tell any format's size: a VHDX has it behind its log and its block table.
HEAD_SIZE = 4 << 20
#: Bytes: no virtual disk is larger. It is the most that VHDX allows.
LARGEST = 64 << 40

#: Bytes that ``inspect`` reads: every header with references fits.
_SNIFFED = 64 << 10
#: What qemu-img gets. A sound image takes milliseconds of CPU time; the block table of a 64 TiB VDI takes 256 MiB.
_CPU_SECONDS = 10
_MEMORY = 512 << 20
#: Bytes: qemu-img starts up to 64 threads where the host is busy, and their stacks count as memory.
_STACK = 1 << 20

#: GUIDs of [MS-VHDX], as they lie in the file.
_VHDX_METADATA = bytes.fromhex("06a27c8b90479a4bb8fe575f050f886e")
_VHDX_SIZE = bytes.fromhex("2442a52f1bcd7648b2115dbed83bf4b8")


@dataclass(frozen=True)
class ImageFile:
    """``format`` is qemu's name for it; ``virtual_size`` is what a guest sees and ``allocated`` what the file takes, both in bytes."""

    format: str
    virtual_size: int
    allocated: int


def virtual_size(head: bytes, length: int | None, *, option: str = "path", path: str = "image") -> int:
    """Bytes that a guest sees, from the first ``HEAD_SIZE`` bytes of an image and the ``length`` in bytes of the whole, where known.

    :arg option: the option to name in errors, and ``path`` its value.
    :raises InvalidInput: ``head`` doesn't tell, or the size is absurd.
    """
    image_format = sniff(head)
    try:
        size = _header_size(image_format, head) if image_format in QEMU_FORMATS else length
    except (struct.error, ValueError) as error:
        raise InvalidInput(option, path, f"a whole image is expected, and the beginning of this {image_format} image doesn't tell its size") from error
    if size is None:
        raise InvalidInput(option, path, "its size can't be told, since neither its beginning nor the server says it")
    return _sane(size, option, path)


@contextlib.contextmanager
def opened_file(path: str) -> Iterator[int]:
    """A descriptor to read a regular file by; never what a symbolic link leads to, and nothing that one waits for.

    :raises InvalidInput: it isn't a regular file, or a link of another user leads to its directory; :raises FileAccessFailed: it can't be opened.
    """
    directory, name = os.path.split(path)
    with contextlib.ExitStack() as stack:
        with os_errors(f"read {path}"):
            opened = stack.enter_context(opened_directory(directory, option="image"))
            try:
                descriptor = stack.enter_context(opened_file_at(opened, name))
            except OSError as error:
                if error.errno == errno.EINVAL:
                    raise InvalidInput("image", path, "a regular file is expected") from error
                raise
        yield descriptor


def inspect(descriptor: int, *, path: str, option: str = "path", timeout: float = 60) -> ImageFile:
    """Return format and size of an open regular file. A compressed file or an archive is ``raw``: its bytes are the disk's.

    The answer holds for as long as nobody else writes to the file, so ask about a copy of what another user may change.

    :arg path: names the file in errors, and ``option`` the option that it comes from.
    :arg timeout: seconds for qemu-img.
    :raises InvalidInput: not an image that qemu-img can read within its limits, or one that needs other files.
    :raises FileAccessFailed: the file can't be read.
    :raises CommandFailed: qemu-img is missing, or ran longer than ``timeout``.
    """
    with os_errors(f"read {path}"):
        status = os.fstat(descriptor)
        head = os.pread(descriptor, _SNIFFED, 0)
    image_format, size = sniff(head), status.st_size
    if image_format in QEMU_FORMATS:
        flaw = _flaw(image_format, head.ljust(_SNIFFED, b"\0"), size)
        info = {} if flaw else _info(descriptor, image_format, option, path, timeout)
        if flaw or "backing-filename" in info:
            raise InvalidInput(option, path, f"an image that stands alone is expected, and this {image_format} image {flaw or 'has a backing file'}")
        size = info["virtual-size"]
    else:
        image_format = "raw"
    return ImageFile(image_format, _sane(size, option, path), status.st_blocks * 512)


def _sane(size: int, option: str, path: str) -> int:
    if size > LARGEST:
        raise InvalidInput(option, path, f"its virtual size is {size} bytes, and at most {LARGEST} (64 TiB) are accepted")
    return size


def _flaw(image_format: str, head: bytes, length: int) -> str | None:
    """What keeps a file from standing alone, as far as qemu-img would not refuse it, or would open the other file."""
    if image_format == "qcow2":  # docs/interop/qcow2 of qemu
        version, backing_file = struct.unpack_from(">IQ", head, 4)
        l1_entries, l1_offset, refcount_offset, _clusters, snapshots, snapshots_offset = struct.unpack_from(">IQQIIQ", head, 36)
        if backing_file:
            return "has a backing file"
        if version >= 3 and head[79] & 4:
            return "has an external data file"
        # qemu reads zeros behind the end of a file; the smallest entry of the table of snapshots has 40 bytes.
        if max(l1_offset + 8 * l1_entries, refcount_offset, snapshots_offset + 40 * snapshots) > length:
            return "is not whole: its tables lie behind its end"
    # A header without a capacity has a descriptor, which lists files, as VMDK files without this magic have (VMware's Virtual Disk Format 5.0).
    if image_format == "vmdk" and (not head.startswith(b"KDMV") or not any(head[12:20])):
        return "is a descriptor of other files"
    if image_format == "vpc" and head[60:64] == b"\0\0\0\4":
        return "holds the differences to another image"
    return None


def _info(descriptor: int, image_format: str, option: str, path: str, timeout: float) -> dict[str, Any]:
    """What ``qemu-img info`` says. It doesn't open backing files."""
    import json

    from .qemu_img import run_qemu_img

    limits = (f"--cpu={_CPU_SECONDS}", f"--data={_MEMORY}", f"--stack={_STACK}", "--core=0")
    # -U: an image that a guest uses may be looked at.
    command = ["info", "-U", "--output=json", "-f", image_format, descriptor_path(descriptor)]
    done = run_qemu_img(*command, reads={descriptor: path}, timeout=timeout, accept=None, limits=limits)
    if done.returncode:
        why = f"stopped by {signal.Signals(-done.returncode).name}" if done.returncode < 0 else reason(done)
        limit = f"{_CPU_SECONDS} s of CPU time and {_MEMORY >> 20} MiB"
        raise InvalidInput(option, path, f"a {image_format} image that qemu-img reads in {limit} is expected ({why})")
    return json.loads(done.stdout)


def _header_size(image_format: str, head: bytes) -> int:
    """:raises struct.error, ValueError: ``head`` is too short or its offsets lead nowhere."""
    if image_format == "qcow2":
        return struct.unpack_from(">Q", head, 24)[0]
    if image_format == "vdi":
        return struct.unpack_from("<Q", head, 368)[0]
    if image_format == "vhdx":  # [MS-VHDX] 2.2.3 and 2.6.1: the region table leads to the metadata table, and that to the size
        region = struct.unpack_from("<Q", head, head.index(_VHDX_METADATA, 192 << 10, 256 << 10) + 16)[0]
        item = struct.unpack_from("<I", head, head.index(_VHDX_SIZE, region, region + (64 << 10)) + 16)[0]
        return struct.unpack_from("<Q", head, region + item)[0]
    if image_format == "vpc":
        # As qemu does: the oldest programs go by the geometry, unless that is at its end. Others write a geometry that is a little less than the size.
        creator, size, cylinders, heads, sectors = struct.unpack_from(">28x4s16xQHBB", head)
        return 512 * cylinders * heads * sectors if creator in (b"vpc ", b"qemu") and (cylinders, heads, sectors) != (65535, 16, 255) else size
    capacity = struct.unpack_from("<Q", head, 12)[0] if head.startswith(b"KDMV") else 0
    if not capacity:
        raise ValueError("a descriptor of other files")
    return 512 * capacity


__all__ = ["HEAD_SIZE", "ImageFile", "inspect", "opened_file", "virtual_size"]
