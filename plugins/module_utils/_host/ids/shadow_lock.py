# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The locks that the shadow suite takes before it writes a file in /etc (lckpwdf(3), and ``commonio_lock`` of
shadow-utils).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from ..._core.errors import from_os_error
from ..._core.files import read_text
from ..._core.locks import locked, retry_until


@contextlib.contextmanager
def shadow_lock(*paths: str, deadline: float = 30) -> Iterator[None]:
    """Lock ``paths`` (all in one directory) against useradd(8), usermod(8) and similar programs for the length of a
    block.

    The block holds the fcntl(2) lock on ``.pwd.lock`` and, for each path, ``<path>.lock``, a hard link to a file with
    our process id.

    :arg deadline: seconds for each lock.
    :raises LockTimeout: another program held a lock all that time.
    """
    with contextlib.ExitStack() as held:
        directory = os.path.dirname(paths[0])
        held.enter_context(locked(os.path.join(directory, ".pwd.lock"), deadline=deadline, style=fcntl.lockf))
        for path in paths:
            held.enter_context(_lock_file(path, deadline))
        yield


@contextlib.contextmanager
def _lock_file(path: str, deadline: float) -> Iterator[None]:
    lock = f"{path}.lock"
    own = f"{path}.{os.getpid()}"
    try:
        descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, b"%d\0" % os.getpid())
        finally:
            os.close(descriptor)
        retry_until(lambda: _link(own, lock), deadline=deadline, what=lock)
    except OSError as error:
        raise from_os_error(error, f"lock {path}") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(own)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(lock)


def _link(own: str, lock: str) -> bool:
    try:
        os.link(own, lock)
        return True
    except FileExistsError:
        if not _is_stale(lock):
            return False
    # The process in the lock file has ended. We hold .pwd.lock, so no other program of the suite replaces the same
    # stale lock.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(lock)
    return False


def _is_stale(lock: str) -> bool:
    holder = read_text(lock).strip("\0\n ")
    if not holder.isdigit() or int(holder) == 0:
        return False  # the shadow suite didn't write the file, so the file stays
    try:
        os.kill(int(holder), 0)
    except ProcessLookupError:
        return True
    except (OverflowError, PermissionError):
        return False
    return False


__all__ = ["shadow_lock"]
