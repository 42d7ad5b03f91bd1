# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The data of a stored image: its files, evidence of damage, and the one file for another datastore."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..._core.errors import Conflict, InvalidInput, os_errors
from ..._core.records import TYPE_CHECKING
from ..._image.image_file import HEAD_SIZE, inspect, opened_file
from ..._image.magic import sniff
from ..._image.snapshots import chain_files, data_file
from .base import ExportedImage

if TYPE_CHECKING:
    from ..._image.image_chain import ImageChain
    from .image_directory import ImageDirectoryDriver
    from .store import Store


def find_content(image: str, image_format: str, snapshot: int | None) -> ImageChain:
    """Return the files with the data of an image, or of one of its snapshots.

    :arg image: the path of the image.
    :raises InvalidInput: the image has another format.
    :raises VmstoreError: the image or the snapshot is missing, or its files can't be read.
    """
    from ..._image.image_chain import ImageChain

    if image_format == "qcow2" or snapshot is not None:
        return ImageChain(tuple(chain_files(image, image_format, snapshot)), image_format)
    file = data_file(image)
    if image_format != "raw":
        with opened_file(file) as descriptor:
            if inspect(descriptor, path=file, option="image").format != image_format:
                raise InvalidInput(
                    "image", image, f"an image in the format {image_format!r} is expected, as the catalog says"
                )
    return ImageChain((file,), image_format)


def find_files(image: str, image_format: str | None) -> list[str]:
    """Return the files with the data of an image: the image itself, or a backing chain.

    The image's own header is used only if ``image_format`` is ``None``.

    :raises VmstoreError: a file is missing, or can't be read.
    """
    file = data_file(image)
    if image_format is None:
        with opened_file(file) as descriptor:
            image_format = sniff(os.pread(descriptor, HEAD_SIZE, 0))
    return chain_files(image, "qcow2") if image_format == "qcow2" else [file]


def find_damage(driver: ImageDirectoryDriver, source: str, image_format: str, checksum: str | None) -> str | None:
    """Return the evidence that an image's data is damaged. See :meth:`DatastoreDriver.damage`.

    :raises NotFound: the image has no data.
    :raises VmstoreError: the image can't be read.
    """
    from ..._image.checked_image import missing_ends

    try:
        with driver.content(source, image_format).opened() as content:
            damage = missing_ends(content.reads, image_format)
    except InvalidInput as error:
        return error.accepted
    if damage or checksum is None:
        return damage
    found = _checksum(next(iter(content.reads.values())), dict([checksum.split(":")]))
    return None if found == checksum else f"its checksum is {found}, and not {checksum}"


def export_image(store: Store, source: str, image_format: str | None) -> ExportedImage:
    """Return the one file that the front-end reads itself.

    A backing chain is refused, because this file must hold all the data. Merging the chain would create another
    image, which stays in the datastore if the front-end never fetches it.

    :raises Conflict: the image is a backing chain.
    :raises VmstoreError: ``source`` isn't an image of this datastore, can't be read, or depends on other files.
    """
    import hashlib

    from ..._core.chunks import read_chunks

    path = store.image(source)
    files = find_files(path, image_format)
    with opened_file(files[0]) as descriptor:
        with os_errors(f"read {path}"):
            is_whole = len(files) == 1 and os.path.samestat(os.fstat(descriptor), os.stat(path))
        if not is_whole:
            unable = f"The image {source} can't be exported as one file, because its data is in {', '.join(files)}"
            raise Conflict(f"{unable}; flatten its snapshots, or export a clone of it.")
        md5 = hashlib.new("md5", usedforsecurity=False)
        for chunk in read_chunks(descriptor):
            md5.update(chunk)
        found = image_format or inspect(descriptor, path=path, option="source").format
        return ExportedImage(source, found, md5.hexdigest())


def _checksum(path: str, checksums: Mapping[str, str]) -> str | None:
    """Return the checksum of a file by the first algorithm in ``checksums``, or ``None`` without an algorithm."""
    from .digests import Digests

    with opened_file(path) as descriptor:
        return Digests(checksums).of_file(descriptor, path).of_stored()


__all__ = ["export_image", "find_content", "find_damage", "find_files"]
