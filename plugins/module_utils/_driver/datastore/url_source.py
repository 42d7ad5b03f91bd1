# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The data at a URL as the source of an image."""

from __future__ import annotations

from ..._core.records import TYPE_CHECKING
from ..._image.fetch import open_source, read_head
from ..._image.image_file import HEAD_SIZE
from ..._image.magic import sniff
from ..._image.source import Source
from ..._image.vhd_tables import FOOTER
from .base import CopiedImage
from .directory import MEBIBYTE
from .image_source import ImageSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .base import CopyOptions
    from .image_directory import ImageDirectoryDriver

#: Upper bound of the pause between two bytes of a preview in seconds.
PREVIEW_TIMEOUT = 10


class UrlSource(ImageSource):
    """The source at a URL. This host reads the data, with the front-end's downloader for schemes that need the
    downloader.

    :raises InvalidInput: an invalid URL, or a scheme without support.
    """

    def __init__(self, driver: ImageDirectoryDriver, path: str, options: CopyOptions) -> None:
        self._is_for_downloader = Source(path, driver.settings.downloader).is_for_downloader
        super().__init__(driver, path, options)

    def size(self) -> int:
        if self._is_for_downloader:
            from ..._image.downloader import read_to_end

            # The downloader is started only once, because the beginning may take as long as the whole image.
            with open_source(self.path, downloader=self.driver.settings.downloader, log=self.driver.log) as chunks:
                size = self.measure(self._limit(chunks))
                read_to_end(chunks, size)
                return size
        head, length = read_head(self.path, HEAD_SIZE)
        kind = sniff(head)
        self.require_image(kind)
        # A footer matters only if it changes the size in mebibytes.
        may_have_footer = length is not None and length % MEBIBYTE == FOOTER and kind == "raw" and not self.is_kept
        if length is None or self.is_unpacked(kind) or may_have_footer:
            limit = self.driver.store.capacity()
            with open_source(self.path, limit=limit, log=self.driver.log) as chunks:
                return self.measure(self._limit(chunks))
        return self.disk_size(head, b"", length)

    def _limit(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the data up to the size of the file system, decompressed if the options request this."""
        if self.may_unpack:
            return self.unpack(chunks)
        from ..._image.decompress import limit_bytes

        return limit_bytes(chunks, limit=self.driver.store.capacity(), path=self.path)

    def preview(self) -> CopiedImage:
        """Return the preview from the beginning of the data."""
        options, store = self.options, self.driver.store
        with store.target() as target:
            limit = store.room(target, is_whole=options.sparse)
        head, length = read_head(
            self.path, HEAD_SIZE, timeout=PREVIEW_TIMEOUT, limit=limit, headers=options.headers, ca=options.ca
        )
        kind = sniff(head)
        self.require_image(kind)
        if length == len(head):
            for _chunk in self.digests.count([head]):
                pass
            self.digests.verify(self.name)
        if self.is_unpacked(kind):
            from ..._image.decompress import decompress_beginning

            head, length = decompress_beginning(head, HEAD_SIZE, path=self.path), None
            if not head:  # the beginning is too short to decompress
                return CopiedImage("", "", 0)
        return self.preview_beginning(head, b"", length)

    def copy(self, target: int) -> Sequence[str]:
        options, driver = self.options, self.driver
        warnings: list[str] = []
        with open_source(
            self.path,
            bandwidth=options.bandwidth,
            limit=driver.store.room(target, is_whole=options.sparse),
            verify=options.verify,
            headers=options.headers,
            ca=options.ca,
            words=driver.words,
            downloader=driver.settings.downloader,
            log=driver.log,
            warn=warnings.append,
        ) as chunks:
            self.store(chunks, target)
        return warnings


__all__ = ["UrlSource"]
