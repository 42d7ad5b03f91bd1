# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files that the collection installs in a front-end's directory of remotes."""

from __future__ import annotations

import os
import stat

from ..._core.directory import open_file_at, sync_opened
from ..._core.files import replace_file


def is_installed(directory: int, name: str, script: bytes, mode: int) -> bool:
    """Return whether the file ``name`` of an open directory has this content and these permissions."""
    try:
        with os.fdopen(open_file_at(directory, name), "rb") as file:
            return file.read(len(script) + 1) == script and stat.S_IMODE(os.fstat(file.fileno()).st_mode) == mode
    except OSError:  # a link, a FIFO or a missing file
        return False


def put_script(directory: int, name: str, script: bytes, mode: int) -> None:
    """Replace a file atomically, because the front-end can use the file at any moment.

    The file belongs to the owner of its directory.

    :raises OSError: the operating system refuses.
    """
    around = os.fstat(directory)
    temporary = f".{name}.{os.urandom(4).hex()}"
    replace_file(directory, temporary, script, mode, (around.st_uid, around.st_gid))
    try:
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        os.unlink(temporary, dir_fd=directory)
        raise
    sync_opened(directory)


__all__ = ["is_installed", "put_script"]
