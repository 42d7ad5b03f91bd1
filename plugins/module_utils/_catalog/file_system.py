# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file system of a directory, and whether SQLite can lock files there (spec: shared-file-system,
"Considerations").
"""

from __future__ import annotations

import os
import re

from .._core.errors import CatalogFailed
from .._core.files import read_text

#: Types of file systems that other hosts write to as well, by their names in proc_pid_mountinfo(5). Their locks are not
#: dependable (https://www.sqlite.org/howtocorrupt.html, "File locking problems").
SHARED_TYPES = frozenset(
    """9p acfs afs beegfs ceph cifs coda gfs2 glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs panfs prl_fs pvfs2
    smb2 smb3 smbfs vboxsf virtiofs vmhgfs""".split()
)
#: The only type of user-space file systems that is known to be local. Other types may be remote.
LOCAL_FUSE_TYPES = frozenset(["fuse.fuse-overlayfs", "fuse.lxcfs"])


def type_of(mountinfo: str, mount_id: int) -> str:
    """Return the type of the mount with this id in the text of proc_pid_mountinfo(5); ``unknown`` without such a
    mount.
    """
    match = re.search(rf"^{mount_id} .*? - (\S+) ", mountinfo, re.MULTILINE)
    return match[1] if match else "unknown"


def is_shared(file_system: str) -> bool:
    """Return whether other hosts may write to a file system of this type."""
    return file_system in SHARED_TYPES or (
        re.match(r"fuse(\.|$)", file_system) is not None and file_system not in LOCAL_FUSE_TYPES
    )


def check_local(directory: str) -> None:
    """Refuse a directory on a network file system.

    :raises CatalogFailed: naming the file system and the reason; :raises OSError: the directory can't be opened.
    """
    # O_PATH makes no request to the file system, because its server may be dead.
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        facts = read_text(f"/proc/self/fdinfo/{descriptor}")
    finally:
        os.close(descriptor)
    match = re.search(r"^mnt_id:\s*([0-9]+)$", facts, re.MULTILINE)
    file_system = type_of(read_text("/proc/self/mountinfo"), int(match[1])) if match else "unknown"
    if is_shared(file_system):
        raise CatalogFailed(
            f"The catalog can't be in {directory}, which is on the network file system {file_system!r}: file locks are "
            "not dependable there and two writers would damage it, so name a directory on a local disk of the "
            "front-end."
        )


__all__ = ["check_local", "is_shared", "type_of"]
