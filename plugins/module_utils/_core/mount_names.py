# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Mount tags and mount points: what virtio-fs, fstab(5) and cloud-init can carry."""

from __future__ import annotations

import re

from .errors import InvalidInput
from .paths import absolute

#: Bytes in a tag (VIRTIO 1.2, section 5.11.4: virtio_fs_config.tag).
LONGEST_TAG = 36

#: Directories a guest needs in their place; mounting over one would take it away.
NEEDED_BY_THE_GUEST = frozenset("/ /bin /boot /dev /etc /lib /lib32 /lib64 /proc /root /run /sbin /sys /tmp /usr /var".split())


def check_mount_tag(option: str, tag: str) -> str:
    """The tag as given.

    :raises InvalidInput: over 36 bytes, or with a character that mount(8) or fstab(5) would read as something else
        (``LABEL=x``, ``host:path``, ``/dev/x``, blanks, ``#``, a leading hyphen).
    """
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]*", tag) is None or len(tag) > LONGEST_TAG:
        raise InvalidInput(option, tag, f"1 to {LONGEST_TAG} letters, digits and '_', '.', '+', '@', '-', not starting with a sign, are expected")
    return tag


def check_mount_point(option: str, path: str) -> str:
    """The mount point without repeated and trailing slashes.

    :raises InvalidInput: not absolute, with ``..`` or control characters, or a directory the guest can't live without.
    """
    point = absolute(option, path)
    if point in NEEDED_BY_THE_GUEST:
        raise InvalidInput(option, path, "a directory that the guest can do without is expected, such as '/mnt/data'")
    return point


__all__ = ["LONGEST_TAG", "NEEDED_BY_THE_GUEST", "check_mount_point", "check_mount_tag"]
