# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The conversion of a copied source to a new image, with the checks before it."""

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
    from .image_directory import ImageDirectoryDriver

#: Upper bound of the time of a conversion or of mkfs in seconds: a day, which is more than any disk takes.
COPY_TIMEOUT = 86400


class Conversion:
    """The conversion of a copy to an image of a datastore.

    :arg name: the source of the copy as the user wrote it, for messages.
    :arg image_format: the format of the copy, regardless of its content. ``None`` detects the format from the content.
    :arg verify: see :func:`check_image`. An image of a datastore was already checked when it was created.
    """

    def __init__(
        self,
        driver: ImageDirectoryDriver,
        name: str,
        options: CopyOptions,
        image_format: str | None,
        verify: bool | None = None,
    ) -> None:
        self._driver = driver
        self._name = name
        self._options = options
        self._image_format = "raw" if options.image_type == "cdrom" else image_format
        self._verify = verify

    def check(self, descriptor: int) -> tuple[CheckedImage, tuple[str, ...]]:
        """Return the image in an open file, and warnings.

        :raises VmstoreError: see :func:`check_image`.
        """
        from ..._image.checked_image import check_image

        return check_image(
            descriptor,
            path=self._name,
            image_format=self._image_format,
            verify=self._verify,
            words=self._driver.words,
        )

    def finish(self, part: NewImage, digests: Digests | None = None) -> CopiedImage:
        """Check the copy in ``part``, convert it if another format is requested, and give the image its final name.

        :arg digests: the digests of the data in ``part``.
        :raises VmstoreError: the copy isn't a usable image, or can't be converted.
        """
        driver, store = self._driver, self._driver.store
        digests = digests or Digests({})
        length = os.fstat(part.fd).st_size
        if driver.datastore.type == "file":
            return CopiedImage(store.source(part.commit()), "raw", in_mebibytes(length), checksum=digests.of_stored())
        # The copy is checked, not the source, because nobody can change the copy after the check.
        image, warnings = self.check(part.fd)
        if image.format == "raw":
            with os_errors(f"write an image in {part.place}"):
                os.truncate(part.fd, image.virtual_size)  # removes the footer of a fixed VHD
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
        :arg taken: size of the copy in bytes.
        :raises VmstoreError: the image can't be converted, or the space isn't enough.
        """
        from ..._image.copy import foresee_conversion, require_room_to_convert

        wanted = self._target_format(descriptor, image)
        if wanted is None:
            return
        if is_block_device(descriptor):  # qemu-img can't open a block device here
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
        """Return the format to convert an image to.

        :raises InvalidInput: the image needs a conversion, but is encrypted.
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
        """Return the format to convert an open image to, or ``None`` if the image is stored unchanged.

        :raises InvalidInput: see :meth:`wanted_format`.
        """
        wanted = self.wanted_format(image.format, is_encrypted=image.is_encrypted)
        if wanted == "vpc" and has_two_sizes(os.pread(descriptor, FOOTER, 0)):
            wanted = "raw"  # some hypervisors would cut the end of the disk off in the format VHD
        return None if wanted == image.format and not image.has_snapshots_to_leave_out else wanted


def with_warnings(copied: CopiedImage, warnings: tuple[str, ...] | list[str]) -> CopiedImage:
    """Return the image with ``warnings`` in front of its own warnings."""
    return records.replace(copied, warnings=(*warnings, *copied.warnings))


__all__ = ["COPY_TIMEOUT", "Conversion", "with_warnings"]
