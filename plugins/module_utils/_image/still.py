# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Check that image files don't change while they are copied, because the copy would mix different states. QEMU's locks
show whether a program uses a file.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Mapping, Sequence

from .._core.block_device import is_block_device, is_held, length_of, sectors_written
from .._core.errors import Conflict, StaleState, VmstoreError, os_errors
from .._core.words import MODULE, Words

#: Bytes that QEMU locks (block/file-posix.c: RAW_LOCK_PERM_BASE) while it may write to a file or resize it
#: (BLK_PERM_WRITE, BLK_PERM_RESIZE).
_WRITERS = ((101, 1), (103, 1))
#: All bytes that QEMU locks: RAW_LOCK_PERM_BASE and RAW_LOCK_SHARED_BASE.
_USERS = ((100, 10), (200, 10))


class StillFiles:
    """Open files and block devices, with their state at the beginning of a copy.

    :arg paths: the paths by descriptor, for messages.
    :arg verify: ``False`` turns errors into :attr:`warnings`.
    :arg words: names of the user's options for errors.
    :raises Conflict: a program such as QEMU has a file open for writing, or a device is mounted or a part of another
        device.
    """

    def __init__(self, paths: Mapping[int, str], *, verify: bool = True, words: Words = MODULE) -> None:
        self.warnings: list[str] = []
        self._paths = paths
        self._verify = verify
        self._words = words
        self._before = {descriptor: _state(descriptor, path) for descriptor, path in paths.items()}
        for descriptor, path in paths.items():
            if is_block_device(descriptor):
                self._check_device(descriptor, path)
            elif is_written_to(descriptor):
                self._refuse(
                    Conflict,
                    f"{path} is open for writing in another program, such as a running virtual machine",
                    "shut that down first",
                )

    def check(self) -> None:
        """Compare the files with their state at the beginning.

        :raises StaleState: a file has another size, or was written to.
        """
        for descriptor, path in self._paths.items():
            if _state(descriptor, path) != self._before[descriptor]:
                self._refuse(
                    StaleState, f"{path} was written to while it was copied", "copy it when nothing writes to it"
                )

    def _check_device(self, descriptor: int, path: str) -> None:
        from .._host.open_files import writers_of_device

        with os_errors(f"look at {path}"):
            writers = ", ".join(writers_of_device(os.fstat(descriptor).st_rdev))
            is_mounted = is_held(descriptor)
        if is_mounted:
            self._refuse(
                Conflict,
                f"{path} is mounted, or a part of another device or of a volume group",
                "unmount it, or copy a snapshot of it",
            )
        elif writers or is_written_to(descriptor):
            self._refuse(
                Conflict,
                f"{path} is open for writing in {writers or 'another program'}",
                "end that first, or copy a snapshot of it",
            )

    def _refuse(self, error: Callable[[str], VmstoreError], what: str, remedy: str) -> None:
        if self._verify:
            raise error(f"{what}; {remedy}, or give {self._words.unverified} to store what comes out.")
        self.warnings.append(f"{what}, so the copy may hold parts of different states.")


def is_written_to(descriptor: int) -> bool:
    """Return whether another program has QEMU's lock for writing to an open file (QEMU, "Image locking"). Return
    ``False`` if the file system has no locks.
    """
    return _is_locked(descriptor, _WRITERS)


def is_used(descriptor: int) -> bool:
    """Return whether another program has any of QEMU's locks on an open file. Return ``False`` if the file system has
    no locks.
    """
    return _is_locked(descriptor, _USERS)


def require_unused(descriptor: int, path: str, what: str) -> None:
    """Refuse to change an open file that another program uses.

    :arg what: the change, as the rest of "can't".
    :raises Conflict: another program has any of QEMU's locks on the file.
    """
    if is_used(descriptor):
        raise Conflict(
            f"{path} can't {what} while a program such as a running virtual machine uses it: shut that down first."
        )


def _is_locked(descriptor: int, places: Sequence[tuple[int, int]]) -> bool:
    for start, length in places:
        # struct flock of fcntl(2): type, whence, start, length, pid. F_OFD_GETLK needs no write permission.
        asked = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
        try:
            (kind,) = struct.unpack_from("h", fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))
        except OSError:
            return False
        if kind != fcntl.F_UNLCK:
            return True
    return False


def _state(descriptor: int, path: str) -> tuple[int, int]:
    with os_errors(f"look at {path}"):
        if is_block_device(descriptor):
            return length_of(descriptor), sectors_written(descriptor)
        status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


__all__ = ["StillFiles", "is_used", "is_written_to", "require_unused"]
