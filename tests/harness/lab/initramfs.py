# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Write cpio archives in the "newc" form that the kernel unpacks
(Documentation/driver-api/early-userspace/buffer-format.rst).
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Entry:
    """A regular file at *path*, relative to the root; *mode* has the permission bits."""

    path: str
    content: bytes
    mode: int = 0o644


def build_archive(entries: Iterable[Entry]) -> bytes:
    """Return an archive of *entries* and of their parent directories.

    The kernel unpacks each of several concatenated archives.
    """
    out = bytearray()
    made: set[PurePosixPath] = {PurePosixPath(".")}
    for entry in entries:
        for parent in reversed(PurePosixPath(entry.path).parents):
            if parent not in made:
                made.add(parent)
                _append(out, str(parent), b"", stat.S_IFDIR | 0o755, len(made))
        made.add(PurePosixPath(entry.path))
        _append(out, entry.path, entry.content, stat.S_IFREG | entry.mode, len(made))
    _append(out, "TRAILER!!!", b"", 0, 0)
    return bytes(out)


def _append(out: bytearray, name: str, content: bytes, mode: int, inode: int) -> None:
    raw = name.encode() + b"\0"
    # c_ino, c_mode, c_uid, c_gid, c_nlink, c_mtime, c_filesize, c_devmajor, c_devminor, c_rdevmajor, c_rdevminor,
    # c_namesize, c_check
    numbers = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw), 0)
    out += b"070701" + b"".join(b"%08X" % number for number in numbers) + raw
    out += b"\0" * (-len(out) % 4) + content
    out += b"\0" * (-len(out) % 4)


__all__ = ["Entry", "build_archive"]
