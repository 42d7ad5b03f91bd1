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
    #: Whether a mount in a namespace of its own has no effect outside of it. A helper may start a daemon that stays.
    can_be_tried = False
    #: Words that every entry in fstab has.
    fstab_words: tuple[str, ...] = ()

    def matches_type(self, fstype: str) -> bool:
        """Return whether the type has this name in fstab or in the kernel's table of mounts."""
        return fstype == self.name

    def check_source(self, option: str, source: str) -> str:
        """Return a source as the kernel's table of mounts shows it.

        :raises InvalidInput: the type has no such sources.
        """
        return source

    def is_same_source(self, found: str, source: str) -> bool:
        """Return whether the source of a mount, or of an entry in fstab, is ``source``."""
        return found == source

    def complete(self, words: Sequence[str]) -> tuple[str, ...]:
        """Return mount options with the recommended ones for virtual disks, for what the user left open."""
        return tuple(words)

    def for_trial(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Return the settings for a mount that only a child process sees."""
        return dict(settings)

    def warnings(self, words: Sequence[str]) -> list[str]:
        """Return a sentence for each mount option that endangers data."""
        return []

    def require_supported(self) -> None:
        """Refuse a host that can't mount the type.

        :raises UnsupportedAction: the running kernel lacks it.
        :raises DependencyMissing: a program is missing.
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
