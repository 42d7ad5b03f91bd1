# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""File systems that are mounted below a shared directory and missing in the mount namespace of its virtiofsd.

A later mount on the host appears in virtiofsd's namespace only if the mounts of the host are shared
(mount_namespaces(7)), like the mounts of systemd. A directory that is a mount point only in another namespace can be
removed. The kernel then unmounts the file system in that namespace.
"""

from __future__ import annotations

import os

from ..._core.errors import FileAccessFailed
from ..._core.files import read_text
from ..._core.paths import is_within
from ..mount import mountinfo


def unknown_submounts(source: str, proc: str = "/proc") -> list[mountinfo.Mount]:
    """Return the mounts below ``source`` that are missing in the namespace of a running virtiofsd which shares
    ``source``.

    :arg source: a directory of this host without symbolic links.
    """
    mounts = mountinfo.read_mounts(proc)
    below = [
        mount
        for mount in mounts
        if is_within(mount.mount_point, source)
        and mount.mount_point != source
        and mountinfo.visible(mounts, mount.mount_point)[-1] == mount
    ]
    served = mountinfo.place(mounts, source) if below else None
    unknown = []
    for table in _tables_of_daemons(proc) if served else []:
        # A sandboxed daemon has the shared directory as its root.
        if mountinfo.place(table, "/") == served:
            known = {(mount.mount_point, mount.device) for mount in table}
            unknown += [
                mount
                for mount in below
                if (f"/{os.path.relpath(mount.mount_point, source)}", mount.device) not in known
            ]
    return list(dict.fromkeys(unknown))


def submount_warnings(domain: str, source: str) -> list[str]:
    """Return a warning for each of :func:`unknown_submounts`, in a stable order."""
    return [
        f"The file system {mount} was mounted after a virtiofsd began to share {source}, which does not see it: the "
        "guest can unmount it on this host by removing the directory. Make the mounts of this host shared ('mount "
        f"--make-rshared /'), then stop and start the domain {domain!r}."
        for mount in sorted(unknown_submounts(source), key=lambda mount: mount.mount_point)
    ]


def _tables_of_daemons(proc: str) -> list[list[mountinfo.Mount]]:
    tables = []
    for process in filter(str.isdigit, os.listdir(proc)):
        try:
            if read_text(os.path.join(proc, process, "comm")) == "virtiofsd\n":
                tables.append(mountinfo.read_mounts(proc, process))
        except FileAccessFailed:  # the process has ended meanwhile
            continue
    return tables


__all__ = ["submount_warnings", "unknown_submounts"]
