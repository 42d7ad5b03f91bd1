# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Limit how much a stranger may store in a datastore: what is left to others is not for one image, because virtual machines stop when they find no space."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .image_file import LARGEST

#: What is left: one hundredth of the file system, but so many bytes at least, and never more than half of what is free.
_PART = 100
_LEAST = 16 << 20


@dataclass(frozen=True)
class Space:
    """In bytes: what is ``free`` in a file system to this user, and the ``reserve`` of that for others."""

    free: int
    reserve: int


def space(where: int | str) -> Space:
    """Look at the file system of a path or a descriptor.

    :raises OSError: it doesn't answer.
    """
    found = os.statvfs(where)
    free = found.f_bavail * found.f_frsize
    return Space(free, min(max(found.f_blocks * found.f_frsize // _PART, _LEAST), free // 2))


def room(where: int | str) -> int:
    """Return how many bytes of data may be stored; else as :func:`space`. Holes take no space."""
    if not os.statvfs(where).f_blocks:  # some file systems don't know their size
        return LARGEST
    found = space(where)
    return found.free - found.reserve


def capacity(where: int | str) -> int:
    """Return the size of a file system in bytes, which no image in it exceeds, however many holes it has; else as :func:`space`."""
    found = os.statvfs(where)
    return found.f_blocks * found.f_frsize or LARGEST


__all__ = ["Space", "capacity", "room", "space"]
