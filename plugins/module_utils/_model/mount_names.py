# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Mount tags and mount points that virtio-fs, fstab(5) and cloud-init support."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from .._core.errors import InvalidInput
from .._core.paths import absolute, is_within

#: Upper bound of a tag in bytes (VIRTIO 1.2, section 5.11.4: virtio_fs_config.tag).
LONGEST_TAG = 36

#: Directories that a mount must not hide in a guest, by what they hold. A path that ends in ``/**`` means everything
#: in the directory, too. The longest path that covers a mount point decides, so that ``/usr/local`` without ``/**``
#: allows ``/usr/local/data`` in spite of ``/usr/**``.
_NEEDED_BY_CONTENT: Mapping[str, str] = {
    "the whole system": "/",
    "programs and libraries": """
        /bin/** /sbin/** /lib/** /lib32/** /lib64/** /libx32/** /usr/** /usr/src /usr/local /usr/local/share
        /snap/** /nix /nix/store/** /gnu /gnu/store/** /usr/local/bin/** /usr/local/games/** /usr/local/include/**
        /usr/local/lib/** /usr/local/lib64/** /usr/local/libexec/** /usr/local/sbin/**""",
    "the configuration of the system": """
        /etc/** /usr/local/etc/** /usr/local/share/ca-certificates/** /var/cache/debconf/** /var/spool/anacron/**
        /var/spool/at/** /var/spool/cron/**""",
    "the files that the system boots from": "/boot/** /efi/** /ostree/** /sysroot/**",
    "the interfaces of the kernel": "/dev/** /proc/** /sys/**",
    "the files of root": "/root /var/roothome",
    "the temporary files of all programs": "/tmp /var/tmp",
    "the sockets and locks of running services": """
        /run /run/cloud-init/** /run/credentials/** /run/dbus/** /run/initctl/** /run/initramfs/** /run/lock/**
        /run/log/** /run/lvm/** /run/mount/** /run/netns/** /run/network/** /run/NetworkManager/** /run/sshd/**
        /run/shm/** /run/sudo/** /run/systemd/** /run/udev/** /run/user/**""",
    "the data of several services": "/var /var/cache /var/lib /var/lib/private /var/log /var/log/audit/** "
    "/var/log/journal/** /var/spool",
    "the records of the package manager or another part of the system": """
        /var/db/** /var/lib/alternatives/** /var/lib/apk/** /var/lib/apt/** /var/lib/cloud/** /var/lib/dbus/**
        /var/lib/dhclient/** /var/lib/dhcp/** /var/lib/dhcpcd/** /var/lib/dnf/** /var/lib/dpkg/**
        /var/lib/initramfs-tools/** /var/lib/misc/** /var/lib/NetworkManager/** /var/lib/pacman/** /var/lib/pam/**
        /var/lib/polkit-1/** /var/lib/python/** /var/lib/rpm/** /var/lib/selinux/** /var/lib/snapd/**
        /var/lib/sudo/** /var/lib/systemd/** /var/lib/ucf/** /var/lib/yum/** /var/lib/zypp/**""",
}
_NEEDED: Mapping[str, str] = {path: content for content, paths in _NEEDED_BY_CONTENT.items() for path in paths.split()}

#: Former names of directories, which most systems keep as symbolic links.
_FORMER_NAMES = {"/var/run": "/run", "/var/lock": "/run/lock"}


def check_mount_tag(option: str, tag: str) -> str:
    """Return a mount tag after a check.

    :raises InvalidInput: the tag is longer than 36 bytes, or has a character with another meaning in mount(8) or
        fstab(5) (``LABEL=x``, ``host:path``, ``/dev/x``, blanks, ``#``, a leading hyphen).
    """
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]*", tag) is None or len(tag) > LONGEST_TAG:
        raise InvalidInput(
            option,
            tag,
            f"1 to {LONGEST_TAG} letters, digits and '_', '.', '+', '@', '-', not starting with a sign, are expected",
        )
    return tag


def check_mount_point(option: str, path: str) -> str:
    """Return the mount point without repeated and trailing slashes.

    :raises InvalidInput: the path isn't absolute, has ``..`` or control characters, or a mount there would hide files
        that the guest needs.
    """
    point = absolute(option, path)
    needed = needed_directory(point)
    if needed is not None:
        directory, content = needed
        accepted = (
            f"{directory} holds {content}, which a mount would hide; a directory that the guest can do without is "
            "expected, such as '/mnt/data'"
        )
        raise InvalidInput(option, path, accepted)
    return point


def needed_directory(point: str) -> tuple[str, str] | None:
    """Return the directory of the system that ``point`` is, or is in, and a description of its content; ``None`` if the
    system can do without ``point``.
    """
    for former, present in _FORMER_NAMES.items():
        if is_within(point, former):
            point = present + point[len(former) :]
    directories = ["/".join(point.split("/")[:depth]) for depth in range(point.count("/") + 1, 1, -1)]
    for directory in directories:
        if os.path.basename(directory) == ".ssh":
            return directory, "the keys for the login of a user"
        if f"{directory}/**" in _NEEDED:
            return directory, _NEEDED[f"{directory}/**"]
        if directory in _NEEDED:
            return (directory, _NEEDED[directory]) if directory == point else None
    return ("/", _NEEDED["/"]) if point == "/" else None


__all__ = ["LONGEST_TAG", "check_mount_point", "check_mount_tag", "needed_directory"]
