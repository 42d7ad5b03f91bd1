# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All exports of this server: in files, in the table of exportfs, and in the kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..._core.arguments import ArgumentSpec
from ..._host.nfs import exportfs, nfsd
from ..._host.nfs.clients import RMTAB, clients_of, read_clients, read_domains
from ..._host.nfs.export_options import ExportOptions, read_options
from ..._host.nfs.exportfs import TableEntry
from ..._host.nfs.exports_file import Export, read_exports
from .export import as_result
from .table import entries_of

NFS_EXPORT_INFO_SPEC = ArgumentSpec({})


def read_nfs_exports(etc: str = "/etc", proc: str = "/proc", rmtab: str = RMTAB) -> Mapping[str, object]:
    """Return the exports by path, and the state of the server.

    :raises DependencyMissing: exportfs isn't installed.
    """
    files = read_exports(etc)
    table = exportfs.read_table()
    live = nfsd.read_live_exports(proc)
    connected, domains = read_clients(proc, rmtab), read_domains(proc)
    exports = []
    for path in sorted({one.path for one in files} | {one.path for one in table}):
        clients = _list_clients([one for one in files if one.path == path], [one for one in table if one.path == path])
        let_in = clients_of(path, [str(one["client"]) for one in clients], connected, domains)
        exports.append(
            {
                "path": path,
                "clients": clients,
                "live": [as_result(",".join(one.clients), one.options) for one in live if one.path == path],
                "clients_live": [{"address": one.address, "version": one.version} for one in let_in],
            }
        )
    threads = nfsd.read_threads(proc)
    server = {"running": threads > 0, "threads": threads, "versions": nfsd.read_versions(proc)}
    return {"exports": exports, "server": server}


def _list_clients(files: Sequence[Export], table: Sequence[TableEntry]) -> list[dict[str, object]]:
    """Return the clients in files with their place, then the clients in the table only."""
    found = []
    rest = list(table)
    for entry in files:
        for one in entry.clients:
            listed = entries_of(rest, [one.client])
            rest = [other for other in rest if other not in listed]
            options = listed[0].options if listed else read_options(one.words)
            place = {"file": entry.file, "line": entry.line, "table": bool(listed)}
            found.append({**_describe(one.client, options), **place})
    return found + [{**_describe(one.client, one.options), "file": None, "line": None, "table": True} for one in rest]


def _describe(client: str, options: ExportOptions) -> dict[str, object]:
    return {**as_result(client, options), "effective": options.effective()}


__all__ = ["NFS_EXPORT_INFO_SPEC", "read_nfs_exports"]
