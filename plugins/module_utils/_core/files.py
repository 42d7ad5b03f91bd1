# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write files so that a half-written one never bears a final name (design: one discipline for all data)."""

from __future__ import annotations

import contextlib
import os
import stat

from .errors import from_os_error


def write_atomic(path: str, data: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by a new file holding ``data``: temporary name beside it, fsync, rename, fsync of the directory.

    Owner, group, mode and extended attributes of an existing file are kept; a new file gets ``mode``. A symbolic link is
    followed, so that the link stays. On failure the old file is as it was and nothing is left behind.

    :raises NoSpace: the file system is full; :raises FileAccessFailed: any other refusal.
    """
    import tempfile  # takes longer to load than all that drivers need

    target = os.path.realpath(path)
    directory = os.path.dirname(target)
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(target)}.", dir=directory)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            _copy_attributes(target, file.fileno(), mode)
            os.fsync(file.fileno())
        os.rename(temporary, target)
        temporary = None
        sync_directory(directory)
    except OSError as error:
        raise from_os_error(error, f"write {path}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _copy_attributes(source: str, descriptor: int, mode: int) -> None:
    try:
        existing = os.stat(source)
    except FileNotFoundError:
        os.fchmod(descriptor, mode)
        return
    os.fchown(descriptor, existing.st_uid, existing.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(existing.st_mode))
    for name in os.listxattr(source):
        with contextlib.suppress(OSError):  # a security module may reserve an attribute for itself
            os.setxattr(descriptor, name, os.getxattr(source, name))


def sync_directory(path: str) -> None:
    """Make renames, creations and removals in the directory ``path`` durable (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_durably(path: str) -> bool:
    """Remove the file ``path``; ``False`` when it wasn't there."""
    try:
        os.unlink(path)
        sync_directory(os.path.dirname(os.path.abspath(path)))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise from_os_error(error, f"remove {path}") from error
    return True


def read_text(path: str) -> str:
    """The file's text, or ``""`` when it doesn't exist; undecodable bytes survive a round trip (surrogateescape)."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise from_os_error(error, f"read {path}") from error


__all__ = ["read_text", "remove_durably", "sync_directory", "write_atomic"]
