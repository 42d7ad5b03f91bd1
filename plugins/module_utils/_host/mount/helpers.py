# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The programs that mount(8) calls for a type of file systems: ``mount.TYPE`` (mount(8), "External helpers")."""

from __future__ import annotations

import os

#: The directories in which mount(8) looks for its helpers.
DIRECTORIES = ("/sbin", "/usr/sbin")


def has_helper(fstype: str) -> bool:
    """Return whether mount(8) has a helper for the type."""
    return any(os.access(os.path.join(directory, f"mount.{fstype}"), os.X_OK) for directory in DIRECTORIES)


__all__ = ["has_helper"]
