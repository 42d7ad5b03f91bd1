# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Locks with a deadline. A check is made under the same lock as the change."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator

from .errors import LockTimeout, from_os_error
from .identity import Identity, acting_as

#: Time between two tries for a lock that has no blocking call with a deadline, in seconds.
RETRY_INTERVAL = 0.05


def retry_until(
    attempt: Callable[[], bool], *, deadline: float, what: str, holder: Callable[[], str] = lambda: "another program"
) -> None:
    """Call ``attempt`` until it returns ``True``.

    :arg holder: returns the name of the lock's holder, for the message.
    :raises LockTimeout: ``deadline`` seconds have passed; the message contains ``what``.
    """
    end = time.monotonic() + deadline
    while not attempt():
        if time.monotonic() >= end:
            raise LockTimeout(f"The lock {what} was not free within {deadline:g} seconds; {holder()} holds it.")
        time.sleep(RETRY_INTERVAL)


@contextlib.contextmanager
def locked(
    path: str,
    *,
    deadline: float = 30,
    style: Callable[[int, int], object] = fcntl.flock,
    identity: Identity | None = None,
) -> Iterator[None]:
    """Hold an exclusive lock on the lock file ``path`` (created 0600 when missing) for the length of a block.

    :arg deadline: seconds.
    :arg identity: the user who opens the file, and owns a new one.
    :arg style: ``fcntl.flock`` (flock(2)) or ``fcntl.lockf`` (fcntl(2) record lock, like lckpwdf(3)).
    :raises LockTimeout: another process held the lock all that time.
    """
    try:
        # Links aren't followed, because root also locks in directories where another user may have put one.
        with acting_as(identity):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise from_os_error(error, f"open the lock file {path}") from error

    def attempt() -> bool:
        try:
            style(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise from_os_error(error, f"lock {path}") from error
        return True

    try:
        retry_until(attempt, deadline=deadline, what=path)
        yield
    finally:
        os.close(descriptor)


__all__ = ["locked", "retry_until"]
