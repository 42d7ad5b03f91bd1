# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The programs of this host that have files of a directory, or a block device, open: by proc(5) and the kernel's loop
devices.

Links of /proc are read and never followed, because a link can lead to a dead file server.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence


def open_files(directory: str) -> Mapping[str, Sequence[str]]:
    """Return the programs that have a file below ``directory`` open, by the file's path, without this process. Only
    root sees programs of other users.

    Every program is checked twice. A program that opens a file only briefly, such as another run of ours that reads its
    locks, is not in the result.

    :arg directory: absolute, without symbolic links.
    """
    found: dict[str, list[str]] = defaultdict(list)
    prefix = directory.rstrip("/") + "/"
    seen: dict[str, set[str]] = {}
    for process in filter(str.isdigit, os.listdir("/proc")):
        paths = {path for path in list_paths(process) if path.startswith(prefix)}
        if paths and int(process) != os.getpid():
            seen[process] = paths
    for process, paths in seen.items():
        for path in sorted(paths.intersection(list_paths(process))):
            found[path].append(f"the program {_name(process)} (process {process})")
    for device in sorted(os.listdir("/sys/block")):
        with (
            contextlib.suppress(OSError),
            open(f"/sys/block/{device}/loop/backing_file", encoding="utf-8", errors="surrogateescape") as file,
        ):
            path = file.read().rstrip("\n")
            if path.startswith(prefix):
                found[path].append(f"the loop device /dev/{device}")
    return found


def writers_of_device(number: int) -> Sequence[str]:
    """Return the programs that have a block device open for writing, under any name, without this process. Only root
    sees programs of other users.

    :arg number: st_rdev of the device.
    """
    return [
        f"the program {_name(process)} (process {process})"
        for process in filter(str.isdigit, os.listdir("/proc"))
        if int(process) != os.getpid()
        and any(_writes_to(process, descriptor, number) for descriptor in _list_descriptors(process))
    ]


def _writes_to(process: str, descriptor: str, number: int) -> bool:
    with contextlib.suppress(OSError, ValueError):
        link = f"/proc/{process}/fd/{descriptor}"
        if os.readlink(link).startswith("/dev/"):  # the device node is never on a file server
            status = os.stat(link)
            with open(f"/proc/{process}/fdinfo/{descriptor}", encoding="ascii") as file:
                flags = next(int(line.split()[1], 8) for line in file if line.startswith("flags:"))
            return stat.S_ISBLK(status.st_mode) and status.st_rdev == number and flags & os.O_ACCMODE != os.O_RDONLY
    return False


def _list_descriptors(process: str) -> Sequence[str]:
    with contextlib.suppress(OSError):  # the process has ended, or belongs to another user
        return os.listdir(f"/proc/{process}/fd")
    return ()


def list_paths(process: str) -> Iterator[str]:
    """Yield the paths that a process has open, as the kernel names them. A process that ends has no more of them."""
    for descriptor in _list_descriptors(process):
        with contextlib.suppress(OSError):
            yield os.readlink(f"/proc/{process}/fd/{descriptor}")


def _name(process: str) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{process}/comm", encoding="utf-8", errors="replace") as file:
        return file.read().strip()
    return "that has ended"


__all__ = ["list_paths", "open_files", "writers_of_device"]
