# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Directories of hosts as images (spec: virtiofs-datastore). Only their metadata is stored; nothing is ever copied or removed."""

from __future__ import annotations

from .._core.paths import check_allowed
from .._host.directory import look
from .base import Capacity, CopiedImage, DatastoreDriver, DriverInfo

#: RESTRICTED_DIRS of every datastore: what a system and its services live of. The root directory is an ancestor of these.
SYSTEM_DIRS = tuple("/bin /boot /dev /etc /lib /lib32 /lib64 /libx32 /proc /root /run /sbin /sys /usr /var".split())

#: SAFE_DIRS of every datastore.
SAFE_DIRS = ("/var/tmp",)


class VirtiofsDriver(DatastoreDriver):
    info = DriverInfo("virtiofs", datastore_types=frozenset(["image"]), image_types=frozenset(["filesystem"]), tm_drivers=("virtiofs",))

    def cp(self, path: str) -> CopiedImage:
        """
        :raises PathNotAllowed: SAFE_DIRS and RESTRICTED_DIRS don't allow the directory.
        :raises VmstoreError: as :func:`look`.
        """
        found = look(path, bridges=self.datastore.bridge_list, check=self.check, timeout=self.timeout)
        return CopiedImage(found.path, "dir", found.size_mb)

    def stat(self, path: str) -> int:
        return look(path, bridges=self.datastore.bridge_list, timeout=self.timeout).size_mb

    def rm(self, source: str) -> None:
        """The directory is the user's."""

    def monitor(self) -> Capacity:
        return Capacity(0, 0, 0)

    def check(self, path: str) -> None:
        """By SAFE_DIRS and RESTRICTED_DIRS."""
        restricted = {*SYSTEM_DIRS, *self.protected, *self.datastore.restricted_dirs, *self.datastore.directories()}
        check_allowed("path", path, safe=[*SAFE_DIRS, *self.datastore.safe_dirs], restricted=sorted(restricted))


__all__ = ["VirtiofsDriver"]
