# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The paths that images of a datastore can be made of: SAFE_DIRS and RESTRICTED_DIRS (spec: storage-driver)."""

from __future__ import annotations

from ..._core.paths import check_allowed, real_path
from ..._core.records import TYPE_CHECKING
from ..._core.words import MODULE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..._model.datastore import Datastore

#: RESTRICTED_DIRS of every datastore: the directories of the system and its services. The root directory is an
#: ancestor of these.
SYSTEM_DIRS = tuple("/bin /boot /dev /etc /lib /lib32 /lib64 /libx32 /proc /root /run /sbin /sys /usr /var".split())

#: Default SAFE_DIRS of a datastore.
SAFE_DIRS = ("/var/tmp",)


def protected_paths(catalog: str, datastores: Iterable[Datastore]) -> list[str]:
    """Return the paths that no image is made of: the catalog at the path ``catalog``, and all its datastores."""
    directories = {directory for datastore in datastores for directory in datastore.directories()}
    return sorted({*directories, real_path(catalog)})


def check_image_path(
    datastore: Datastore,
    protected: Iterable[str],
    path: str,
    *names: str,
    safe_option: str = MODULE.safe_dirs,
) -> None:
    """Refuse a resolved path that no image may be made of.

    :arg protected: what :func:`protected_paths` returns.
    :arg names: other names that root gave the file. They can be allowed or restricted, too.
    :arg safe_option: the user's name for the list of safe directories.
    :raises PathNotAllowed: SAFE_DIRS and RESTRICTED_DIRS don't allow the path. The message names the directory.
    """
    restricted = {*SYSTEM_DIRS, *protected, *datastore.restricted_dirs, *datastore.directories()}
    safe = datastore.safe_dirs or SAFE_DIRS
    check_allowed("path", path, safe=safe, restricted=sorted(restricted), safe_option=safe_option, names=names)


__all__ = ["SAFE_DIRS", "SYSTEM_DIRS", "check_image_path", "protected_paths"]
