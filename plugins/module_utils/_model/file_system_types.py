# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Types of file systems that several hosts share."""

from __future__ import annotations

import re

#: Types of file systems that other hosts write to as well, by their names in proc_pid_mountinfo(5). Their locks are not
#: dependable (https://www.sqlite.org/howtocorrupt.html, "File locking problems").
SHARED_TYPES = frozenset(
    """9p acfs afs beegfs ceph cifs coda gfs2 glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs panfs prl_fs pvfs2
    smb2 smb3 smbfs vboxsf virtiofs vmhgfs""".split()
)
#: The only type of user-space file systems that is known to be local. Other types may be remote.
LOCAL_FUSE_TYPES = frozenset(["fuse.fuse-overlayfs", "fuse.lxcfs"])


def is_shared_type(file_system: str) -> bool:
    """Return whether other hosts may write to a file system of this type."""
    return file_system in SHARED_TYPES or (
        re.match(r"fuse(\.|$)", file_system) is not None and file_system not in LOCAL_FUSE_TYPES
    )


__all__ = ["is_shared_type"]
