# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A file that the front-end sends to a bridge as the source of an image."""

from __future__ import annotations

from ..._core.records import TYPE_CHECKING
from ..._image.image_file import HEAD_SIZE
from ..._image.magic import sniff
from ..._remote.stream import UNKNOWN, Received
from .base import CopiedImage, CopyOptions
from .image_source import ImageSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .receiving import ReceivingFsDriver


class ReceivedSource(ImageSource):
    """The data from the front-end. It can be read only once."""

    def __init__(self, driver: ReceivingFsDriver, path: str, options: CopyOptions, received: Received) -> None:
        super().__init__(driver, path, options)
        self._received = received

    def size(self) -> int:
        head, chunks = self._received.begin(HEAD_SIZE)
        kind = sniff(head)
        self.require_image(kind)
        if self._received.size == UNKNOWN:
            return self.measure(self.unpack(chunks) if self.may_unpack else chunks)
        if self.is_unpacked(kind):
            return self.measure(self.unpack(chunks))
        return self.disk_size(head, b"", self._received.size)

    def preview(self) -> CopiedImage:
        head, chunks = self._received.begin(HEAD_SIZE)
        self.require_image(sniff(head))
        return self.preview_stream(chunks)

    def copy(self, target: int) -> Sequence[str]:
        head, chunks = self._received.begin(HEAD_SIZE)
        kind = sniff(head)
        self.require_image(kind)
        if self.is_unpacked(kind):
            self.store(chunks, target)
        else:
            self.write(chunks, target, self.digests.of_source)
        for _rest in chunks:
            pass  # the last frame verifies the digest
        return ()


__all__ = ["ReceivedSource"]
