# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How much a stranger may store in a datastore."""

from __future__ import annotations

import os

from .image_file import LARGEST

#: The part of the free space that is left to others: one hundredth.
RESERVE = 100


def room(where: int | str) -> int:
    """Return how many bytes of data may be stored: what is free to this user, less a reserve. Holes take no space.

    :arg where: a path in the file system, or a descriptor.
    :raises OSError: the file system doesn't answer.
    """
    found = os.statvfs(where)
    if not found.f_blocks:  # some file systems don't know their size
        return LARGEST
    free = found.f_bavail * found.f_frsize
    return free - free // RESERVE


def capacity(where: int | str) -> int:
    """Return the size of a file system in bytes, which no image in it exceeds, however many holes it has; else as :func:`room`."""
    found = os.statvfs(where)
    return found.f_blocks * found.f_frsize or LARGEST


__all__ = ["capacity", "room"]
