# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks on the disks of a virtual machine. Two actions on one disk wait for each other, also from two hosts of shared
storage.

A VM directory has one lock file. Each disk has a slot in this file: the range of bytes that its lock covers, in which
the holder writes its name. The lock of the whole directory covers all slots. The locks are those of open files
(fcntl(2), F_OFD_SETLK), which end with the process and which NFS passes to the server.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator

from .._core.directory import list_directory, open_file_at
from .._core.errors import FULL, NotFound, VmstoreError, os_errors, printable
from .._core.locks import retry_until
from .vm_directory import DiskPath, opened_system_datastore, opened_vm_directory

#: Name of the lock file in the VM directory.
LOCK_FILE = ".disks.lock"

#: Seconds that an action waits for another one, unless the caller gives a deadline.
DEADLINE = 60.0

#: Length of a slot in bytes.
_SLOT = 128
#: Slots that aren't those of a numbered disk.
_SLOTS = {"": 0, "kernel": 1, "initrd": 2}


@contextlib.contextmanager
def locked_disk(
    path: DiskPath, *, doing: str, create: bool = False, deadline: float = DEADLINE, is_removal: bool = False
) -> Iterator[int]:
    """Hold the lock of a disk, or of all disks in a VM directory, for the length of a block. Yield a descriptor
    (O_PATH) of the VM directory.

    :arg doing: name of the action, which waiting actions report.
    :arg create: whether to create a missing VM directory. After a failed block, a directory without files is removed.
    :arg deadline: seconds.
    :arg is_removal: whether a full file system is no error, because the action makes room.
    :raises NotFound: the VM directory is missing, and ``create`` is false.
    :raises LockTimeout: another action held the lock all that time. The message has its name, process and host.
    :raises PathNotAllowed, FileAccessFailed, NoSpace: the VM directory or the lock file can't be opened.
    """
    lock = _Lock(path, create, is_removal)
    try:
        retry_until(lock.attempt, deadline=deadline, what=path.path, holder=lock.holder)
        lock.sign(f"{doing} (process {os.getpid()} on {os.uname().nodename})")
        try:
            yield lock.directory
        except BaseException:
            if create:
                lock.remove_empty_directory()
            raise
        finally:
            lock.sign("")
    finally:
        lock.release()


class _Lock:
    """A lock that is being taken. ``directory`` is a descriptor of the VM directory."""

    def __init__(self, path: DiskPath, create: bool, is_removal: bool) -> None:
        self.directory = -1
        self._path, self._create, self._is_removal = path, create, is_removal
        self._file = -1
        self._holder = ""
        self._opened = contextlib.ExitStack()
        number = _SLOTS.get(path.name)
        self._slot = int(path.name[len("disk.") :]) + len(_SLOTS) if number is None else number

    def attempt(self) -> bool:
        """Open the directory and try to lock. Another action may remove the directory meanwhile, so each attempt opens
        it again.
        """
        self._opened.close()
        self.directory = self._opened.enter_context(opened_vm_directory(self._path, create=self._create))
        with os_errors(f"lock {self._path.path}"):
            try:
                self._file = _open_lock_file(self.directory)
            except OSError as error:
                if self._is_removal and error.errno in FULL:
                    return True
                raise
            self._opened.callback(self._close)
            if not self._take(self._slot * _SLOT, _SLOT if self._path.name else 0):
                return False
        return self._is_current()

    def holder(self) -> str:
        return self._holder or "another program"

    def sign(self, name: str) -> None:
        """Write the name of this action into the slot. The name is only for messages, so errors don't matter."""
        with contextlib.suppress(OSError):
            if self._file >= 0:
                os.pwrite(self._file, name.encode()[:_SLOT].ljust(_SLOT, b"\0"), self._slot * _SLOT)

    def remove_empty_directory(self) -> None:
        """Remove the VM directory if only the lock file is in it, unless another action uses the directory."""
        with contextlib.suppress(OSError, VmstoreError):
            if self._file < 0 or list_directory(self.directory) != [LOCK_FILE] or not self._take(0, 0):
                return
            with opened_system_datastore(self._path) as system:
                # A waiting action notices that the lock file is gone, and begins again.
                os.unlink(LOCK_FILE, dir_fd=self.directory)
                os.rmdir(str(self._path.vm), dir_fd=system)

    def release(self) -> None:
        self._opened.close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # the file only has names for messages
            os.close(self._file)
        self._file = -1

    def _take(self, begin: int, length: int) -> bool:
        # struct flock of fcntl(2): type, whence, start, length, pid. The length 0 is the rest of the file.
        wanted = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, begin, length, 0)
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, wanted)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            _kind, _whence, start = struct.unpack_from("hhq", fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, wanted))
            written = os.pread(self._file, _SLOT, start).rstrip(b"\0")
            self._holder = printable(written.decode(errors="replace"))
            return False
        return True

    def _is_current(self) -> bool:
        """Return whether the path still leads to the locked directory."""
        if os.fstat(self._file).st_nlink == 0:
            return False
        with contextlib.suppress(NotFound), opened_vm_directory(self._path) as current:
            return os.path.samestat(os.fstat(current), os.fstat(self.directory))
        return False


def _open_lock_file(directory: int) -> int:
    """Open or create the lock file for reading and writing. A file of another user isn't written to."""
    owner = os.fstat(directory)

    def check(found: int) -> None:
        status = os.fstat(found)
        is_ours = status.st_uid in (0, os.geteuid(), owner.st_uid) and status.st_nlink <= 1
        if not stat.S_ISREG(status.st_mode) or not is_ours:
            raise OSError(errno.EINVAL, f"{LOCK_FILE} is not a regular file of the directory's owner")

    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        try:
            descriptor = os.open(LOCK_FILE, flags, 0o600, dir_fd=directory)
        except FileExistsError:
            try:
                descriptor = open_file_at(directory, LOCK_FILE, os.O_RDWR | os.O_NONBLOCK, check=check)
            except FileNotFoundError:
                continue  # another action has removed it
        if os.geteuid() == 0 and os.fstat(descriptor).st_uid != owner.st_uid:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        return descriptor


__all__ = ["DEADLINE", "LOCK_FILE", "locked_disk"]
