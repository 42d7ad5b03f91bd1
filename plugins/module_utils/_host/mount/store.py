# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The root directory of a mounted store, and its marker.

The marker is a file with a UUID. Two hosts that find the same UUID at a path have the same store there. The calls here
access the mount and may hang, so they run in child processes (:mod:`..._core.deadline`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..._core.directory import descriptor_path, open_file_at, sync_opened
from ..._core.errors import CommandFailed, Conflict, os_errors
from ..._core.identity import acting_as, owner_of
from ..._core.records import dataclass
from .point import hold, open_held

MARKER = ".granary-store"

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: Errors of link(2) on file systems without hard links.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class StoreRoot:
    """The root directory of a store. ``marker`` is its UUID; ``None`` without a marker."""

    uid: int
    gid: int
    mode: int
    marker: str | None


def is_uuid(text: str) -> bool:
    """Return whether a text is a UUID in lower case (RFC 9562)."""
    return _UUID.fullmatch(text) is not None


def read_root(path: str) -> StoreRoot:
    """Return the state of the root directory of the store that is mounted on ``path``.

    :raises Conflict: the marker is damaged; :raises FileAccessFailed: the store can't be read.
    """
    with _opened_root(path) as root, os_errors(f"read {path}/{MARKER}"):
        status = os.fstat(root)
        marker = _as_owner(root, lambda: _read_marker(root, path))
    return StoreRoot(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), marker)


def create_marker(path: str, uuid: str) -> None:
    """Create the marker of the store that is mounted on ``path``.

    :raises Conflict: another host created one meanwhile; :raises FileAccessFailed: the store refused.
    """
    with _opened_root(path) as root, os_errors(f"create {path}/{MARKER}"):
        found = _as_owner(root, lambda: _create_marker(root, path, uuid))
    if found != uuid:
        raise Conflict(f"Another host marked the store on {path} with {found} meanwhile; run it again.")


def remove_marker(path: str, uuid: str) -> None:
    """Remove the marker if it has this UUID."""
    with _opened_root(path) as root, os_errors(f"remove {path}/{MARKER}"):
        if _as_owner(root, lambda: _read_marker(root, path)) == uuid:
            _as_owner(root, lambda: os.unlink(MARKER, dir_fd=root))


def change_root(path: str, uid: int, gid: int, mode: int) -> None:
    """Set the owner, the group and the mode of the root directory of the store that is mounted on ``path``.

    :raises CommandFailed: the server refused, with the remedy.
    """
    with _opened_root(path) as root:
        found = os.fstat(root)
        try:
            _as_owner(root, lambda: _apply(root, path, uid, gid, mode))
        except (OSError, CommandFailed) as error:
            # After the owner was changed, the server may still refuse the mode.
            with contextlib.suppress(OSError, CommandFailed):
                _apply(root, path, found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))
            if isinstance(error, PermissionError):
                raise CommandFailed(
                    f"The server refused to change the owner or the mode of {path}: it doesn't accept root of this "
                    "host (root_squash). Set them on the server, or export with no_root_squash."
                ) from error
            raise


def _apply(root: int, path: str, uid: int, gid: int, mode: int) -> None:
    found = os.fstat(root)
    if (found.st_uid, found.st_gid) != (uid, gid):
        os.chown(descriptor_path(root), uid, gid)
    os.chmod(descriptor_path(root), mode)
    found = os.fstat(root)
    if (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) != (uid, gid, mode):
        raise CommandFailed(
            f"The server keeps {path} as {found.st_uid}:{found.st_gid} {stat.S_IMODE(found.st_mode):04o} instead of "
            f"{uid}:{gid} {mode:04o}: it maps users (all_squash, or id mapping)."
        )


@contextlib.contextmanager
def _opened_root(path: str) -> Iterator[int]:
    with hold(path) as (parent, name):
        with open_held(parent, name) as root, os_errors(f"look at the store on {path}"):
            yield root


def _as_owner(root: int, function: Callable[[], Answer]) -> Answer:
    """Call ``function``, and once more with the rights of the owner of the store if the server refuses root."""
    try:
        return function()
    except PermissionError:
        owner = owner_of(os.fstat(root))
        if owner is None:
            raise
        with acting_as(owner):
            return function()


def _read_marker(root: int, path: str) -> str | None:
    try:
        descriptor = _open_marker(root)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise Conflict(f"The marker {path}/{MARKER} isn't a regular file.") from error
        raise
    with os.fdopen(descriptor, "rb") as file:
        text = file.read(64).decode("ascii", "replace").strip()
    if not is_uuid(text):
        raise Conflict(f"The marker {path}/{MARKER} is damaged: it holds no UUID.")
    return text


def _open_marker(root: int) -> int:
    try:
        return open_file_at(root, MARKER)
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return open_file_at(root, MARKER)  # another host removed the file whose name this host still had


def _create_marker(root: int, path: str, uuid: str) -> str | None:
    """Create the marker, and return the UUID of the marker that is there then."""
    part = f"{MARKER}.{uuid}"
    # The name with the content appears at once, whatever other hosts do at the same time.
    _write_new(root, part, uuid)
    try:
        with contextlib.suppress(FileExistsError):
            try:
                os.link(part, MARKER, src_dir_fd=root, dst_dir_fd=root, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                # rename(2) could replace the marker of another host.
                _write_new(root, MARKER, uuid)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part, dir_fd=root)
    sync_opened(root)
    return _read_marker(root, path)


def _write_new(root: int, name: str, uuid: str) -> None:
    """Create a file with the UUID.

    :raises FileExistsError: the name is taken; :raises OSError: the store refused, and the file is removed.
    """
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o444, dir_fd=root)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(f"{uuid}\n".encode())
            file.flush()
            os.fchmod(file.fileno(), 0o444)
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=root)
        raise


__all__ = ["MARKER", "StoreRoot", "change_root", "create_marker", "is_uuid", "read_root", "remove_marker"]
