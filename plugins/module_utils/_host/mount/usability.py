# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The actions that a user can do in a mounted store. They are tried with a file, because only the server decides.

The calls here access the mount and may hang, so they run in a child process (:mod:`..._core.deadline`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import uuid
from collections.abc import Callable, Sequence

from ..._core.errors import FULL, Conflict, VmstoreError, from_os_error
from ..._core.identity import Identity, acting_as
from .point import hold, open_held

#: The actions that can be tried, in this order.
ACTIONS = ("create", "chmod", "chown", "lock")

#: Another user than those of a host, for a file that changes its owner.
_SOMEBODY = 1


def require_usable(path: str, name: str, user: Identity, actions: Sequence[str]) -> None:
    """Try the actions in the store that is mounted on ``path``, with a file that is removed at the end.

    ``chown`` is tried as root, because libvirt and drivers give files to other users as root.

    :arg name: the user's name, for messages.
    :raises Conflict: an action failed, with the reason and the remedy; :raises NoSpace: the store is full.
    """
    with hold(path) as (parent, point):
        with open_held(parent, point) as root:
            with acting_as(user):
                _require_way(path, name)
            _Trial(path, name, user, root).run(actions)


def _require_way(path: str, name: str) -> None:
    """Require that the acting user can reach ``path``.

    :raises Conflict: naming the first directory that is closed.
    """
    parts = path.split("/")
    for depth in range(2, len(parts) + 1):
        directory = "/".join(parts[:depth])
        if not os.access(directory, os.X_OK, effective_ids=True):
            raise Conflict(f"verify: the user {name} can't reach {path}, because {directory} is closed to that user.")


class _Trial:
    def __init__(self, path: str, name: str, user: Identity, root: int) -> None:
        self._path, self._name, self._user, self._root = path, name, user, root
        self._file = f".granary-trial-{uuid.uuid4()}"

    def run(self, actions: Sequence[str]) -> None:
        with acting_as(self._user):
            descriptor = self._create()
        try:
            for action in actions:
                trial: Callable[[int], None] = getattr(self, f"_try_{action}")
                trial(descriptor)
        finally:
            os.close(descriptor)
            with contextlib.suppress(OSError), acting_as(self._user):
                os.unlink(self._file, dir_fd=self._root)
            with contextlib.suppress(OSError):  # a sticky directory, after the file was given away
                os.unlink(self._file, dir_fd=self._root)

    def _create(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(self._file, flags, 0o600, dir_fd=self._root)
        except OSError as error:
            status = os.fstat(self._root)
            mode = f"{status.st_uid}:{status.st_gid} with mode {stat.S_IMODE(status.st_mode):04o}"
            remedy = {
                errno.EROFS: "the store is mounted or exported read-only",
                errno.EACCES: f"the store belongs to {mode}; set owner, group or mode so that the user may write",
            }.get(error.errno or 0, str(error.strerror))
            raise self._failure("create a file", error, remedy) from error

    def _try_create(self, descriptor: int) -> None:
        found = os.fstat(descriptor).st_uid
        if found != self._user.uid:
            raise self._refusal(
                "create a file of its own",
                f"the server gives it to {found} instead of {self._user.uid}; without all_squash, or with "
                f"anonuid={self._user.uid}, or with the same ids on both sides, it is the user's",
            )
        try:
            os.write(descriptor, b"x")
            os.fsync(descriptor)
        except OSError as error:
            raise self._failure("write to a file", error) from error

    def _try_chmod(self, descriptor: int) -> None:
        try:
            with acting_as(self._user):
                os.fchmod(descriptor, 0o640)
        except OSError as error:
            raise self._failure("change the mode of a file", error) from error
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != 0o640:
            raise self._refusal("change the mode of a file", "the server kept another mode")

    def _try_chown(self, descriptor: int) -> None:
        try:
            os.fchown(descriptor, _SOMEBODY, _SOMEBODY)
            found = os.fstat(descriptor).st_uid
            os.fchown(descriptor, self._user.uid, self._user.gid)
        except OSError as error:
            remedy = (
                "the server squashes root (root_squash): export with no_root_squash, or leave chown out of verify"
                if error.errno in (errno.EPERM, errno.EACCES)
                else None
            )
            raise self._failure("give a file to another user as root", error, remedy) from error
        if found != _SOMEBODY:
            raise self._refusal("give a file to another user as root", f"the server kept the owner {found}")

    def _try_lock(self, descriptor: int) -> None:
        for call in (fcntl.lockf, fcntl.flock):
            try:
                call(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                call(descriptor, fcntl.LOCK_UN)
            except OSError as error:
                remedy = (
                    "no lock manager responds (for NFS version 3, rpcbind and rpc.statd have to run on both sides)"
                    if error.errno == errno.ENOLCK
                    else None
                )
                raise self._failure("lock a file", error, remedy) from error

    def _failure(self, action: str, error: OSError, remedy: str | None = None) -> VmstoreError:
        """Return the error for an action that the operating system refused."""
        if error.errno in FULL:
            return from_os_error(error, f"{action} in {self._path} as the user {self._name}")
        return self._refusal(action, remedy or str(error.strerror))

    def _refusal(self, action: str, remedy: str) -> Conflict:
        return Conflict(f"verify: the user {self._name} can't {action} in {self._path}: {remedy}.")


__all__ = ["ACTIONS", "require_usable"]
