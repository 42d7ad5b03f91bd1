# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A directory of this host that is shared with guests. Its descriptor makes sure that the checked directory is the
one in use.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from .._core.errors import DependencyNotFound, InvalidInput, StaleState, from_os_error
from .._model.idmap import IdMap
from .ids.idmap_check import host_id
from .made_directory import Ownership


class HeldDirectory:
    """An open directory (O_PATH, so that its entries aren't read) whose path holds no symbolic link.

    :arg option: the option that named the directory, for messages.
    :raises DependencyNotFound: the directory is missing; :raises StaleState: the path leads to another directory;
        :raises InvalidInput: the path isn't that of a directory.
    """

    def __init__(self, option: str, path: str) -> None:
        self.option = option
        self.path = path
        self.descriptor = self._open()
        #: The owner and the mode that the directory will get. Checks use them instead of the present ones.
        self.planned: Ownership | None = None

    def _open(self) -> int:
        try:
            descriptor = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            where = "it has to be there at the same path as on the front-end"
            raise DependencyNotFound(
                f"{self.option}: the directory {self.path!r} is not on this host; {where}."
            ) from error
        except NotADirectoryError as error:
            raise InvalidInput(self.option, self.path, "a directory is expected") from error
        except OSError as error:
            raise from_os_error(error, f"open the directory {self.path}") from error
        real = os.readlink(f"/proc/self/fd/{descriptor}")
        if real != self.path:
            os.close(descriptor)
            raise StaleState(
                f"{self.option}: the directory {self.path!r} now leads to {real!r} through a symbolic link; it is not "
                "exported."
            )
        return descriptor

    def status(self) -> os.stat_result:
        """Return the present status of the open directory, independent of its path."""
        return os.fstat(self.descriptor)

    def check_same(self) -> None:
        """Refuse a path that leads to another directory than the opened one.

        :raises StaleState: the directory was replaced.
        """
        again = self._open()
        try:
            if not os.path.samestat(os.fstat(again), self.status()):
                raise StaleState(
                    f"{self.option}: the directory {self.path!r} was replaced by another one while it was being "
                    "exported."
                )
        finally:
            os.close(again)

    def obstacle(self, uid_map: Sequence[IdMap], gid_map: Sequence[IdMap], *, write: bool) -> str | None:
        """Return the component of the path whose owner and mode keep the guest's root out, as part of a sentence;
        ``None`` if the guest's root has access.

        The guest's root has the rights of root for files whose owner and group are both mapped, and those of an other
        user for all other files.
        """
        root = host_id(uid_map, 0), host_id(gid_map, 0)
        for component in self._components():
            shared = component == self.path
            needed = stat.S_IXOTH | (stat.S_IROTH if shared else 0) | (stat.S_IWOTH if shared and write else 0)
            found = self.planned if shared and self.planned else Ownership.of(_look(component))
            is_over_it = _is_mapped(uid_map, found.uid) and _is_mapped(gid_map, found.gid)
            if not is_over_it and _lacks(found, *root, needed) and not _has_acl(component):
                return _describe(component, found)
        return None

    def closed_way(
        self, uid: int, gid: int, uid_map: Sequence[IdMap], gid_map: Sequence[IdMap]
    ) -> tuple[str, str] | None:
        """Return the directory above that virtiofsd can't pass, and its owner and mode, as part of a sentence; ``None``
        if virtiofsd gets there.

        virtiofsd looks for the directory as the user that runs it, and once more as the guest's root.

        :arg uid, gid: ids of that user, who has no other groups.
        """
        root = host_id(uid_map, 0), host_id(gid_map, 0)
        for component in self._components()[:-1]:
            found = Ownership.of(_look(component))
            is_over_it = _is_mapped(uid_map, found.uid) and _is_mapped(gid_map, found.gid)
            closed_to_root = not is_over_it and _lacks(found, *root, stat.S_IXOTH)
            if (closed_to_root or _lacks(found, uid, gid, stat.S_IXOTH)) and not _has_acl(component):
                return component, _describe(component, found)
        return None

    def _components(self) -> list[str]:
        parts = self.path.split("/")
        return ["/".join(parts[:depth]) or "/" for depth in range(1, len(parts) + 1)]


def _look(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise from_os_error(error, f"look at the directory {path}") from error


def _lacks(found: Ownership, uid: int | None, gid: int | None, needed: int) -> bool:
    """Return whether owner and mode refuse a user the permissions ``needed``, in the bits of the others."""
    granted = found.mode >> 6 if found.uid == uid else found.mode >> 3 if found.gid == gid else found.mode
    return bool(needed & ~granted)


def _describe(path: str, found: Ownership) -> str:
    return f"{path} belongs to {found.uid}:{found.gid} with mode {found.mode:04o}"


def _is_mapped(maps: Sequence[IdMap], host_id: int) -> bool:
    return any(one.target <= host_id < one.target + one.count for one in maps)


def _has_acl(path: str) -> bool:
    """Return whether a directory has an access control list. Then only the kernel can check access."""
    try:
        return "system.posix_acl_access" in os.listxattr(path)
    except OSError:
        return False


__all__ = ["HeldDirectory"]
