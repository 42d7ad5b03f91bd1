# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The source of an image: a local file, the data at a URL, or a file that another host sends.

A source recognises data by its beginning, its end and its length, as far as these are known.
"""

from __future__ import annotations

import os

from ..._core.block_device import length_of
from ..._core.errors import InvalidInput
from ..._core.paths import is_url
from ..._core.records import TYPE_CHECKING
from ..._image.disk_signs import disk_sign
from ..._image.image_file import HEAD_SIZE, virtual_size
from ..._image.magic import COMPRESSIONS, QEMU_FORMATS, TAIL, is_packed, refusal, sniff
from ..._image.vhd_tables import fixed_vhd_size
from .base import CopiedImage
from .conversion import Conversion
from .digests import Digests
from .directory import in_mebibytes

if TYPE_CHECKING:
    import hashlib
    from collections.abc import Iterable, Iterator, Sequence

    from .base import CopyOptions
    from .image_directory import ImageDirectoryDriver


class ImageSource:
    """The source at ``path``, and the ``options`` for an image of this source.

    The attribute ``name`` is the path for messages, without the secrets of a URL.

    :raises InvalidInput: a checksum that can't be one.
    """

    def __init__(self, driver: ImageDirectoryDriver, path: str, options: CopyOptions) -> None:
        self.driver = driver
        self.path = path
        self.options = options
        self.name = _redact(path)
        self.digests = Digests(options.checksums)
        self.conversion = Conversion(driver, self.name, options, options.image_format, options.verify)

    def size(self) -> int:
        """Return the size in bytes of an image of this source.

        :raises VmstoreError: the source can't be read, or is no image.
        """
        raise NotImplementedError

    def preview(self) -> CopiedImage:
        """Return the image of this source without creating the image.

        :raises VmstoreError: the image can't be created.
        """
        raise NotImplementedError

    def copy(self, target: int) -> Sequence[str]:
        """Write the source to the open file ``target``, and decompress the data if the options request this. Return
        warnings.

        :raises VmstoreError: the source can't be read or written.
        """
        raise NotImplementedError

    @property
    def is_kept(self) -> bool:
        """Return whether the source is stored unchanged, regardless of its content."""
        return self.driver.datastore.type == "file" or self.options.image_format == "raw"

    @property
    def may_unpack(self) -> bool:
        """Return whether a compressed source is decompressed."""
        return not (self.options.no_decompress or self.is_kept)

    def is_unpacked(self, kind: str) -> bool:
        """Return whether a source of this kind is decompressed.

        :arg kind: a kind of :func:`sniff`.
        """
        return self.may_unpack and kind in COMPRESSIONS

    def require_image(self, kind: str) -> None:
        """Refuse a source that is no image.

        :arg kind: a kind of :func:`sniff`.
        :raises InvalidInput: the source is no image, and neither the datastore nor the user accepts other files.
        """
        options = self.options
        if self.is_kept or (options.no_decompress and is_packed(kind)):
            return
        why = refusal(kind, is_remote=is_url(self.path), words=self.driver.words)
        if why and options.any_content:
            self.driver.log(f"{self.name}: {why}")
            why = None
        if options.image_type == "cdrom" and kind in QEMU_FORMATS:
            why = (
                f"images of type cdrom are stored as they are, and this is a {kind} image: convert it with "
                "qemu-img convert -O raw"
            )
        if why:
            raise InvalidInput("path", self.name, why)

    def judge(self, head: bytes, tail: bytes) -> tuple[str, ...]:
        """Return warnings about the data to store.

        :raises InvalidInput: the data is empty, no image, or of another format than the options name.
        """
        options = self.options
        if not head and options.image_type != "context":
            raise InvalidInput("path", self.name, "an image is expected, and this is empty")
        kind = sniff(head, tail)
        self.require_image(kind)
        if self.is_kept:
            return ()
        if options.image_format not in (None, kind):
            raise InvalidInput("format", options.image_format, f"{self.name} is {kind}")
        if options.any_content or kind != "raw" or disk_sign(head) or head == bytes(len(head)):
            return ()
        return (
            f"{self.name} is stored as a raw disk, though nothing in it is recognised (no boot sector, partition "
            "table, file system or volume, and it does not begin with zeros); "
            f"{self.driver.words.raw} says that it is one.",
        )

    def preview_beginning(self, head: bytes, tail: bytes, length: int | None) -> CopiedImage:
        """Return the preview of data that isn't compressed.

        :raises VmstoreError: the data isn't a usable image.
        """
        from ..._image.image_file import is_encrypted, require_alone

        options = self.options
        kind = sniff(head)
        warnings = self.judge(head, tail)
        if not self.is_kept and options.image_type != "cdrom":
            require_alone(head, length if options.verify else None, path=self.name)
            self.conversion.wanted_format(kind, is_encrypted=is_encrypted(head))
        if length is None:
            return CopiedImage("", "", 0, warnings)
        if not self.is_kept and kind not in QEMU_FORMATS:
            from ..._image.checked_image import check_beginning

            words = self.driver.words
            warnings += tuple(check_beginning(head, length, path=self.name, verify=options.verify, words=words))
        return CopiedImage("", "", in_mebibytes(self.disk_size(head, tail, length)), warnings)

    def preview_stream(self, chunks: Iterable[bytes]) -> CopiedImage:
        """Return the preview of a source that can be read only once.

        :raises VmstoreError: the source isn't a usable image, or the space isn't enough.
        """
        from ..._image.copy import StoredSize, require_room_to_convert

        driver, options = self.driver, self.options
        chunks = self.digests.count(chunks)
        if self.may_unpack:
            chunks = self.unpack(chunks)
        with driver.store.target() as target:
            size = StoredSize(limit=driver.store.room(target), sparse=options.sparse, path=self.name)
            head, tail, length = _read_through(size.count(chunks))
            self.digests.verify(self.name)
            found = self.preview_beginning(head, tail, length)
            is_raw = self.is_kept or sniff(head) not in QEMU_FORMATS
            if (
                is_raw
                and driver.datastore.type != "file"
                and self.conversion.wanted_format("raw", is_encrypted=False) != "raw"
            ):
                require_room_to_convert(target, size.stored, taken=size.stored, names=self.name, sparse=options.sparse)
            return found

    def unpack(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the decompressed data. Refuse more data than the whole file system can hold.

        :raises VmstoreError: the data can't be decompressed, or is no image.
        """
        from ..._image.decompress import decompress

        return decompress(chunks, limit=self.driver.store.capacity(), path=self.path, require_image=self.require_image)

    def store(self, chunks: Iterable[bytes], target: int) -> None:
        """Write the bytes of the source to the open file ``target``, and decompress the data if the options request
        this.

        :raises VmstoreError: the error of :meth:`unpack`, or the data can't be written.
        """
        stored: Sequence[hashlib._Hash] = ()
        if self.may_unpack:
            from ..._image.decompress import peek

            kind, chunks = peek(chunks)
            if kind in COMPRESSIONS:
                stored = self.digests.separate_stored()
            chunks = self.unpack(self.digests.count(chunks))
        else:
            chunks = self.digests.count(chunks)
        self.write(chunks, target, stored)

    def write(self, chunks: Iterable[bytes], target: int, digests: Sequence[hashlib._Hash]) -> None:
        """Write data to the open file ``target``.

        :arg digests: are updated with the data.
        :raises VmstoreError: the data can't be written.
        """
        from ..._image.copy import write_stream

        limit = self.driver.store.room(target)
        write_stream(chunks, target, digests=digests, sparse=self.options.sparse, limit=limit, path=self.name)

    def measure(self, chunks: Iterable[bytes]) -> int:
        """Return the size in bytes of a disk that isn't compressed.

        :raises VmstoreError: the data is no image.
        """
        if self.is_kept:
            return self.disk_size(b"", b"", sum(map(len, chunks)))
        head, tail, length = _measure(chunks)
        self.require_image(sniff(head, tail))
        return self.disk_size(head, tail, length)

    def disk_size(self, head: bytes, tail: bytes, length: int | None) -> int:
        """Return the size in bytes of a disk that isn't compressed.

        :raises InvalidInput: the data has no valid header of an image.
        """
        size = virtual_size(b"" if self.is_kept else head, length, path=self.name)
        if self.is_kept or length is None or sniff(head) in QEMU_FORMATS:
            return size
        return fixed_vhd_size(tail, length) or size


