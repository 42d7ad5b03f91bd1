# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The condition of mounts: their response and their capacity. A mount may hang, so a child process accesses it."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Iterable

from ..._core.deadline import run_all_with_deadline
from ..._core.errors import TimedOut, VmstoreError
from ..._core.records import dataclass

#: Errors of a mount without a server. Other errors are those of a server that works, or of a hidden mount point.
_DEAD = frozenset(
    (
        *(errno.ENOTCONN, errno.ESTALE, errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESHUTDOWN, errno.ETIMEDOUT),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNREFUSED, errno.ECONNRESET),
        *(errno.ECONNABORTED, errno.EREMOTEIO),
    )
)


@dataclass(frozen=True)
class Condition:
    """The condition of a mount.

    :arg responds: whether the mount responded at all before the deadline.
    :arg error: the failure as a part of a sentence; ``None`` if the mount works.
    :arg total: the capacity in bytes; ``None`` if it can't be read.
    :arg free: the bytes that are available to a user without privileges.
    """

    responds: bool
    error: str | None = None
    total: int | None = None
    free: int | None = None

    @property
    def is_ok(self) -> bool:
        return self.error is None


def read_conditions(paths: Iterable[str], timeout: float) -> dict[str, Condition]:
    """Return the condition of the mount on each path. All mounts are accessed at once, so that any number of dead
    servers takes ``timeout`` seconds once.
    """
    calls = {path: functools.partial(_look, path) for path in paths}
    return {
        path: _as_condition(found, timeout)
        for path, found in run_all_with_deadline(timeout, "Looking at {}", calls).items()
    }


def read_condition(path: str, timeout: float) -> Condition:
    """Return the condition of the mount on ``path``."""
    return read_conditions([path], timeout)[path]


def _look(path: str) -> Condition:
    """Return the condition of the mount on ``path``. It is called in a child process."""
    try:
        # The kernel may have the attributes of the root in its cache. The capacity comes from the server.
        found = os.statvfs(path)
        os.stat(path)
    except OSError as error:
        return Condition(True, error.strerror if error.errno in _DEAD else None)
    return Condition(True, None, found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def _as_condition(found: Condition | VmstoreError, timeout: float) -> Condition:
    if isinstance(found, TimedOut):
        return Condition(False, f"it did not respond within {timeout:g} seconds")
    return Condition(False, str(found)) if isinstance(found, VmstoreError) else found


__all__ = ["Condition", "read_condition", "read_conditions"]
