# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The directory of an export: its path, and the identity of its file system for the clients."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence

from ..._core.deadline import run_with_deadline
from ..._core.errors import CommandFailed, InvalidInput
from ..._core.files import read_text
from ..._core.paths import absolute
from ..._core.records import dataclass
from ..._model.mount_names import needed_directory
from ..mount import mountinfo
from ..mount import point as mount_point

#: Upper bound of the time of a look at the directory, in seconds.
TIMEOUT = 10

#: Types of file systems without a device whose identity stays the same after a new mount.
_LASTING = frozenset(("zfs", "ceph", "btrfs"))


@dataclass(frozen=True)
class ExportedDirectory:
    """A directory that is exported, or will be.

    :arg path: the path without symbolic links.
    :arg is_missing: whether the directory doesn't exist.
    :arg changeable: a directory in the path that another user can replace by a symbolic link; ``None`` without any.
    :arg fstype: the type of its file system, such as ``ext4``.
    :arg needs_fsid: whether NFS can't tell the file system from another one without the option fsid.
    :arg changes_identity: whether the file system is another one for clients after each mount, without fsid.
    """

    path: str
    is_missing: bool
    changeable: str | None
    fstype: str
    needs_fsid: bool
    changes_identity: bool


def look_at(option: str, path: str, proc: str = "/proc") -> ExportedDirectory:
    """Return the state of a directory.

    :raises InvalidInput: the path is that of something else, or belongs to the system; :raises PathNotAllowed: a
        symbolic link of another user leads elsewhere.
    :raises CommandFailed: its file system doesn't respond.
    """
    mounts = mountinfo.read_mounts(proc)
    require_data(option, path)
    resolved, is_missing, changeable, identity = run_with_deadline(
        TIMEOUT, f"Looking at the directory {path}", lambda: _look(option, path)
    )
    for name in (resolved, *mountinfo.aliases(mounts, resolved)):
        require_data(option, name)
    served = mountinfo.visible(mounts, resolved)[-1:]
    fstype = served[0].fstype if served else "unknown"
    has_device = fstype in _types_with_device(proc)
    return ExportedDirectory(
        resolved,
        is_missing,
        changeable,
        fstype,
        needs_fsid=not is_missing and not has_device and not identity,
        changes_identity=not is_missing and not has_device and fstype not in _LASTING,
    )


def resolve_or_keep(option: str, path: str) -> str:
    """Return an exported path without symbolic links, or the same path if its file system doesn't respond.

    :raises PathNotAllowed: a symbolic link of another user leads elsewhere.
    """
    try:
        return run_with_deadline(
            TIMEOUT, f"Looking at the directory {path}", lambda: mount_point.resolve(path, option=option)[0]
        )
    except CommandFailed:
        return path


def _look(option: str, path: str) -> tuple[str, bool, str | None, int]:
    resolved, missing = mount_point.resolve(path, option=option)
    if missing and os.path.lexists(missing[0]):
        raise InvalidInput(option, path, f"{missing[0]} exists and isn't a directory")
    identity = 0 if missing else os.statvfs(resolved).f_fsid  # exportfs looks at the same number
    return resolved, bool(missing), mount_point.changeable_by_others(resolved), identity


def check_path(option: str, path: str) -> str:
    """Return a path that exportfs can read, without repeated and trailing slashes.

    :raises InvalidInput: the path isn't absolute, or has characters that exportfs can misread.
    """
    checked = absolute(option, path)
    if "\\" in checked:
        raise InvalidInput(option, path, "a path without '\\' is expected, because exportfs can misread it")
    return checked


def require_data(option: str, path: str) -> None:
    """Refuse a directory that belongs to the system.

    :raises InvalidInput: naming the directory and its content.
    """
    needed = needed_directory(path)
    if needed is not None:
        directory, content = needed
        raise InvalidInput(
            option,
            path,
            f"{directory} holds {content}, which no client needs; a directory with data is expected, such as "
            "'/srv/vmstore'",
        )


def suggest_fsid(path: str) -> str:
    """Return a word for the option fsid that is always the same for a path."""
    return f"fsid={uuid.uuid5(uuid.NAMESPACE_URL, f'file://{path}')}"


def _types_with_device(proc: str) -> Sequence[str]:
    """Return the types of file systems that are on a block device."""
    lines = read_text(os.path.join(proc, "filesystems")).split("\n")
    return [line.strip() for line in lines if not line.startswith("nodev")]


__all__ = ["ExportedDirectory", "check_path", "look_at", "resolve_or_keep", "suggest_fsid"]
