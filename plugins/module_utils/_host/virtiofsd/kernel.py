# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the kernel of a guest offers of virtio-fs: the file system, and the tags of its devices (VIRTIO 1.2, section
5.11).
"""

from __future__ import annotations

import glob
import os
import platform

from ..._core.command import run
from ..._core.errors import CommandFailed, UnsupportedAction
from ..._core.files import read_text

#: The virtio device type of a file system, as sysfs shows it.
_DEVICE_TYPE = 0x1A


def has_virtiofs(proc: str = "/proc") -> bool:
    """Whether the kernel can mount virtiofs: it is built in, loaded, or a module that mount(2) would load."""
    if "virtiofs" in read_text(os.path.join(proc, "filesystems")).split():
        return True
    try:
        return run(["modprobe", "--dry-run", "--quiet", "virtiofs"], accept=None).returncode == 0
    except CommandFailed:  # no modprobe, so nothing can be loaded
        return False


def check_virtiofs(proc: str = "/proc") -> None:
    """:raises UnsupportedAction: the kernel can't mount virtiofs."""
    if not has_virtiofs(proc):
        raise UnsupportedAction(
            f"The running kernel {platform.release()} has no virtiofs, neither built in nor as a module: "
            "boot a kernel with CONFIG_VIRTIO_FS, or reboot if an upgrade removed the modules of this one."
        )


def available_tags(sys: str = "/sys") -> list[str] | None:
    """The tags of this guest's virtio-fs devices; ``None`` when it has some but its kernel doesn't tell (Linux before
    6.9, or driver not loaded).
    """
    directory = os.path.join(sys, "fs", "virtiofs")
    if os.path.isdir(directory):
        return sorted(
            read_text(path).rstrip("\n") for path in glob.glob(os.path.join(glob.escape(directory), "*", "tag"))
        )
    devices = glob.glob(os.path.join(glob.escape(sys), "bus", "virtio", "devices", "*", "device"))
    return None if any(int(read_text(path).strip() or "0", 16) == _DEVICE_TYPE for path in devices) else []


__all__ = ["available_tags", "check_virtiofs", "has_virtiofs"]
