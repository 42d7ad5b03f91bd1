# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A file or a block device of this host as the source of an image."""

from __future__ import annotations

import contextlib
import os

from ..._core.block_device import is_block_device
from ..._core.chunks import read_chunks
from ..._core.records import TYPE_CHECKING
from ..._image.image_file import HEAD_SIZE, disk_size
from ..._image.magic import ENOUGH, QEMU_FORMATS, sniff
from .base import CopiedImage
from .conversion import with_warnings
from .directory import MEBIBYTE, in_mebibytes
from .image_source import ImageSource, read_ends
from .source_file import open_source_file, size_of_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..._image.still import StillFiles


class LocalSource(ImageSource):
    """A local source. Each use opens the file once, and reads everything through this descriptor."""

    def size(self) -> int:
        if os.path.isdir(self.path):
            return size_of_directory(self.driver, self.path) * MEBIBYTE
        with open_source_file(self.path, self.driver.check) as descriptor:
            head, tail, length = read_ends(descriptor, HEAD_SIZE)
            kind = sniff(head, tail)
            self.require_image(kind)
            if kind in QEMU_FORMATS and not self.is_kept:
                return disk_size(descriptor, kind, self.path)
            if self.is_unpacked(sniff(head)):
                return self.measure(self.unpack(read_chunks(descriptor)))
            return self.disk_size(head, tail, length)

    def preview(self) -> CopiedImage:
        with self._open_still() as (descriptor, still):
            return with_warnings(self._preview(descriptor), still.warnings)

    def _preview(self, descriptor: int) -> CopiedImage:
        from ..._image.copy import foresee_copy

        with self.driver.store.target() as target:
            head, tail, length = read_ends(descriptor, HEAD_SIZE)
            kind = sniff(head, tail)
            self.require_image(kind)
            if self.is_unpacked(kind):
                return self.preview_stream(read_chunks(descriptor))
            taken = foresee_copy(descriptor, target, sparse=self.options.sparse)
            self.digests.of_file(descriptor, self.path).verify(self.name)
            judged = self.judge(head, tail)
            if self.driver.datastore.type == "file":
                return CopiedImage("", "", in_mebibytes(length), judged)
            if is_block_device(descriptor) and kind in QEMU_FORMATS and not self.is_kept:
                # Here, qemu-img can open only files. For an image on a device, the header is enough.
                return self.preview_beginning(head, tail, length)
            image, warnings = self.conversion.check(descriptor)
            self.conversion.foresee(descriptor, image, target, taken)
            return CopiedImage("", "", in_mebibytes(image.virtual_size), (*judged, *warnings))

    def copy(self, target: int) -> Sequence[str]:
        with self._open_still() as (descriptor, still):
            head, tail, _length = read_ends(descriptor, ENOUGH)
            kind = sniff(head, tail)
            self.require_image(kind)
            if self.is_unpacked(kind):
                self.store(read_chunks(descriptor), target)
            else:
                from ..._image.copy import copy_local

                copy_local(
                    descriptor,
                    target,
                    digests=self.digests.of_source,
                    sparse=self.options.sparse,
                    bandwidth=self.options.bandwidth,
                )
            still.check()
            return still.warnings

    @contextlib.contextmanager
    def _open_still(self) -> Iterator[tuple[int, StillFiles]]:
        from ..._image.still import StillFiles

        with open_source_file(self.path, self.driver.check) as descriptor:
            yield (
                descriptor,
                StillFiles({descriptor: self.path}, verify=self.options.verify, words=self.driver.words),
            )


__all__ = ["LocalSource"]
