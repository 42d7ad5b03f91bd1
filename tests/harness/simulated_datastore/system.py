# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""System calls that the standard library doesn't offer, through ctypes."""
from __future__ import annotations

import ctypes
import os
from pathlib import Path

#: rename(2).
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4
#: umount2(2).
MNT_DETACH = 2

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


def lines(path: Path) -> list[str]:
    """The lines of a file of proc(5): a line feed alone ends one, while names may hold what else :meth:`str.splitlines` takes for an end."""
    return path.read_bytes().decode("utf-8", "surrogateescape").removesuffix("\n").split("\n")


def mounts() -> list[tuple[str, str, str]]:
    """Device number, mount point and source of what is mounted here (proc_pid_mountinfo(5))."""
    found = []
    for line in lines(Path("/proc/self/mountinfo")):
        fields = line.split(" ")
        rest = fields[fields.index("-") + 1:]
        found.append((fields[2], _unescape(fields[4]), _unescape(rest[1])))
    return found


def _unescape(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


__all__ = ["MNT_DETACH", "RENAME_EXCHANGE", "RENAME_NOREPLACE", "RENAME_WHITEOUT", "lines", "mounts", "renameat2", "unmount"]
