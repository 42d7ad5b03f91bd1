# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The directory for the state of a hypervisor's exports. Only root can read it."""

from __future__ import annotations

import os

from .._core.errors import from_os_error
from .._core.files import write_atomic

DIRECTORY = "/var/lib/granary-vmstore"


def write_state(path: str, data: bytes) -> None:
    """Replace the file ``path`` of the directory. A missing directory is created.

    :raises NoSpace: the file system is full; :raises FileAccessFailed: any other refusal.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, f"create the directory {os.path.dirname(path)}") from error
    write_atomic(path, data, mode=0o600)


__all__ = ["DIRECTORY", "write_state"]
