# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lock of a host's libvirt domains. A host has one, because devices of different domains are compared."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from .._core.errors import from_os_error
from .._core.locks import locked

#: The directory of the lock.
DIRECTORY = "/run/granary-vmstore"


@contextlib.contextmanager
def libvirt_lock() -> Iterator[None]:
    """Hold the lock in a block.

    :raises LockTimeout: another run has held it for too long.
    """
    try:
        os.makedirs(DIRECTORY, mode=0o700, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, f"make the directory {DIRECTORY}") from error
    with locked(os.path.join(DIRECTORY, "libvirt.lock")):
        yield


__all__ = ["DIRECTORY", "libvirt_lock"]
