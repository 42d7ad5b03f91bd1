# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The data that a guest reads from an image or a snapshot, in one file or several: compare the data of two images, or
copy all of it to one file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

from .._core.records import dataclass
from .copy import convert, copy_local
from .image_file import SECTOR, disk_size, opened_file, qemu_name
from .new_image import NewImage
from .qemu_img import as_one_image, run_qemu_img
from .snapshots import TIMEOUT
from .still import StillFiles


@dataclass(frozen=True)
class OpenChain:
    """An :class:`ImageChain` whose files are open.

    :arg image: the name of the image for qemu-img.
    :arg reads: the paths of the files by descriptor.
    """

    image: str
    format: str
    reads: Mapping[int, str]

    @property
    def first(self) -> int:
        """Return the descriptor of the first file."""
        return next(iter(self.reads))

    def virtual_size(self) -> int:
        """Return the size of the disk in bytes.

        :raises InvalidInput: the header has no valid size.
        :raises FileAccessFailed: the file can't be read.
        """
        descriptor, path = next(iter(self.reads.items()))
        return disk_size(descriptor, self.format, path)


@dataclass(frozen=True)
class ImageChain:
    """The files of an image or a snapshot.

    :arg files: one file, or qcow2 overlays, each before its backing file. The creator of the record has checked the
        backing chain.
    :arg format: qemu's name of the format of the first file.
    """

    files: tuple[str, ...]
    format: str

    @contextlib.contextmanager
    def opened(self) -> Iterator[OpenChain]:
        """Yield the open files. The backing files in the headers of qcow2 files are ignored.

        :raises InvalidInput: a file isn't a regular one.
        :raises FileAccessFailed: a file can't be opened.
        """
        with contextlib.ExitStack() as stack:
            reads = {stack.enter_context(opened_file(path)): path for path in self.files}
            image = (
                as_one_image(tuple(reads))
                if self.format == "qcow2"
                else qemu_name([*reads][0], self.format, self.files[0])
            )
            yield OpenChain(image, self.format, reads)


def has_same_content(one: OpenChain, other: OpenChain) -> bool:
    """Return whether guests read the same data from both. The missing bytes of the last sector of a raw file count as
    zeros.

    :raises InvalidInput, CommandFailed, FileAccessFailed: a chain can't be read.
    """
    if _inodes(one) == _inodes(other):
        return True
    if _sectors(one) != _sectors(other):
        return False
    command = ["compare", "-q", "-f", one.format, "-F", other.format, "--", one.image, other.image]
    data = 2 * one.virtual_size()
    return (
        run_qemu_img(*command, reads={**one.reads, **other.reads}, data=data, timeout=TIMEOUT, accept=(0, 1)).returncode
        == 0
    )


def copy_chain(chain: ImageChain, part: NewImage, format: str) -> list[str]:
    """Fill the empty image ``part``. A single file of the same format is copied, and everything else is merged or
    converted. Holes are kept.

    :return: a warning for each file that a program wrote to meanwhile, or may have written to.
    :raises InvalidInput: a file isn't a regular one.
    :raises CommandFailed, NoSpace, FileAccessFailed: the copy failed.
    """
    with chain.opened() as source:
        still = StillFiles(source.reads, verify=False)
        if chain.format == format and len(chain.files) == 1:
            copy_local(source.first, part.fd)
        else:
            convert(source.image, chain.format, part.fd, format, reads=source.reads, timeout=TIMEOUT)
        still.check()
        return still.warnings


def _inodes(chain: OpenChain) -> list[tuple[int, int]]:
    return [(found.st_dev, found.st_ino) for found in map(os.fstat, chain.reads)]


def _sectors(chain: OpenChain) -> int:
    return -(-chain.virtual_size() // SECTOR)


__all__ = ["ImageChain", "OpenChain", "copy_chain", "has_same_content"]
