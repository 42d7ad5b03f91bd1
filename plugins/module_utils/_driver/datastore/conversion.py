# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The format of a new image: a copy of some data is checked, and converted where another format is wanted."""

from __future__ import annotations

import os

from ..._core import records
from ..._core.block_device import is_block_device
from ..._core.errors import InvalidInput, os_errors
from ..._core.records import TYPE_CHECKING
from ..._image.image_file import qemu_name
from ..._image.vhd_tables import FOOTER, has_two_sizes
from .base import CopiedImage
from .digests import Digests
from .directory import in_mebibytes

if TYPE_CHECKING:
    from typing import Any

    from ..._image.checked_image import CheckedImage
    from ..._image.new_image import NewImage
    from .base import CopyOptions
    from .fs import FsDriver

#: Upper bound of the seconds for qemu-img to convert an image, or for mkfs: a day, which is more than any disk takes.
COPY_TIMEOUT = 86400


class Conversion:
    """The way of a copy to an image of a datastore.

    :arg name: the source of the copy, for messages. The user knows the image by this name.
    :arg image_format: the format of the copy, whatever its content looks like; ``None`` lets the content decide.
    :arg verify: as :func:`checked_image` takes it. An image of a datastore was checked when it was made.
    """

    def __init__(
        self, driver: FsDriver, name: str, options: CopyOptions, image_format: str | None, verify: bool | None = None
    ) -> None:
        self._driver = driver
        self._name = name
        self._options = options
        self._image_format = "raw" if options.image_type == "cdrom" else image_format
        self._verify = verify

    def checked(self, descriptor: int) -> tuple[CheckedImage, tuple[str, ...]]:
        """Return what an open file is, and warnings.

        :raises VmstoreError: as :func:`checked_image`.
        """
        from ..._image.checked_image import checked_image

        return checked_image(
            descriptor,
            path=self._name,
            image_format=self._image_format,
            verify=self._verify,
            words=self._driver.words,
        )

    def finished(self, part: NewImage, digests: Digests | None = None) -> CopiedImage:
        """Check the copy in ``part``, convert the copy where that is wanted, and give the image its final name.

        :arg digests: the digests of what was written to ``part``.
        :raises VmstoreError: the copy is no image that can be used, or can't be converted.
        """
        driver, store = self._driver, self._driver.store
        digests = digests or Digests({})
        length = os.fstat(part.fd).st_size
        if driver.datastore.type == "file":
            return CopiedImage(store.source(part.commit()), "raw", in_mebibytes(length), checksum=digests.of_stored())
        # The copy is checked, and not the source: nobody can make the copy refer to other files afterwards.
        image, warnings = self.checked(part.fd)
        if image.format == "raw":
            with os_errors(f"write an image in {part.place}"):
                os.truncate(part.fd, image.virtual_size)  # without the footer of a fixed VHD
        size = in_mebibytes(image.virtual_size)
        wanted = self._target_format(part.fd, image)
        if wanted is None:
            is_whole = os.fstat(part.fd).st_size == length
            checksum = (digests if is_whole else digests.of_file(part.fd, self._name)).of_stored()
            return CopiedImage(store.source(part.commit()), image.format, size, warnings, checksum)
        from ..._image.copy import convert

        with store.new_image() as converted:
            convert(
                qemu_name(part.fd, image.format, self._name),
                image.format,
                converted.fd,
                wanted,
                data=image.data,
                reads={part.fd: self._name},
                **self.convert_options(wanted),
            )
            checksum = digests.of_file(converted.fd, self._name).of_stored()
            return CopiedImage(store.source(converted.commit()), wanted, size, warnings, checksum)

    def foresee(self, descriptor: int, image: CheckedImage, target: int, taken: int) -> None:
        """Refuse a copy of an open image that can't be converted.

        :arg target: descriptor of the directory of the new image.
        :arg taken: bytes of the copy.
        :raises VmstoreError: the image can't be converted, or the space isn't enough.
        """
        from ..._image.copy import foresee_conversion, require_room_to_convert

        wanted = self._target_format(descriptor, image)
        if wanted is None:
            return
        if is_block_device(descriptor):  # which qemu-img doesn't open here
            require_room_to_convert(target, taken, taken=taken, names=self._name, sparse=self._options.sparse)
            return
        foresee_conversion(
            qemu_name(descriptor, image.format, self._name),
            image.format,
            target,
            wanted,
            reads={descriptor: self._name},
            taken=taken,
            **self.convert_options(wanted),
        )

    def convert_options(self, wanted: str) -> dict[str, Any]:
        """Return arguments of :func:`convert` and :func:`foresee_conversion`."""
        creation = self._driver.settings.qcow2_options or None
        return {
            "options": creation if wanted == "qcow2" else None,
            "sparse": self._options.sparse,
            "timeout": COPY_TIMEOUT,
        }

    def wanted_format(self, image_format: str, *, is_encrypted: bool) -> str:
        """Return the wanted format of an image that is of another format now.

        :raises InvalidInput: the image would have to be converted, and is encrypted.
        """
        options = self._options
        wanted = (
            image_format
            if options.driver_format is None or not options.convert or options.image_type == "cdrom"
            else options.driver_format
        )
        if is_encrypted and wanted != image_format:
            raise InvalidInput(
                "path",
                self._name,
                f"to be converted to {wanted}, an image without encryption is expected, because qemu-img has no key; "
                f"{image_format} keeps it as it is",
            )
        return wanted

    def _target_format(self, descriptor: int, image: CheckedImage) -> str | None:
        """Return the format that an open image is to be converted to, ``None`` where the image is stored as it is.

        :raises InvalidInput: as :meth:`wanted_format`.
        """
        wanted = self.wanted_format(image.format, is_encrypted=image.is_encrypted)
        if wanted == "vpc" and has_two_sizes(os.pread(descriptor, FOOTER, 0)):
            wanted = "raw"  # as a VHD it would lose its end in guests of some hosts
        return None if wanted == image.format and not image.has_snapshots_to_leave_out else wanted


def with_warnings(copied: CopiedImage, warnings: tuple[str, ...] | list[str]) -> CopiedImage:
    """Return the same image with ``warnings`` before its own."""
    return records.replace(copied, warnings=(*warnings, *copied.warnings))


__all__ = ["COPY_TIMEOUT", "Conversion", "with_warnings"]
