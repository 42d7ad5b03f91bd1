# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file in a system datastore that names its transfer driver for the probes of a front-end (spec: storage-driver,
"The Monitoring Process").
"""

from __future__ import annotations

import contextlib
import os

from ..._core.directory import opened_file_at
from ..._core.errors import os_errors
from ..._core.files import replace_file
from ..._image.image_files import owner_like
from ..._image.vm_directory import DiskPath, opened_system_datastore

#: Name of the file.
MONITOR = ".monitor"


def mark_for_monitoring(path: DiskPath, driver: str | None) -> None:
    """Let the probes of a front-end find the transfer driver of a system datastore.

    :arg path: a path in the system datastore.
    :arg driver: name of the transfer driver. ``None`` writes no file.
    :raises NoSpace, FileAccessFailed: the file can't be written.
    """
    if driver is None:
        return
    line = f"{driver}\n".encode()
    with opened_system_datastore(path, create=True) as system, os_errors(f"write {path.datastore}/{MONITOR}"):
        with contextlib.suppress(FileNotFoundError), opened_file_at(system, MONITOR) as file:
            if os.read(file, len(line) + 1) == line:
                return
        replace_file(system, MONITOR, line, 0o644, owner_like(system))


__all__ = ["mark_for_monitoring"]
