# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""System calls that the standard library doesn't offer, through ctypes."""

from __future__ import annotations

import ctypes
import os
import stat
from pathlib import Path
from typing import NamedTuple

#: rename(2).
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4
#: umount2(2).
MNT_DETACH = 2
#: mount(2).
_MS_REMOUNT = 32

#: Source of a mount that no mount helper made, in the kernel's table.
SOURCE = "simulated-datastore"
#: File system types that the mount helpers are there for (mount(8), "EXTERNAL HELPERS").
HELPER_TYPES = ("sim", "nfs", "nfs4")
#: Upper bound of the symbolic links in a path (path_resolution(7)).
_MOST_LINKS = 40

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, path: object = None) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def renameat2(old_fd: int, old: bytes, new_fd: int, new: bytes, flags: int) -> None:
    """renameat2(2); raises :class:`OSError`."""
    _check(_libc.renameat2(old_fd, ctypes.c_char_p(old), new_fd, ctypes.c_char_p(new), ctypes.c_uint(flags)))


def unmount(path: str, flags: int = 0) -> None:
    """umount2(2); raises :class:`OSError`."""
    _check(_libc.umount2(ctypes.c_char_p(os.fsencode(path)), ctypes.c_int(flags)), path)


def remount(path: str, flags: int) -> None:
    """mount(2) with MS_REMOUNT: change the flags of what is mounted at *path*. Raises :class:`OSError`."""
    _check(_libc.mount(None, ctypes.c_char_p(os.fsencode(path)), None, ctypes.c_ulong(_MS_REMOUNT | flags), None), path)


def lines(path: Path) -> list[str]:
    """The lines of a file of proc(5): a line feed alone ends one, while names may hold what else
    :meth:`str.splitlines` takes for an end.
    """
    return path.read_bytes().decode("utf-8", "surrogateescape").removesuffix("\n").split("\n")


class MountEntry(NamedTuple):
    """One line of the table of mounts (proc_pid_mountinfo(5)): device number, mount point, source and file system
    type.
    """

    device: str
    path: str
    source: str
    type: str

    @property
    def is_simulated(self) -> bool:
        """Whether a simulated datastore serves it.

        A mount by a mount helper has the source that the helper was given, and a type of its own.
        """
        return self.type.startswith("fuse.") and (self.source == SOURCE or self.type.partition(".")[2] in HELPER_TYPES)


def mounts() -> list[MountEntry]:
    """What is mounted here, oldest first. No mount is looked at."""
    found = []
    for line in lines(Path("/proc/self/mountinfo")):
        fields = line.split(" ")
        rest = fields[fields.index("-") + 1 :]
        found.append(MountEntry(fields[2], _unescape(fields[4]), _unescape(rest[1]), rest[0]))
    return found


def resolve(path: str | os.PathLike[str]) -> str:
    """Return *path* without symbolic links, as :func:`os.path.realpath` does, and never look at a simulated
    datastore, which may hang.

    A mount point is no symbolic link, so that none is looked at. What lies in a simulated datastore stays as it is.
    """
    table = mounts()
    taken = {mount.path for mount in table}
    simulated = {mount.path for mount in table if mount.is_simulated}
    left = os.path.join(os.getcwd(), path).split("/")[::-1]
    real, links = "", 0
    while left:
        name = left.pop()
        if name == "..":
            real = real.rpartition("/")[0]
        elif name not in ("", "."):
            here = f"{real}/{name}"
            if here in simulated:
                return os.path.normpath("/".join([here, *left[::-1]]))
            target = None if here in taken else _target(here)
            if target is None or links == _MOST_LINKS:
                real = here
            else:
                links += 1
                if target.startswith("/"):
                    real = ""
                left += target.split("/")[::-1]
    return real or "/"


def _target(path: str) -> str | None:
    """What a symbolic link holds; None for what isn't one, or is missing."""
    try:
        return os.readlink(path) if stat.S_ISLNK(os.lstat(path).st_mode) else None
    except OSError:
        return None


def _unescape(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\043", "#"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


__all__ = [
    "HELPER_TYPES",
    "MNT_DETACH",
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "RENAME_WHITEOUT",
    "SOURCE",
    "MountEntry",
    "lines",
    "mounts",
    "remount",
    "renameat2",
    "resolve",
    "unmount",
]
