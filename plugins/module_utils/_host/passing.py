# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A directory of root that only named users can pass (acl(5); Linux, include/uapi/linux/posix_acl_xattr.h)."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable

_ATTRIBUTE = "system.posix_acl_access"
_VERSION = 2
#: Tags of entries.
_OWNER, _USER, _GROUP, _MASK, _OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20
#: The id of an entry without a name.
_UNNAMED = 0xFFFFFFFF


def let_only_pass(path: str, uids: Iterable[int]) -> None:
    """Let root alone read the directory ``path``, and ``uids`` pass it. Other users can't enter.

    :raises OSError: the directory can't be changed, or its file system has no access control lists.
    """
    os.chmod(path, stat.S_IRWXU)
    users = sorted(set(uids) - {0})
    if not users:
        return
    entries = [
        (_OWNER, 7, _UNNAMED),
        *((_USER, 1, uid) for uid in users),
        (_GROUP, 0, _UNNAMED),
        (_MASK, 1, _UNNAMED),
        (_OTHERS, 0, _UNNAMED),
    ]
    data = struct.pack("<I", _VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(path, _ATTRIBUTE, data)


__all__ = ["let_only_pass"]
