# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of live mounts, proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from ..._core.errors import printable
from ..._core.files import read_text
from ..._core.paths import is_within
from ..._core.records import dataclass
from .options import split_options


@dataclass(frozen=True)
class Mount:
    """A mount in the table.

    ``options`` are its own, ``super_options`` those of its superblock; ``root`` is the directory of the file system
    that is mounted.
    """

    mount_id: int
    parent_id: int
    device: str
    root: str
    mount_point: str
    options: tuple[str, ...]
    fstype: str
    source: str
    super_options: tuple[str, ...]

    def __str__(self) -> str:
        # Every user can mount a file system in user space, with a source of any characters.
        return printable(f"{self.source} (type {self.fstype}) on {self.mount_point}")


def unescape(field: str) -> str:
    """Return a field with its ``\\ooo`` octal escapes replaced by their bytes; fstab(5) has the same escapes."""
    if "\\" not in field:
        return field
    data = field.encode("utf-8", "surrogateescape")
    data = re.sub(rb"\\([0-3][0-7]{2})", lambda match: bytes([int(match[1], 8)]), data)
    return data.decode("utf-8", "surrogateescape")


def read_mounts(proc: str = "/proc", process: str = "self") -> list[Mount]:
    """Return all mounts in the mount namespace of a process, oldest first.

    :raises FileAccessFailed: there is no such process.
    """
    return parse(read_text(os.path.join(proc, process, "mountinfo")))


def parse(text: str) -> list[Mount]:
    """Return all mounts of a mountinfo file, oldest first.

    Lines end with a line feed and fields with a blank, whatever else a path holds.
    """
    return [_parse_line(line) for line in text.split("\n") if line]


def _parse_line(line: str) -> Mount:
    own, _hyphen, superblock = line.partition(" - ")
    mount_id, parent_id, device, root, mount_point, options = own.split(" ")[:6]  # optional fields follow
    fstype, source, super_options = superblock.split(" ", 2)
    return Mount(
        int(mount_id),
        int(parent_id),
        device,
        unescape(root),
        unescape(mount_point),
        tuple(split_options(options)),
        unescape(fstype),
        unescape(source),
        tuple(split_options(super_options)),
    )


def mounts_at(mounts: Sequence[Mount], path: str) -> list[Mount]:
    """Return all mounts whose mount point is ``path``, seen or hidden, oldest first."""
    return [mount for mount in mounts if mount.mount_point == path]


def visible(mounts: Sequence[Mount], path: str) -> list[Mount]:
    """Return the mounts on the way to ``path``, from the root's to the one that serves ``path``.

    A mount that is hidden by a later mount on a parent directory isn't on the way. A mount that is hidden at its own
    mount point is.
    """
    known = {mount.mount_id for mount in mounts}
    below = [mount for mount in mounts if mount.parent_id not in known or mount.parent_id == mount.mount_id]
    passed: list[Mount] = []
    while True:
        ahead = [mount for mount in below if is_within(path, mount.mount_point)]
        if not ahead:
            return passed
        passed.append(min(ahead, key=lambda mount: len(mount.mount_point)))
        below = [mount for mount in mounts if mount.parent_id == passed[-1].mount_id and mount not in passed]


def place(mounts: Sequence[Mount], path: str) -> tuple[str, str] | None:
    """Return the device of the file system that serves ``path``, and the path in that file system; ``None`` if no
    directory is mounted.
    """
    served = visible(mounts, path)[-1:]
    if not served or not served[0].root.startswith("/"):
        return None
    return served[0].device, os.path.normpath(
        os.path.join(served[0].root, os.path.relpath(path, served[0].mount_point))
    )


def aliases(mounts: Sequence[Mount], path: str) -> list[str]:
    """Return every path of the directory ``path``, because bind mounts have one directory under several paths.

    A mount on one of them may appear on all (mount_namespaces(7): shared).
    """
    found = place(mounts, path)
    return [
        os.path.normpath(os.path.join(mount.mount_point, os.path.relpath(found[1], mount.root)))
        for mount in mounts
        if found and mount.device == found[0] and mount.root.startswith("/") and is_within(found[1], mount.root)
    ]


__all__ = ["Mount", "aliases", "mounts_at", "parse", "place", "read_mounts", "unescape", "visible"]
