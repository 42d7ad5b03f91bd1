# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The data that a guest reads from an image or a snapshot, whichever files the data is spread over: compare the data
with that of another image, or copy all of it into one file.
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

    :arg image: the name to give qemu-img together with the format.
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

        :raises InvalidInput: its head tells no size; :raises FileAccessFailed: it can't be read.
        """
        descriptor, path = next(iter(self.reads.items()))
        return disk_size(descriptor, self.format, path)


@dataclass(frozen=True)
class ImageChain:
    """The files that an image or a snapshot consists of.

    :arg files: one, or qcow2 overlays, each before the one it is based on. Whoever makes a record has checked that they
        belong together.
    :arg format: of the first file, by qemu's name.
    """

    files: tuple[str, ...]
    format: str

    @contextlib.contextmanager
    def opened(self) -> Iterator[OpenChain]:
        """Open the files for the length of a block. The headers of qcow2 files are not followed.

        :raises InvalidInput: one isn't a regular file; :raises FileAccessFailed: one can't be opened.
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
    """Return whether guests read the same from both; bytes by which a raw file ends within a sector count as zeros.

    :raises InvalidInput, CommandFailed, FileAccessFailed: one can't be read.
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
    """Fill the empty image ``part``. One file that has the format is copied as it is; all else is merged or converted.
    Holes are kept.

    :return: a warning for each file that somebody wrote to meanwhile, or may have.
    :raises InvalidInput: not a regular file; :raises CommandFailed, NoSpace, FileAccessFailed.
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
