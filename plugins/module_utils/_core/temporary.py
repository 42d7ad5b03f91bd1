# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files with temporary names beside the final one. A running program has its own locked; one that nobody holds is what
a killed program left.

Their names hold 128 random bits and end in ``.part``, so that no other program has such files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct

from .digits import is_hexadecimal
from .directory import list_directory, open_file_at

#: Upper bound of the bytes of the final name that are in the temporary one. NAME_MAX is 255.
_LONGEST_STEM = 200


def create_temporary(directory: int, name: str) -> tuple[int, str]:
    """Create an empty file with mode 0600 in an open directory, for what is to be called ``name``, and lock it.

    What killed programs left of the same name is removed before.

    :return: descriptor to write by, and the temporary name.
    :raises OSError: it can't be created. Where the file system has no locks, it isn't locked, and never removed by
        others.
    """
    sweep_temporaries(directory, name)
    return create_part(directory, f".{_stem(name)}", needs_lock=False)


def create_part(directory: int, stem: str = "", *, needs_lock: bool = True) -> tuple[int, str]:
    """Create an empty file with mode 0600 and a random name behind ``stem`` in an open directory, and lock it.

    :arg needs_lock: whether the file is refused where the file system has no locks.
    :return: descriptor to read and write by, and the name.
    :raises OSError: it can't be created or locked.
    """
    while True:
        name = stem + new_part_name()
        descriptor = os.open(
            name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory
        )
        try:
            with contextlib.nullcontext() if needs_lock else contextlib.suppress(OSError):
                lock(descriptor, fcntl.F_OFD_SETLKW)
            is_swept = os.fstat(descriptor).st_nlink == 0  # by another program, before it was locked
        except BaseException:
            os.unlink(name, dir_fd=directory)
            os.close(descriptor)
            raise
        if not is_swept:
            return descriptor, name
        os.close(descriptor)


def sweep_temporaries(directory: int, name: str) -> None:
    """Remove the temporary files for ``name`` that nobody holds.

    One that can't be removed is left for the next program.
    """
    beginning = f".{_stem(name)}."
    with contextlib.suppress(OSError):
        for one in list_directory(directory):
            if one.startswith(beginning) and is_part_name(one[len(beginning) - 1 :]):
                with contextlib.suppress(OSError):
                    if stat.S_ISREG(os.stat(one, dir_fd=directory, follow_symlinks=False).st_mode):
                        remove_unheld(directory, one)


def remove_unheld(directory: int, name: str) -> None:
    """Remove a regular file that nobody holds.

    :raises OSError: it can't be removed, or somebody holds it.
    """
    # Not waiting for its owner to give up a lease (F_SETLEASE), which takes him 45 s for each.
    descriptor = open_file_at(directory, name, os.O_RDWR | os.O_NONBLOCK)
    try:
        lock(descriptor, fcntl.F_OFD_SETLK)
        os.unlink(name, dir_fd=directory)
    finally:
        os.close(descriptor)


def is_held(directory: int, name: str) -> bool:
    """Return whether a running program holds the file ``name`` of an open directory.

    Where locks don't work, or the file can't be opened, it counts as held.
    """
    try:
        descriptor = open_file_at(directory, name, os.O_RDONLY | os.O_NONBLOCK)
        try:
            kind: int = struct.unpack_from("h", lock(descriptor, fcntl.F_OFD_GETLK))[0]
        finally:
            os.close(descriptor)
    except OSError:
        return True
    return kind != fcntl.F_UNLCK


def lock(descriptor: int, how: int) -> bytes:
    """Lock the first byte for this open file, or ask about that lock (fcntl(2)).

    Not flock(2), which over NFS locks all bytes, also those by which qemu-img locks (flock(2), "NFS details").
    """
    return fcntl.fcntl(descriptor, how, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))


def new_part_name() -> str:
    """Return a name that :func:`is_part_name` accepts, and that nobody else draws."""
    return f".{os.urandom(16).hex()}.part"


def is_part_name(name: str) -> bool:
    """Return whether a name is a dot, 32 hexadecimal digits, and ``.part``."""
    return name.startswith(".") and name.endswith(".part") and is_hexadecimal(name[1:-5], 32)


def _stem(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:_LONGEST_STEM])


__all__ = [
    "create_part",
    "create_temporary",
    "is_held",
    "is_part_name",
    "lock",
    "new_part_name",
    "remove_unheld",
    "sweep_temporaries",
]
