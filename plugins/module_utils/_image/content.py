# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a guest would read from an image or a snapshot, whichever files it is made of: compared with something else, or copied into one file."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from .._core.command import run
from .._core.errors import InvalidInput, os_errors
from .copy import convert, copy_local
from .image_file import HEAD_SIZE, virtual_size
from .new_image import NewImage
from .snapshots import TIMEOUT, as_one_image

#: Bytes: what qemu rounds the size of a raw image up to.
SECTOR = 512


@contextlib.contextmanager
def opened_file(path: str) -> Iterator[int]:
    """A descriptor to read a regular file by; never what a symbolic link leads to, and nothing that one waits for.

    :raises InvalidInput: it isn't a regular file; :raises FileAccessFailed: it can't be opened.
    """
    with os_errors(f"read {path}"):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidInput("image", path, "a regular file is expected")
        yield descriptor
    finally:
        with contextlib.suppress(OSError):  # nothing was written
            os.close(descriptor)


@dataclass(frozen=True)
class Content:
    """
    :arg files: one, or qcow2 overlays, each before the one it is based on. Whoever makes a record has checked that they belong together.
    :arg format: of the first file, by qemu's name.
    """

    files: tuple[str, ...]
    format: str

    @property
    def image(self) -> str:
        """The name to give qemu-img together with the format. No header of a qcow2 file leads it elsewhere."""
        return as_one_image(self.files) if self.format == "qcow2" else self.files[0]

    def virtual_size(self) -> int:
        """Bytes that a guest sees.

        :raises InvalidInput: not a regular file, or its head tells no size; :raises FileAccessFailed: it can't be read.
        """
        with opened_file(self.files[0]) as descriptor:
            size = os.fstat(descriptor).st_size
            if self.format == "raw":
                return size
            return virtual_size(os.pread(descriptor, HEAD_SIZE, 0), size, path=self.files[0])


def same_content(one: Content, other: Content) -> bool:
    """Whether guests read the same from both; bytes by which a raw file ends within a sector count as zeros.

    :raises InvalidInput, CommandFailed, FileAccessFailed: one can't be read.
    """
    if one.files == other.files:
        return True
    if _sectors(one) != _sectors(other):
        return False
    command = ["qemu-img", "compare", "-q", "-f", one.format, "-F", other.format, "--", one.image, other.image]
    return run(command, timeout=TIMEOUT, accept=(0, 1)).returncode == 0


def copy_content(content: Content, part: NewImage, format: str) -> None:
    """Fill the empty image ``part``. One file that has the format is copied as it is; all else is merged or converted. Holes are kept.

    :raises InvalidInput: not a regular file; :raises CommandFailed, NoSpace, FileAccessFailed.
    """
    if content.format == format and len(content.files) == 1:
        with opened_file(content.files[0]) as descriptor:
            copy_local(descriptor, part.fd)
    else:
        convert(content.image, content.format, part.path, format, timeout=TIMEOUT)


def _sectors(content: Content) -> int:
    return -(-content.virtual_size() // SECTOR)


__all__ = ["Content", "copy_content", "opened_file", "same_content"]