def read_ends(descriptor: int, size: int) -> tuple[bytes, bytes, int]:
    """Return the first ``size`` bytes of a file or a block device, its last :data:`TAIL`, and its length in bytes.

    :raises OSError: the file can't be read.
    """
    length = length_of(descriptor)
    return os.pread(descriptor, size, 0), os.pread(descriptor, TAIL, max(length - TAIL, 0)), length


def _measure(chunks: Iterable[bytes]) -> tuple[bytes, bytes, int | None]:
    """Return the beginning of a stream, and the end and the length if the beginning doesn't show the size."""
    head, tail, length = b"", b"", 0
    for chunk in chunks:
        length += len(chunk)
        if len(head) < HEAD_SIZE:
            head += chunk
        elif sniff(head) in QEMU_FORMATS:
            return head, b"", None
        tail = (tail + chunk[-TAIL:])[-TAIL:]
    return head, tail, length


def _read_through(chunks: Iterable[bytes]) -> tuple[bytes, bytes, int]:
    """Read a whole stream, and return its beginning, its end and its length."""
    head, tail, length = b"", b"", 0
    for chunk in chunks:
        length += len(chunk)
        if len(head) < HEAD_SIZE:
            head += chunk
        tail = (tail + chunk[-TAIL:])[-TAIL:]
    return head, tail, length


def _redact(path: str) -> str:
    if not is_url(path):
        return path
    from ..._image.source import redact

    return redact(path)


__all__ = ["ImageSource", "read_ends"]
