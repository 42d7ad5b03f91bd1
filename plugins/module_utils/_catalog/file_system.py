# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file system of a directory, and whether SQLite can lock files there (spec: shared-file-system,
"Considerations").
"""

from __future__ import annotations

import os
import re

from .._core.errors import CatalogFailed
from .._core.files import read_text
from .._model.file_system_types import is_shared_type


def type_of(mountinfo: str, mount_id: int) -> str:
    """Return the type of the mount with this id in the text of proc_pid_mountinfo(5); ``unknown`` without such a
    mount.
    """
    match = re.search(rf"^{mount_id} .*? - (\S+) ", mountinfo, re.MULTILINE)
    return match[1] if match else "unknown"


def check_local(directory: str) -> None:
    """Refuse a directory on a network file system.

    :raises CatalogFailed: naming the file system and the reason; :raises OSError: the directory can't be opened.
    """
    # O_PATH makes no request to the file system, because its server may be dead.
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        facts = read_text(f"/proc/self/fdinfo/{descriptor}")
    finally:
        os.close(descriptor)
    match = re.search(r"^mnt_id:\s*([0-9]+)$", facts, re.MULTILINE)
    file_system = type_of(read_text("/proc/self/mountinfo"), int(match[1])) if match else "unknown"
    if is_shared_type(file_system):
        raise CatalogFailed(
            f"The catalog can't be in {directory}, which is on the network file system {file_system!r}: file locks are "
            "not dependable there and two writers would damage it, so name a directory on a local disk of the "
            "front-end."
        )


__all__ = ["check_local", "type_of"]
