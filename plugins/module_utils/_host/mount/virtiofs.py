# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtiofs in a guest: the kernel's support, the tags of devices, and the mount options (VIRTIO 1.2, section 5.11)."""

from __future__ import annotations

import glob
import os
import platform
from collections.abc import Mapping, Sequence

from ..._core.command import run
from ..._core.errors import CommandFailed, Conflict, DependencyNotFound, UnsupportedAction
from ..._core.files import read_text
from ..._model.mount_names import check_mount_tag
from .file_system import FileSystemType
from .mountinfo import Mount
from .options import REMOUNTABLE, OptionRules

VIRTIOFS_OPTIONS = OptionRules(
    values=dict.fromkeys(("dax", "context", "fscontext", "defcontext", "rootcontext"), ""),
    synonyms={"dax": "dax=always"},
    advice="To mount a subdirectory, export it with a tag of its own",
)

#: The virtio device type of a file system in sysfs.
_DEVICE_TYPE = 0x1A


class Virtiofs(FileSystemType):
    """The type virtiofs, whose sources are the tags of virtio-fs devices.

    :arg proc: the directory of ``filesystems``.
    :arg sys: the directory of ``fs/virtiofs``.
    :arg source_noun: the name of the option with the tag.
    """

    name = "virtiofs"
    options = VIRTIOFS_OPTIONS

    def __init__(self, proc: str = "/proc", sys: str = "/sys", source_noun: str = "tag") -> None:
        self._proc = proc
        self._sys = sys
        self.source_noun = source_noun

    def check_source(self, option: str, source: str) -> str:
        return check_mount_tag(option, source)

    def is_supported(self) -> bool:
        """Return whether the kernel can mount virtiofs.

        Virtiofs may be built in, loaded, or a module that mount(2) would load.
        """
        if "virtiofs" in read_text(os.path.join(self._proc, "filesystems")).split():
            return True
        try:
            return run(["modprobe", "--dry-run", "--quiet", "virtiofs"], accept=None).returncode == 0
        except CommandFailed:  # without modprobe, no module can be loaded
            return False

    def require_supported(self) -> None:
        if not self.is_supported():
            raise UnsupportedAction(
                f"The running kernel {platform.release()} has no virtiofs, neither built in nor as a module: "
                "boot a kernel with CONFIG_VIRTIO_FS, or reboot if an upgrade removed the modules of this one."
            )

    def available_tags(self) -> list[str] | None:
        """Return the tags of this guest's virtio-fs devices.

        The result is ``None`` if the guest has devices but its kernel doesn't list their tags (Linux before 6.9, or
        driver not loaded).
        """
        directory = os.path.join(self._sys, "fs", "virtiofs")
        if os.path.isdir(directory):
            tags = glob.glob(os.path.join(glob.escape(directory), "*", "tag"))
            return sorted(read_text(path).rstrip("\n") for path in tags)
        devices = glob.glob(os.path.join(glob.escape(self._sys), "bus", "virtio", "devices", "*", "device"))
        return None if any(int(read_text(path).strip() or "0", 16) == _DEVICE_TYPE for path in devices) else []

    def require_source(self, source: str) -> None:
        tags = self.available_tags()
        if tags is not None and source not in tags:
            known = f"the tags are {', '.join(map(repr, tags))}" if tags else "it has no virtio-fs device"
            raise DependencyNotFound(
                f"{self.source_noun}: This machine has no virtio-fs device with the tag {source!r}: {known}."
            )

    def require_compatible(self, mounts: Sequence[Mount], source: str, path: str, settings: Mapping[str, str]) -> None:
        # All mounts of a tag have one superblock.
        for mount in mounts:
            if (mount.fstype, mount.source) == (self.name, source) and mount.mount_point != path:
                changes = self.options.find_differences(self.settings_of(mount), settings) - REMOUNTABLE
                if changes:
                    raise Conflict(
                        f"The tag {source} is mounted on {mount.mount_point} too, and all its mounts have the same "
                        f"{', '.join(sorted(changes))}: unmount that one, or give both the same options."
                    )

    def explain(self, error: CommandFailed, source: str, path: str) -> CommandFailed:
        self.require_source(source)  # the kernel lists tags only after loading the module
        return CommandFailed(
            f"{error} Tag {source!r} on {path}: does this machine have a virtio-fs device with that tag?"
        )


__all__ = ["VIRTIOFS_OPTIONS", "Virtiofs"]
