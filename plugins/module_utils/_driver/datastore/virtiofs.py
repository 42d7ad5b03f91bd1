# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Directories of hosts as images (spec: virtiofs-datastore).

Only their metadata is stored. The directories are never copied or removed.
"""

from __future__ import annotations

from types import MappingProxyType

from ..._core.records import TYPE_CHECKING
from ..info import DriverInfo
from .base import Capacity, CopiedImage, CopyOptions, DatastoreDriver

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..._host.directory import Directory, LookAt


class VirtiofsDriver(DatastoreDriver):
    info = DriverInfo(
        "virtiofs",
        datastore_types=frozenset(["image"]),
        image_types=frozenset(["filesystem"]),
        tm_drivers=("virtiofs",),
        stores_data=False,
    )

    #: Directories found by :meth:`look_ahead`, by path.
    _seen: Mapping[str, Directory] = MappingProxyType({})

    def look_ahead(self, paths: Sequence[str]) -> None:
        from ..._host.directory import look_at_many

        self._seen = look_at_many(paths, check=self.check)

    def cp(self, path: str, options: CopyOptions) -> CopiedImage:
        """
        :raises UnsupportedAction: images of another type.
        :raises PathNotAllowed: SAFE_DIRS and RESTRICTED_DIRS don't allow the directory.
        :raises VmstoreError: see :func:`look`.
        """
        self.require_type(options.image_type)
        found = self._seen.get(path) or self._look(path, measuring=options.measure)
        return CopiedImage(found.path, "dir", found.size_mb or 0)

    def stat(self, path: str, *, no_decompress: bool = False, any_content: bool = False) -> int:
        return self._look(path, measuring=True).size_mb or 0

    def _look(self, path: str, *, measuring: bool) -> Directory:
        from ..._host.directory import Measuring, look

        how = Measuring(self.timeout, self.log) if measuring else None
        return look(path, check=self.check, measuring=how, others=self._bridges())

    def _bridges(self) -> Mapping[str, LookAt]:
        """Return a function for each bridge that examines a directory of the bridge."""
        if not self.datastore.bridge_list:
            return {}
        from functools import partial

        from ..._remote.directory import look_there

        return {host: partial(look_there, host) for host in self.datastore.bridge_list}

    def rm(self, source: str) -> None:
        """Do nothing, because the directory belongs to the user."""

    def monitor(self) -> Capacity:
        return Capacity(0, 0, 0)


__all__ = ["VirtiofsDriver"]
