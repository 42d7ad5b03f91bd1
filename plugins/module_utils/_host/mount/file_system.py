# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A type of file systems, with the operations of a mount that depend on the type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..._core.errors import CommandFailed
from .mountinfo import Mount
from .options import OptionRules


class FileSystemType:
    """A type of file systems that can be mounted. All other operations of mounts are independent of the type.

    By default, every kernel supports the type, and only mount(8) checks the source.
    """

    #: The name of the type in fstab and in the kernel's table of mounts.
    name: str
    #: The user's word for the source of a mount, such as ``tag``, which is also the name of the source in results.
    source_noun: str
    options: OptionRules

    def require_supported(self) -> None:
        """Refuse a kernel that can't mount the type.

        :raises UnsupportedAction: the running kernel lacks it.
        """

    def require_source(self, source: str) -> None:
        """Refuse a source that this machine doesn't have.

        :raises DependencyNotFound: naming the sources of this machine.
        """

    def require_compatible(self, mounts: Sequence[Mount], source: str, path: str, settings: Mapping[str, str]) -> None:
        """Refuse settings that a mount of the same source on another path rules out.

        :raises Conflict: naming that mount.
        """

    def explain(self, error: CommandFailed, source: str, path: str) -> CommandFailed:
        """Return the error for a mount that mount(8) refused."""
        return error

    def settings_of(self, mount: Mount) -> dict[str, str]:
        """Return the settings of a mount of this type."""
        return self.options.live_settings(mount.options, mount.super_options)


__all__ = ["FileSystemType"]
