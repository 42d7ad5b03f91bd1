# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of exports of this server, as exportfs(8) keeps it for rpc.mountd(8)."""

from __future__ import annotations

import re

from ..._core.command import Completed, run
from ..._core.errors import CommandFailed, DependencyMissing, printable
from ..._core.records import dataclass
from ..mount.mountinfo import unescape
from .export_client import WORLD
from .export_options import ExportOptions, read_options

#: Upper bound of the time of one call in seconds. exportfs resolves the names of all clients.
TIMEOUT = 60

#: The package with exportfs on Debian and Ubuntu.
PACKAGE = "nfs-kernel-server"

_LINE = re.compile(r"([^ ]+) +([^ (]*)\((.*)\)")


@dataclass(frozen=True)
class TableEntry:
    """One client of one export in the table.

    :arg is_port_known: whether exportfs printed ``secure`` or ``insecure``. Some versions don't while the server isn't
        running.
    """

    path: str
    client: str
    options: ExportOptions
    is_port_known: bool = True

    def has(self, options: ExportOptions) -> bool:
        """Return whether the entry has the options, as far as exportfs prints them."""
        names = set(options.settings) - ({"port"} if not self.is_port_known else set())
        return self.options.equals(options, names)


def read_table() -> list[TableEntry]:
    """Return the entries of the table.

    ``exportfs -s`` has the content of ``exportfs -v`` with escaped paths, so that no path looks like several lines.

    :raises DependencyMissing: exportfs isn't installed; :raises CommandFailed: exportfs failed.
    """
    return parse(_exportfs("-s").stdout)


def parse(text: str) -> list[TableEntry]:
    """Return the entries in the output of ``exportfs -s``."""
    found = []
    for line in text.split("\n"):
        match = _LINE.fullmatch(line)
        if match is not None:
            words = match[3].split(",")
            is_port_known = not {"secure", "insecure"}.isdisjoint(words)
            found.append(TableEntry(unescape(match[1]), match[2] or WORLD, read_options(words), is_port_known))
    return found


def load_files() -> tuple[int, list[str]]:
    """Export everything in the files, and return the exit code and the complaints of exportfs.

    The exit code is also 1 for the line of another export. Exports that are in the table and in no file stay, because
    other programs make them, such as the resource agents of a cluster. ``exportfs -ra`` would remove them. The kernel
    forgets its exports, and rpc.mountd(8) gives them back when clients come.

    :raises DependencyMissing: exportfs isn't installed; :raises CommandFailed: exportfs did not end in time.
    """
    done = _exportfs("-a", accept=None)
    lines = dict.fromkeys(printable(line).strip() for line in done.stderr.split("\n"))
    return done.returncode, [re.sub("^exportfs: *", "", line) for line in lines if line]


def unexport(entry: TableEntry) -> None:
    """Remove an entry of the table. It comes back at the next boot if it is in a file.

    :raises CommandFailed: exportfs failed.
    """
    address, slash, length = entry.client.partition("/")
    client = f"[{address}]{slash}{length}" if ":" in address else entry.client
    _exportfs("-u", f"{client}:{entry.path}")


def flush() -> None:
    """Let the kernel forget its exports. rpc.mountd gives them back when the clients come.

    :raises CommandFailed: exportfs failed.
    """
    _exportfs("-f")


def _exportfs(*arguments: str, accept: tuple[int, ...] | None = (0,)) -> Completed:
    try:
        return run(["exportfs", *arguments], timeout=TIMEOUT, accept=accept)
    except CommandFailed as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise DependencyMissing(
                f"The command 'exportfs' is not installed on this host: install the package {PACKAGE}."
            ) from error
        raise


__all__ = ["PACKAGE", "TableEntry", "flush", "load_files", "parse", "read_table", "unexport"]
