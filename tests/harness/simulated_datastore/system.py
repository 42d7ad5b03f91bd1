# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""System calls that are missing in the standard library, through ctypes."""

from __future__ import annotations

import ctypes
import os
import stat
from pathlib import Path
from typing import NamedTuple

#: Flag of rename(2).
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4
#: Flag of umount2(2).
MNT_DETACH = 2
#: Flag of mount(2).
_MS_REMOUNT = 32

#: Source, in the kernel's table, of a mount without a mount helper.
SOURCE = "simulated-datastore"
#: File system types with a mount helper (mount(8), "EXTERNAL HELPERS").
HELPER_TYPES = ("sim", "nfs", "nfs4")
#: Upper bound of the symbolic links in a path (path_resolution(7)).
_MOST_LINKS = 40

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, path: object = None) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def renameat2(old_fd: int, old: bytes, new_fd: int, new: bytes, flags: int) -> None:
    """Call renameat2(2). Raises :class:`OSError`."""
    _check(_libc.renameat2(old_fd, ctypes.c_char_p(old), new_fd, ctypes.c_char_p(new), ctypes.c_uint(flags)))


def unmount(path: str, flags: int = 0) -> None:
    """Call umount2(2). Raises :class:`OSError`."""
    _check(_libc.umount2(ctypes.c_char_p(os.fsencode(path)), ctypes.c_int(flags)), path)


def remount(path: str, flags: int) -> None:
    """Change the flags of the mount at *path* by mount(2) with MS_REMOUNT. Raises :class:`OSError`."""
    _check(_libc.mount(None, ctypes.c_char_p(os.fsencode(path)), None, ctypes.c_ulong(_MS_REMOUNT | flags), None), path)


def lines(path: Path) -> list[str]:
    """Return the lines of a file of proc(5). Only a line feed ends a line, because names may have the other line ends
    of :meth:`str.splitlines`.
    """
    return path.read_bytes().decode("utf-8", "surrogateescape").removesuffix("\n").split("\n")


def list_directory(fd: int) -> list[tuple[bytes, bool]]:
    """Return the names in an open directory, each with whether it is a directory.

    Links aren't followed, in contrast to :func:`os.fwalk`. A target can be below the mount point, so that the daemon
    would wait for itself.
    """
    with os.scandir(fd) as entries:
        return [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]


class MountEntry(NamedTuple):
    """A line of the table of mounts (proc_pid_mountinfo(5)): device number, mount point, source, file system type."""

    device: str
    path: str
    source: str
    type: str

    @property
    def is_simulated(self) -> bool:
        """True for a mount of a simulated datastore.

        A mount helper's mount has the source from the call, and a type of its own.
        """
        return self.type.startswith("fuse.") and (self.source == SOURCE or self.type.partition(".")[2] in HELPER_TYPES)


def mounts() -> list[MountEntry]:
    """Return the mounts here, oldest first, without access to any mount."""
    found = []
    for line in lines(Path("/proc/self/mountinfo")):
        fields = line.split(" ")
        rest = fields[fields.index("-") + 1 :]
        found.append(MountEntry(fields[2], _unescape(fields[4]), _unescape(rest[1]), rest[0]))
    return found


def resolve(path: str | os.PathLike[str]) -> str:
    """Return *path* without symbolic links, like :func:`os.path.realpath`, without access to a simulated datastore.

    A simulated datastore may hang. A mount point is no symbolic link, so the function needs no access to it. The rest
    of a path inside a simulated datastore is returned unchanged.
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
    """Return the target of a symbolic link; None for another or a missing file."""
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
    "list_directory",
    "mounts",
    "remount",
    "renameat2",
    "resolve",
    "unmount",
]
