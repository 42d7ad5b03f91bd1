# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shared file systems other than NFS: whatever the kernel, or a helper of mount(8), can mount."""

from __future__ import annotations

import functools
import os
import platform
import re
import stat

from ..._core.command import run
from ..._core.deadline import run_with_deadline
from ..._core.errors import CommandFailed, DependencyMissing, InvalidInput, os_errors
from ..._core.files import read_text
from ..._core.paths import absolute
from .file_system import FileSystemType
from .helpers import has_helper
from .options import REMOUNTABLE, OptionRules

#: Types whose content is on this host only, or that are no file systems.
LOCAL_TYPES = frozenset(
    """auto autofs bind binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fusectl hugetlbfs
    iso9660 mqueue none overlay proc pstore ramfs rootfs securityfs squashfs swap sysfs tmpfs tracefs udf""".split()
)

#: Further settings that a remount changes, by type. Of all other types, these are the settings of every type only.
REMOUNTABLE_OF = {
    "ext4": frozenset(("commit", "errors", "discard", "barrier", "sync", "lazytime")),
    "xfs": frozenset(("sync", "lazytime")),
    "gfs2": frozenset(("commit", "errors", "discard", "barrier", "sync")),
    "ocfs2": frozenset(("commit", "errors", "sync")),
}

#: Types on block devices that the kernel may not have loaded yet.
BLOCK_TYPES = frozenset("btrfs ext2 ext3 ext4 gfs2 ocfs2 xfs".split())

#: Upper bound of the time for a look at a path, which may be on a dead mount, in seconds.
_PROBE_TIMEOUT = 30

_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_.-]+)?")
#: A block device by a tag (mount(8), "Indicating the device and filesystem").
_KEPT = re.compile(r"[A-Za-z0-9#+.:=@_-]")
_TAGS = {"UUID": "by-uuid", "LABEL": "by-label", "PARTUUID": "by-partuuid", "PARTLABEL": "by-partlabel"}


def check_type(option: str, fstype: str) -> str:
    """Return a type of file systems.

    :raises InvalidInput: the text is no name of a type, or the type is never shared.
    """
    if _TYPE.fullmatch(fstype) is None:
        raise InvalidInput(option, fstype, "a type of file systems such as nfs, ceph, cifs or fuse.sshfs is expected")
    if fstype in LOCAL_TYPES:
        raise InvalidInput(option, fstype, "a file system that several hosts share is expected, such as nfs")
    return fstype


class OtherType(FileSystemType):
    """A type about which only its name is known.

    :arg proc: the directory of ``filesystems``.
    """

    source_noun = "source"

    def __init__(self, name: str, proc: str = "/proc") -> None:
        self.name = name
        self._proc = proc
        self.is_block = name in _kernel_types(proc, of_devices=True) or name in BLOCK_TYPES
        self.fstab_words = ("_netdev",)
        self.options = OptionRules(
            values={},
            synonyms={},
            advice="To mount a subdirectory, name it in the source",
            # Helpers of file systems in user space set nosuid and nodev by themselves (fusermount(1)).
            negotiated=frozenset() if name in _kernel_types(proc) else frozenset(("suid", "dev")),
            remountable=REMOUNTABLE | REMOUNTABLE_OF.get(name, frozenset()),
            is_open=True,
        )

    def matches_type(self, fstype: str) -> bool:
        # The kernel shows the type sshfs as fuse.sshfs.
        return _without_fuse(fstype) == _without_fuse(self.name)

    def check_source(self, option: str, source: str) -> str:
        if source != source.strip() or not source.isprintable() or source.startswith(("-", "#")) or not source:
            raise InvalidInput(option, source, "printable text that begins neither with '-' nor with '#' is expected")
        tag, equals, _value = source.partition("=")
        if self.is_block and equals and tag in _TAGS:
            return source
        if self.is_block and not source.startswith("/dev/"):
            raise InvalidInput(
                option, source, f"a device in /dev, or one of {', '.join(_TAGS)} with a value, is expected"
            )
        if source.startswith("/") and not source.startswith("//"):
            return self._check_path(option, absolute(option, source))
        return source

    def _check_path(self, option: str, source: str) -> str:
        # udev links devices in /dev. Any other link can be replaced after the check.
        if not source.startswith("/dev/"):
            look = functools.partial(_target, source)
            target = run_with_deadline(_PROBE_TIMEOUT, f"Looking at the source {source}", look)
            if target is not None:
                raise InvalidInput(option, source, f"it is a symbolic link; its target {target!r} is expected")
        return source

    def is_same_source(self, found: str, source: str) -> bool:
        if found == source:
            return True
        device = _device(source) if self.is_block else None
        return device is not None and device == _device(found)

    def require_supported(self) -> None:
        kind = self.name.partition(".")[0]
        if self.name in _kernel_types(self._proc) or has_helper(self.name) or (kind != self.name and has_helper(kind)):
            return
        if kind == self.name and _is_module(self.name):
            return
        raise DependencyMissing(
            f"Neither the running kernel {platform.release()} nor a program mount.{self.name} can mount the type "
            f"{self.name}: install the package with that program or module."
        )

    def require_source(self, source: str) -> None:
        if not self.is_block:
            return
        with os_errors(f"look at the device {source}"):
            if _device(source) is None:
                raise DependencyMissing(f"source: This host has no block device {source}.")


def _target(path: str) -> str | None:
    """Return the target of a symbolic link; ``None`` if ``path`` is something else."""
    return os.path.realpath(path) if os.path.islink(path) else None


def _without_fuse(fstype: str) -> str:
    return fstype[len("fuse.") :] if fstype.startswith("fuse.") else fstype


def _device(source: str) -> int | None:
    """Return the number of a block device; ``None`` without such a device."""
    tag, _equals, value = source.partition("=")
    # udev(7) escapes all other characters of ASCII, also the slash.
    name = re.sub(r"[\x00-\x7f]", lambda one: one[0] if _KEPT.match(one[0]) else f"\\x{ord(one[0]):02x}", value)
    path = os.path.join("/dev/disk", _TAGS[tag], name) if tag in _TAGS else source
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_rdev if stat.S_ISBLK(status.st_mode) else None


def _kernel_types(proc: str, *, of_devices: bool = False) -> set[str]:
    lines = read_text(os.path.join(proc, "filesystems")).splitlines()
    return {line.split()[-1] for line in lines if line.strip() and not (of_devices and line.startswith("nodev"))}


def _is_module(name: str) -> bool:
    try:
        return run(["modprobe", "--dry-run", "--quiet", f"fs-{name}"], accept=None).returncode == 0
    except CommandFailed:  # without modprobe, no module can be loaded
        return False


__all__ = ["OtherType", "check_type"]
