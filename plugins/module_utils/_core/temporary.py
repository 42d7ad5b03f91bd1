# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files with temporary names beside the final name. A running program holds a lock on its temporary file. A file
without a lock was left by a killed program.

The names hold 128 random bits and end in ``.part``, so that no other program has such names.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct

from .digits import is_hexadecimal
from .directory import list_directory, open_file_at

#: Upper bound of the bytes of the final name in the temporary name. NAME_MAX is 255.
_LONGEST_STEM = 200


def create_temporary(directory: int, name: str) -> tuple[int, str]:
    """Create a temporary file for ``name`` in an open directory, empty and with mode 0600, and lock the file.

    Temporary files of killed programs for the same name are removed before.

    :return: descriptor to write by, and the temporary name.
    :raises OSError: the file can't be created. On a file system without locks, the file isn't locked, and other
        programs never remove it.
    """
    sweep_temporaries(directory, name)
    return create_part(directory, f".{_stem(name)}", needs_lock=False)


def create_part(directory: int, stem: str = "", *, needs_lock: bool = True) -> tuple[int, str]:
    """Create an empty file with mode 0600 and the name ``stem`` with a random end in an open directory, and lock the
    file.

    :arg needs_lock: whether a file system without locks is an error.
    :return: descriptor to read and write by, and the name.
    :raises OSError: the file can't be created or locked.
    """
    while True:
        name = stem + new_part_name()
        descriptor = os.open(
            name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory
        )
        try:
            with contextlib.nullcontext() if needs_lock else contextlib.suppress(OSError):
                lock(descriptor, fcntl.F_OFD_SETLKW)
            is_swept = os.fstat(descriptor).st_nlink == 0  # another program removed the file before this one locked it
        except BaseException:
            os.unlink(name, dir_fd=directory)
            os.close(descriptor)
            raise
        if not is_swept:
            return descriptor, name
        os.close(descriptor)


def sweep_temporaries(directory: int, name: str) -> None:
    """Remove the temporary files for ``name`` that no running program holds.

    A file that can't be removed is left for the next program.
    """
    beginning = f".{_stem(name)}."
    with contextlib.suppress(OSError):
        for one in list_directory(directory):
            if one.startswith(beginning) and is_part_name(one[len(beginning) - 1 :]):
                with contextlib.suppress(OSError):
                    if stat.S_ISREG(os.stat(one, dir_fd=directory, follow_symlinks=False).st_mode):
                        remove_unheld(directory, one)


def remove_unheld(directory: int, name: str) -> None:
    """Remove a regular file that no running program holds.

    :raises OSError: the file can't be removed, or a running program holds it.
    """
    # Without O_NONBLOCK, open(2) waits until the owner of the file gives up a lease (F_SETLEASE), which takes 45 s for
    # each file.
    descriptor = open_file_at(directory, name, os.O_RDWR | os.O_NONBLOCK)
    try:
        lock(descriptor, fcntl.F_OFD_SETLK)
        os.unlink(name, dir_fd=directory)
    finally:
        os.close(descriptor)


def is_held(directory: int, name: str) -> bool:
    """Return whether a running program holds the file ``name`` of an open directory.

    A file that can't be opened, or a file on a file system without locks, counts as held.
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
    """Set the lock on the first byte of this open file, or test the lock (fcntl(2)).

    flock(2) is not used: over NFS it locks all bytes, also those by which qemu-img locks (flock(2), "NFS details").
    """
    return fcntl.fcntl(descriptor, how, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))


def new_part_name() -> str:
    """Return a random name that :func:`is_part_name` accepts."""
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
