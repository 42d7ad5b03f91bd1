# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ``fs`` driver on a bridge, which receives the files of the front-end."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

from ..._core.errors import NotFound, TransferFailed
from ..._core.paths import is_url
from ..._core.records import TYPE_CHECKING
from ..._image.layout import is_image_name
from ..._remote.serve import Handlers, Request
from ..._remote.stream import Received
from .base import CopiedImage, CopyOptions, ImageUse
from .image_directory import ImageDirectoryDriver

if TYPE_CHECKING:
    from .image_source import ImageSource


class ReceivingFsDriver(ImageDirectoryDriver):
    """The driver of a bridge. If ``received`` has data, this data is the source, regardless of the path or URL."""

    received: Received | None = None

    def source_at(self, path: str, options: CopyOptions) -> ImageSource:
        if self.received is not None:
            from .received_source import ReceivedSource

            return ReceivedSource(self, path, options, self.received)
        if is_url(path):
            from .url_source import UrlSource

            return UrlSource(self, path, options)
        raise TransferFailed(f"The file {path} did not come with the request.")

    def uses(self, running: bool) -> Sequence[ImageUse]:
        """Return the :meth:`users` of all images.

        :raises VmstoreError: the directory can't be read.
        """
        names = self.image_users.names(is_running=running)
        sources = {self.store.source(name) for name in names if is_image_name(name)}
        with contextlib.suppress(NotFound):  # no image was stored yet
            sources |= self.stored()
        return tuple(
            ImageUse(source, user) for source in sorted(sources) for user in self.users(source, running=running)
        )


#: The method of the driver for each operation.
HANDLERS: dict[str, Callable[..., Any]] = {
    "clone": ReceivingFsDriver.clone,
    "cp": ReceivingFsDriver.cp,
    "damage": ReceivingFsDriver.damage,
    "export": ReceivingFsDriver.export,
    "inventory": ReceivingFsDriver.inventory,
    "mkfs": ReceivingFsDriver.mkfs,
    "monitor": ReceivingFsDriver.monitor,
    "prepare": ReceivingFsDriver.prepare,
    "preview": ReceivingFsDriver.preview,
    "preview_clone": ReceivingFsDriver.preview_clone,
    "preview_mkfs": ReceivingFsDriver.preview_mkfs,
    "preview_resize": ReceivingFsDriver.preview_resize,
    "preview_snapshot": ReceivingFsDriver.preview_snapshot,
    "resize": ReceivingFsDriver.resize,
    "rm": ReceivingFsDriver.rm,
    "snap_delete": ReceivingFsDriver.snap_delete,
    "snap_flatten": ReceivingFsDriver.snap_flatten,
    "snap_revert": ReceivingFsDriver.snap_revert,
    "snap_same": ReceivingFsDriver.snap_same,
    "snap_size": ReceivingFsDriver.snap_size,
    "snapshots": ReceivingFsDriver.snapshots,
    "stat": ReceivingFsDriver.stat,
    "stored": ReceivingFsDriver.stored,
    "sweep": ReceivingFsDriver.sweep,
    "uses": ReceivingFsDriver.uses,
    "vm_usage": ReceivingFsDriver.vm_usage,
}


def begin(request: Request, received: Received | None, log: Callable[[str], object]) -> Handlers:
    """Return the handlers of a request for :func:`serve`."""
    driver = ReceivingFsDriver(
        request["datastore"], **{name: request[name] for name in ("settings", "timeout", "words", "may_mount")}, log=log
    )
    driver.received = received
    handlers = {name: functools.partial(handler, driver) for name, handler in HANDLERS.items()}
    return handlers, functools.partial(_remove, driver)


def _remove(driver: ImageDirectoryDriver, made: str | CopiedImage) -> None:
    driver.rm(made if isinstance(made, str) else made.source)


__all__ = ["HANDLERS", "ReceivingFsDriver", "begin"]
