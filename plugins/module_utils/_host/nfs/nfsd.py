# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The state of the kernel's NFS server: its threads, its versions, and its table of exports, nfsd(7)."""

from __future__ import annotations

import os

from ..._core.files import read_text
from ..._core.records import dataclass
from ..mount.mountinfo import unescape
from .export_options import KERNEL_SETTINGS, ExportOptions, read_options

#: The word of entries that rpc.mountd makes for the directories above exports, for NFSv4.
_PSEUDO_ROOT = "v4root"


@dataclass(frozen=True)
class LiveExport:
    """An entry of the kernel's table.

    :arg clients: all clients in the table of exportfs that include the host. The options are those of the best of them.
    """

    path: str
    clients: tuple[str, ...]
    options: ExportOptions

    def is_current(self, options: ExportOptions) -> bool:
        """Return whether the options are those of the table of exportfs, as far as the kernel prints them."""
        return self.options.equals(options, KERNEL_SETTINGS)


def read_threads(proc: str = "/proc") -> int:
    """Return the number of the server's threads; 0 if the server isn't running."""
    text = read_text(os.path.join(proc, "fs", "nfsd", "threads")).strip()
    return int(text) if text.isdecimal() else 0


def read_versions(proc: str = "/proc") -> list[str]:
    """Return the enabled versions of the protocol, such as ``3`` and ``4.2``."""
    words = read_text(os.path.join(proc, "fs", "nfsd", "versions")).split()
    return [word[1:] for word in words if word.startswith("+")]


def read_live_exports(proc: str = "/proc") -> list[LiveExport]:
    """Return the kernel's exports. Before a client has come, the kernel knows none.

    The kernel keeps what it has forgotten in the table for a while: after several changes in a second, for half a
    minute. Here it marks these lines as comments, and in ``/proc/fs/nfsd/exports`` it doesn't.
    """
    return parse_live_exports(read_text(os.path.join(proc, "net", "rpc", "nfsd.export", "content")))


def parse_live_exports(text: str) -> list[LiveExport]:
    """Return the exports in ``/proc/net/rpc/nfsd.export/content``, without the directories above exports."""
    found = []
    for line in text.split("\n"):
        path, tab, rest = line.partition("\t")
        clients, bracket, words = rest.partition("(")
        options = words.partition(")")[0].split(",")
        if tab and bracket and not line.startswith("#") and _PSEUDO_ROOT not in options:
            found.append(LiveExport(unescape(path), tuple(unescape(clients).split(",")), read_options(options)))
    return found


__all__ = ["LiveExport", "parse_live_exports", "read_live_exports", "read_threads", "read_versions"]
