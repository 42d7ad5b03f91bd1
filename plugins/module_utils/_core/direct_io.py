# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find out whether a file system can read and write without the host's page cache (open(2), O_DIRECT)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from .block_device import require_storage
from .directory import open_file_at, opened_directory, opened_parent
from .errors import os_errors

#: The errors of a file system without direct input and output.
_REFUSALS = (errno.EINVAL, errno.EOPNOTSUPP)


def supports_direct_io(path: str) -> bool:
    """Return whether a regular file or a block device can be opened with O_DIRECT. For a missing file, a file without a
    name in the nearest existing directory answers, so that nothing is left there.

    :raises PathNotAllowed: a symbolic link of another user leads elsewhere.
    :raises FileAccessFailed: the file can't be opened at all.
    """
    with os_errors(f"open {path}"):
        if os.path.exists(path):
            with opened_parent(path) as (directory, name):
                return _opens(lambda flags: open_file_at(directory, name, os.O_RDONLY | flags, check=require_storage))
        around = os.path.dirname(os.path.abspath(path))
        while not os.path.isdir(around):
            around = os.path.dirname(around)
        with opened_directory(around) as directory:
            return _opens(lambda flags: os.open(".", os.O_RDWR | os.O_TMPFILE | flags, 0o600, dir_fd=directory))


def _opens(attempt: Callable[[int], int]) -> bool:
    try:
        os.close(attempt(os.O_DIRECT | os.O_CLOEXEC))
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        os.close(attempt(os.O_CLOEXEC))
        return False
    return True


__all__ = ["supports_direct_io"]
