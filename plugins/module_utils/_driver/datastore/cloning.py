# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Clones of stored images: one file is copied, and a backing chain is merged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..._core.errors import Conflict, StaleState
from ..._core.records import TYPE_CHECKING
from ..._image.checked_image import missing_ends
from ..._image.copy import convert, copy_local, foresee_conversion, foresee_copy
from ..._image.image_chain import ImageChain
from ..._image.still import StillFiles
from .base import CopiedImage
from .conversion import Conversion, with_warnings
from .directory import in_mebibytes
from .store import Store
from .stored_image import find_files

if TYPE_CHECKING:
    from ..._image.image_chain import OpenChain
    from ..._model.datastore import Datastore
    from .base import CopyOptions
    from .image_directory import ImageDirectoryDriver


def clone_image(
    driver: ImageDirectoryDriver, source: str, image_format: str | None, options: CopyOptions, origin: Datastore | None
) -> CopiedImage:
    """Create another image with the data of an image.

    :arg source: an image of the driver's datastore, or of another datastore in the same location.
    :arg origin: the datastore of the source, which may be in another location of this host.
    :arg image_format: the format of the image. It replaces the image's own header, because a guest can write any
        header to a raw disk.
    :raises VmstoreError: the source isn't such an image, or can't be copied. No file is left behind.
    """
    with (
        _open_source(driver, source, image_format, options, origin) as (content, still, warnings),
        driver.store.new_image() as part,
    ):
        if len(content.reads) == 1:
            conversion = Conversion(driver, source, options, image_format)
            copy_local(content.first, part.fd, sparse=options.sparse)
        else:
            wanted = _format_of_merged(options)
            conversion = Conversion(driver, source, options, wanted)
            convert(
                content.image,
                "qcow2",
                part.fd,
                wanted,
                reads=content.reads,
                **conversion.convert_options(wanted),
            )
        still.check()
        return with_warnings(conversion.finish(part), [*warnings, *still.warnings])


def preview_clone(
    driver: ImageDirectoryDriver, source: str, image_format: str | None, options: CopyOptions, origin: Datastore | None
) -> CopiedImage:
    """Return the result of :func:`clone_image` without creating the image. Raise the same errors."""
    conversion = Conversion(driver, source, options, image_format)
    with (
        _open_source(driver, source, image_format, options, origin) as (content, still, warnings),
        driver.store.target() as target,
    ):
        found = (*warnings, *still.warnings)
        if len(content.reads) > 1:
            wanted = _format_of_merged(options)
            foresee_conversion(
                content.image,
                "qcow2",
                target,
                wanted,
                reads=content.reads,
                **conversion.convert_options(wanted),
            )
            return CopiedImage("", wanted, in_mebibytes(content.virtual_size()), found)
        taken = foresee_copy(content.first, target, sparse=options.sparse)
        image, more = conversion.check(content.first)
        conversion.foresee(content.first, image, target, taken)
        return CopiedImage("", image.format, in_mebibytes(image.virtual_size), (*found, *more))


@contextlib.contextmanager
def _open_source(
    driver: ImageDirectoryDriver, source: str, image_format: str | None, options: CopyOptions, origin: Datastore | None
) -> Iterator[tuple[OpenChain, StillFiles, list[str]]]:
    """Open the files of an image to clone. Yield the files, their state at the beginning, and warnings."""
    path = driver.store.image(source, is_beside=True) if origin is None else Store(origin).image(source)
    files = find_files(path, image_format)
    words = driver.words
    with ImageChain(tuple(files), "qcow2" if len(files) > 1 else "raw").opened() as content:
        still = StillFiles(content.reads, verify=options.verify, words=words)
        damage = missing_ends(content.reads, "qcow2" if len(files) > 1 else image_format)
        if damage and options.verify:
            raise Conflict(f"The image {source} is damaged: {damage}; {words.unverified} clones it nevertheless.")
        # A change of the snapshots while the files were opened would give a mixture of two chains.
        if len(files) > 1 and find_files(path, image_format) != files:
            raise StaleState(f"The snapshots of the image {source} changed while it was cloned; try again.")
        yield (
            content,
            still,
            [f"The image {source} is damaged, but cloned because {words.is_unverified}: {damage}."] if damage else [],
        )


def _format_of_merged(options: CopyOptions) -> str:
    """Return the format of the result of merging a chain of qcow2 files."""
    return options.driver_format if options.convert and options.driver_format else "qcow2"


__all__ = ["clone_image", "preview_clone"]
