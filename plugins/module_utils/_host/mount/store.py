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

from ..._core.directory import open_file_at, sync_opened
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
    with _opened_root(path) as root:
        status = os.fstat(root)
        marker = _as_owner(root, f"read {path}/{MARKER}", lambda: _read_marker(root, path))
    return StoreRoot(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), marker)


def create_marker(path: str, uuid: str) -> None:
    """Create the marker of the store that is mounted on ``path``.

    :raises Conflict: another host created one meanwhile; :raises FileAccessFailed: the store refused.
    """
    with _opened_root(path) as root:
        found = _as_owner(root, f"create {path}/{MARKER}", lambda: _create_marker(root, path, uuid))
    if found != uuid:
        raise Conflict(f"Another host marked the store on {path} with {found} meanwhile; run it again.")


def remove_marker(path: str, uuid: str) -> None:
    """Remove the marker if it has this UUID."""
    with _opened_root(path) as root:
        if _as_owner(root, f"read {path}/{MARKER}", lambda: _read_marker(root, path)) == uuid:
            _as_owner(root, f"remove {path}/{MARKER}", lambda: os.unlink(MARKER, dir_fd=root))


def change_root(path: str, uid: int, gid: int, mode: int) -> None:
    """Set the owner, the group and the mode of the root directory of the store that is mounted on ``path``.

    :raises CommandFailed: the server refused, with the remedy.
    """
    with _opened_root(path) as root:
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        try:
            found = os.fstat(descriptor)
            if (found.st_uid, found.st_gid) != (uid, gid):
                os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, mode)
            got = os.fstat(descriptor)
        except PermissionError as error:
            raise CommandFailed(
                f"The server refused to change the owner or the mode of {path}: it doesn't accept root of this host "
                "(root_squash). Set them on the server, or export with no_root_squash."
            ) from error
        finally:
            os.close(descriptor)
    if (got.st_uid, got.st_gid, stat.S_IMODE(got.st_mode)) != (uid, gid, mode):
        raise CommandFailed(
            f"The server keeps {path} as {got.st_uid}:{got.st_gid} {stat.S_IMODE(got.st_mode):04o} instead of "
            f"{uid}:{gid} {mode:04o}: it maps users (all_squash, or id mapping)."
        )


@contextlib.contextmanager
def _opened_root(path: str) -> Iterator[int]:
    with hold(path) as (parent, name), open_held(parent, name) as root, os_errors(f"look at the store on {path}"):
        yield root


def _as_owner(root: int, doing: str, function: Callable[[], Answer]) -> Answer:
    """Call ``function``, and once more with the rights of the owner of the store if the server refuses root."""
    with os_errors(doing):
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
        descriptor = open_file_at(root, MARKER)
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


def _create_marker(root: int, path: str, uuid: str) -> str | None:
    """Create the marker, and return the UUID of the marker that is there then."""
    part = f"{MARKER}.{uuid}"
    # The name with the content appears at once, whatever other hosts do at the same time.
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o444, dir_fd=root)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(f"{uuid}\n".encode())
            file.flush()
            os.fchmod(file.fileno(), 0o444)
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            try:
                os.link(part, MARKER, src_dir_fd=root, dst_dir_fd=root, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                os.rename(part, MARKER, src_dir_fd=root, dst_dir_fd=root)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part, dir_fd=root)
    sync_opened(root)
    return _read_marker(root, path)


__all__ = ["MARKER", "StoreRoot", "change_root", "create_marker", "is_uuid", "read_root", "remove_marker"]
