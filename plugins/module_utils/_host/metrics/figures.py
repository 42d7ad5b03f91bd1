# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The figures of this host, from the kernel's files (proc(5), sysfs(5))."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from ..._core.errors import FileAccessFailed, os_errors
from ..._model.metrics import HostFigures

#: Ticks of /proc/stat and bytes of a page in /proc/vmstat.
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class HostReader:
    """A reader of the figures.

    :arg root: directory with ``proc`` and ``sys``.
    """

    def __init__(self, root: str = "/") -> None:
        self._proc = os.path.join(root, "proc")
        self._cpus = os.path.join(root, "sys/devices/system/cpu")
        #: The processors that were online at the last count, and the number of their packages.
        self._counted = "", 0

    def read(self) -> HostFigures:
        """Return the figures.

        :raises FileAccessFailed: a file, or a number in a file, is missing.
        """
        with os_errors("read the figures of the host"):
            try:
                memory = _numbers(_read(f"{self._proc}/meminfo"))
                # A kernel without swap has no figures about it.
                pages = _numbers(_read(f"{self._proc}/vmstat"))
                user, nice, system = map(int, _read(f"{self._proc}/stat").split(None, 4)[1:4])
                free, cached = memory["MemFree:"], memory["Buffers:"] + memory["Cached:"]
                used = memory["MemTotal:"] - free - cached
                return HostFigures(
                    processors=self._count_packages(),
                    cpu_seconds=(user + nice + system) / TICKS,
                    free_memory=free,
                    free_virtual_memory=free + memory.get("SwapFree:", 0),
                    # The kernel counts these at different moments.
                    used_memory=max(0, used),
                    used_virtual_memory=max(0, used + memory.get("SwapTotal:", 0) - memory.get("SwapCached:", 0)),
                    paged_in=pages.get("pswpin", 0) * PAGE // 1024,
                    paged_out=pages.get("pswpout", 0) * PAGE // 1024,
                    time=int(time.time()),
                )
            except (KeyError, ValueError) as error:
                raise FileAccessFailed(f"Could not read the figures of the host: {error}.") from error

    def _count_packages(self) -> int:
        """Return the number of processor packages, counted anew only when other processors are online."""
        online, packages = _read(f"{self._cpus}/online"), self._counted[1]
        if online != self._counted[0]:
            names = [name for name in os.listdir(self._cpus) if name.startswith("cpu") and name[3:].isdigit()]
            files = [f"{self._cpus}/{name}/topology/physical_package_id" for name in names]
            # A processor that is offline has no topology, and neither has a machine with one processor on some systems.
            packages = len({_read(file) for file in files if os.path.exists(file)}) or 1
            self._counted = online, packages
        return packages


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def _numbers(text: str) -> Mapping[str, int]:
    """Return the first number of each line by the first word."""
    return {words[0]: int(words[1]) for words in map(str.split, text.splitlines()) if len(words) > 1}


__all__ = ["HostReader"]
