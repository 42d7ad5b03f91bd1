# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a guest would read from an image or a snapshot, whichever files it is made of: compared with something else, or copied into one file."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .._core.command import run
from .copy import convert, copy_local
from .image_file import HEAD_SIZE, opened_file, virtual_size
from .new_image import NewImage
from .snapshots import TIMEOUT, as_one_image

#: Bytes: what qemu rounds the size of a raw image up to.
SECTOR = 512


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


__all__ = ["Content", "copy_content", "same_content"]
