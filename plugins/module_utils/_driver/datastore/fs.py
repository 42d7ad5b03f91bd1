# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ``fs`` driver of a datastore whose data is on the front-end."""

from __future__ import annotations

import contextlib

from ..._core.paths import is_url
from ..._core.records import TYPE_CHECKING
from .image_directory import ImageDirectoryDriver

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..._core.errors import VmstoreError
    from ..._model.datastore import Datastore
    from .base import CopyOptions
    from .image_source import ImageSource


class FsDriver(ImageDirectoryDriver):
    def try_attributes(self) -> None:
        from .attributes import try_values

        try_values(self.datastore.attributes)

    def check_mkfs(self, size_mb: int, image_format: str, fs: str | None) -> None:
        from ..._image.datablock import check_datablock

        check_datablock(
            format=image_format,
            size_mb=size_mb,
            fs=fs,
            supported=self.settings.supported_fs,
            fs_options=self.settings.fs_options.get(fs or "", ""),
        )

    def clone_origin(self, other: Datastore, subject: str) -> Datastore | None:
        if other.id == self.datastore.id:
            return None
        if other.bridge_list:
            self._refuse_origin(other, subject)
        return other

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        from ..._image.batch import Batch

        batch = self._store.batch = Batch()
        try:
            yield
        finally:
            batch.discard()
            self._store.batch = None

    def publish(self) -> Mapping[str, VmstoreError]:
        errors = {} if self._store.batch is None else self._store.batch.publish()
        return {self._store.source(path): error for path, error in errors.items()}

    def source_at(self, path: str, options: CopyOptions) -> ImageSource:
        if is_url(path):
            from .url_source import UrlSource

            return UrlSource(self, path, options)
        from .local_source import LocalSource

        return LocalSource(self, path, options)


__all__ = ["FsDriver"]
