# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The types of file systems by their names."""

from __future__ import annotations

from .file_system import FileSystemType
from .nfs import Nfs
from .other_types import OtherType, check_type
from .virtiofs import Virtiofs


def file_system_type(option: str, name: str) -> FileSystemType:
    """Return the type of file systems with this name.

    :arg option: name of the option with the name, for the error.
    :raises InvalidInput: hosts never share such a file system.
    """
    return type_of_mount(check_type(option, name))


def type_of_mount(name: str) -> FileSystemType:
    """Return the type of file systems of a mount, by its name in fstab or in the kernel's table of mounts."""
    if name in ("nfs", "nfs4"):
        return Nfs(name)
    return Virtiofs(source_noun="source") if name == "virtiofs" else OtherType(name)


__all__ = ["file_system_type", "type_of_mount"]
