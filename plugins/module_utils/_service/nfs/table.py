# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of exportfs compared with the files of exports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..._core.errors import CommandFailed
from ..._host.nfs import exportfs
from ..._host.nfs.export_client import canonical_name, client_key
from ..._host.nfs.exportfs import TableEntry
from ..._host.nfs.exports_file import read_exports
from .desired import DesiredClient

_NOT_EXPORTABLE = "does not support NFS export"
_REMEDY = (
    " Take a directory on a file system of another type, such as ext4, xfs or btrfs, or give an overlay the mount "
    "options index=on and nfs_export=on."
)


def entries_of(table: Sequence[TableEntry], clients: Iterable[str]) -> list[TableEntry]:
    """Return the entries for some clients. exportfs lists a host under its canonical name."""
    found = []
    for client in clients:
        keys = {client_key(client)}
        if not any(client_key(one.client) in keys for one in table):
            name = canonical_name(client)
            keys |= set() if name is None else {client_key(name)}
        found += [one for one in table if client_key(one.client) in keys and one not in found]
    return found


def has_clients(table: Sequence[TableEntry], clients: Iterable[DesiredClient]) -> bool:
    """Return whether the table has all clients with their options."""
    return all(any(found.has(one.options) for found in entries_of(table, [one.client])) for one in clients)


def synchronize(paths: Sequence[str], etc: str) -> tuple[int, list[str]]:
    """Export what the files have, and end exports of the paths to clients that aren't in a file.

    :return: the exit code and the complaints of exportfs about the files.
    :raises CommandFailed: exportfs failed for another reason.
    """
    done = exportfs.load_files()
    written = [one.client for entry in read_exports(etc) if entry.path in paths for one in entry.clients]
    table = [one for one in exportfs.read_table() if one.path in paths]
    wanted = entries_of(table, written)
    for entry in table:
        if entry not in wanted:
            exportfs.unexport(entry)
    return done


def synchronize_strictly(path: str, clients: Sequence[DesiredClient], file: str, etc: str) -> None:
    """Synchronize the table, and require that it has the clients of an export. exportfs returns 0 for some errors.

    :raises CommandFailed: with the complaints of exportfs.
    """
    code, complaints = synchronize([path], etc)
    about_this = re.compile(rf"(^|[\s:])({re.escape(path)}|{re.escape(file)})($|[\s:(])")
    ours = [one for one in complaints if about_this.search(one)]
    table = [one for one in exportfs.read_table() if one.path == path]
    if (code and ours) or not has_clients(table, clients):
        reasons = "; ".join(ours or complaints) or "it gave no reason"
        remedy = _REMEDY if any(_NOT_EXPORTABLE in one for one in ours) else ""
        raise CommandFailed(f"The command 'exportfs' did not export {path} as desired: {reasons}.{remedy}")


__all__ = ["entries_of", "has_clients", "synchronize", "synchronize_strictly"]
