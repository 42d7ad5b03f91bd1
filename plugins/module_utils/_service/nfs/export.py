# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan of one export of this server: its file, the table of exportfs, and the kernel's table."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..._core.errors import Conflict, DependencyMissing, DependencyNotFound, InvalidInput, os_errors
from ..._core.files import read_text, remove_durably, write_atomic
from ..._core.locks import locked
from ..._core.plan import Action, Plan
from ..._host.nfs import exportfs, exports_file, nfsd
from ..._host.nfs.clients import RMTAB, LiveClient, clients_of, read_clients, read_domains
from ..._host.nfs.export_client import client_key
from ..._host.nfs.export_options import ExportOptions, read_options
from ..._host.nfs.exported_directory import look_at, resolve_or_keep, suggest_fsid
from ..._host.nfs.exportfs import TableEntry
from ..._host.nfs.exports_file import Export, ExportedTo, read_exports
from ..service import Service
from .desired import ExportSpec, parse_export
from .table import entries_of, has_clients, synchronize, synchronize_strictly

#: Place of the kernel's table, as the subject of an action.
KERNEL_TABLE = "/proc/net/rpc/nfsd.export/content"

#: Place of the table of exportfs, as the subject of an action.
TABLE = "/var/lib/nfs/etab"


class NfsExportService(Service):
    """Plan one export.

    :arg etc: the directory of ``exports`` and ``exports.d``.
    :arg proc: the directory of ``fs/nfsd``.
    :arg rmtab: the file with the clients of NFSv3.
    """

    def __init__(self, desired: ExportSpec, etc: str = "/etc", proc: str = "/proc", rmtab: str = RMTAB) -> None:
        self.desired = desired
        self.etc = etc
        self.proc = proc
        self.rmtab = rmtab
        self.file = os.path.join(etc, "exports.d", desired.file_name)

    def exclusive(self) -> contextlib.AbstractContextManager[object]:
        return locked(os.path.join(self.etc, ".exports.lock"))

    def plan(self) -> Plan:
        plan = Plan()
        path = self._check_directory(plan) if self.desired.clients else resolve_or_keep("path", self.desired.path)
        entries = [one for one in read_exports(self.etc) if one.path in (path, self.desired.path)]
        own = [one for one in entries if one.file == self.file]
        others = [one for one in entries if one.file != self.file]
        self._check_others(plan, others)
        self._plan_file(plan, path, own)
        for one in self.desired.clients:
            plan.warnings += one.risks()
        export: dict[str, object] = {
            "path": path,
            "name": self.desired.name,
            "clients": [as_result(one.client, one.options) for one in self.desired.clients],
            "file": self.file if self.desired.clients else None,
            **{"table": None, "live": None, "clients_live": []},
        }
        plan.result["export"] = export
        before = self._read_table(plan, path)
        if before is not None:
            after = self._plan_table(plan, path, before, others)
            export["table"] = export["clients"]
            export.update(self._plan_kernel(plan, path, before, after))
        return plan

    # The directory

    def _check_directory(self, plan: Plan) -> str:
        """Return the path without symbolic links."""
        directory = look_at("path", self.desired.path, self.proc)
        if directory.is_missing:
            missing = DependencyNotFound(
                f"path: the directory {directory.path!r} is not on this host: create it first, for example with "
                "granary.vmstore.directory."
            )
            self.report_missing(plan, missing, is_planned=True)
        without = [one.client for one in self.desired.clients if not one.options.settings["fsid"]]
        if without and directory.needs_fsid:
            raise InvalidInput(
                "options",
                ",".join(self.desired.clients[0].options.summarize()),
                f"a file system of the type {directory.fstype} has no identity of its own, so the option fsid is "
                f"expected, such as '{suggest_fsid(directory.path)}'",
            )
        if without and directory.changes_identity:
            plan.warnings.append(
                f"The identity of the {directory.fstype} of {directory.path} can change with each mount, and the "
                f"clients then get 'Stale file handle': give the option fsid, such as {suggest_fsid(directory.path)}."
            )
        if directory.changeable is not None:
            plan.warnings.append(
                f"Another user than root can replace {directory.changeable} by a symbolic link, and the next start of "
                "the server would export where that leads: take a directory that only root can replace."
            )
        return directory.path

    # The file

    def _check_others(self, plan: Plan, others: Sequence[Export]) -> None:
        """Refuse a client that another line exports the directory to. For an absent export, warn of such lines.

        :raises Conflict: naming the line.
        """
        if not self.desired.clients:
            for entry in others:
                clients = ", ".join(one.client for one in entry.clients)
                plan.warnings.append(f"The directory stays exported to {clients} by line {entry.line} of {entry.file}.")
        keys = {one.key: one.client for one in self.desired.clients}
        for entry in others:
            for one in entry.clients:
                if client_key(one.client) in keys:
                    raise Conflict(
                        f"Line {entry.line} of {entry.file} exports {entry.path} to {one.client} already: remove that "
                        "client there, or leave it out here."
                    )

    def _plan_file(self, plan: Plan, path: str, own: Sequence[Export]) -> None:
        desired = self.desired.as_export(path)
        if self._is_written(path, own):
            return
        text = read_text(self.file)
        changed = exports_file.replace_entries(text, own, desired, self.file)
        existed = os.path.exists(self.file)
        plan.actions.append(
            Action(
                f"{'remove' if desired is None else 'replace' if own else 'add'} export",
                self.file,
                "".join(f"{entry}\n" for entry in own) or None,
                None if desired is None else f"{desired}\n",
                record=functools.partial(self._write, changed if changed.strip() else None),
                undo=functools.partial(self._restore, path, text if existed else None),
            )
        )

    def _is_written(self, path: str, own: Sequence[Export]) -> bool:
        """Return whether the file has the desired export, in any notation."""
        if not self.desired.clients or len(own) != 1 or own[0].path != path:
            return not self.desired.clients and not own
        written = {client_key(one.client): read_options(one.words) for one in own[0].clients}
        desired = {one.key: one.options for one in self.desired.clients}
        return written.keys() == desired.keys() and all(
            options.equals(desired[key]) and not options.unknown for key, options in written.items()
        )

    def _write(self, text: str | None) -> None:
        if text is None:
            remove_durably(self.file)
            return
        directory = os.path.dirname(self.file)
        with os_errors(f"create the directory {directory}"):
            os.makedirs(directory, mode=0o755, exist_ok=True)
        write_atomic(self.file, text.encode("utf-8", "surrogateescape"))

    def _restore(self, path: str, text: str | None) -> None:
        """Write the old file, and let exportfs read it. Complaints about the old file don't matter here."""
        self._write(text)
        synchronize([path], self.etc)

    # The table of exportfs

    def _read_table(self, plan: Plan, path: str) -> list[TableEntry] | None:
        """Return the entries of the directory; ``None`` without exportfs, which a task before may install."""
        try:
            return [one for one in exportfs.read_table() if one.path in (path, self.desired.path)]
        except DependencyMissing as error:
            if self.desired.clients:
                self.report_missing(plan, error, is_planned=plan.changed)
            return None

    def _plan_table(
        self, plan: Plan, path: str, table: Sequence[TableEntry], others: Sequence[Export]
    ) -> list[TableEntry]:
        """Plan the change of the table, and return its new entries of the directory, those of other files included."""
        kept = entries_of(table, [one.client for entry in others for one in entry.clients])
        own = [one for one in table if one not in kept]
        after = []
        for one in self.desired.clients:
            # The kernel, too, has a host under its canonical name.
            name = next((found.client for found in entries_of(own, [one.client])), one.client)
            after.append(TableEntry(path, name, one.options))
        if len(own) != len(after) or not has_clients(own, self.desired.clients):
            plan.actions.append(
                Action(
                    "update export table",
                    TABLE,
                    _lines(own),
                    _lines(after),
                    record=functools.partial(synchronize_strictly, path, self.desired.clients, self.file, self.etc),
                )
            )
        return [*after, *kept]

    # The kernel

    def _plan_kernel(
        self, plan: Plan, path: str, before: Sequence[TableEntry], after: Sequence[TableEntry]
    ) -> dict[str, object]:
        """Plan that the kernel forgets the exports and clients that the table no longer has. Return the live part of
        the result.
        """
        if not nfsd.read_threads(self.proc):
            if self.desired.clients:
                plan.warnings.append(
                    "The NFS server isn't running on this host, so no client can mount the export: start nfs-server, "
                    "for example by the role granary.vmstore.nfs_server."
                )
            return {"live": None, "clients_live": []}
        exports = [one for one in nfsd.read_live_exports(self.proc) if one.path == path]
        current = [one for one in exports if _is_current(one, after)]
        connected, domains = read_clients(self.proc, self.rmtab), read_domains(self.proc)
        let_in = clients_of(path, [one.client for one in after], connected, domains)
        lost = [
            one for one in clients_of(path, [one.client for one in before], connected, domains) if one not in let_in
        ]
        if lost:
            plan.warnings.append(
                f"Connected clients lose {path}: {', '.join(map(str, lost))}. Programs there that use the directory "
                "get errors, so unmount it on the clients first."
            )
        if lost or len(current) < len(exports):
            plan.actions.append(
                Action(
                    "update kernel exports",
                    KERNEL_TABLE,
                    _describe_live(exports, lost),
                    _describe_live(current),
                    record=exportfs.flush,
                )
            )
        return {
            "live": [as_result(",".join(one.clients), one.options) for one in current],
            "clients_live": [{"address": one.address, "version": one.version} for one in let_in],
        }


def _is_current(live: nfsd.LiveExport, table: Sequence[TableEntry]) -> bool:
    """Return whether the table has an export of the kernel. The kernel has the options of one of the clients."""
    return any(live.is_current(entry.options) for entry in entries_of(table, live.clients))


def _lines(table: Sequence[TableEntry]) -> str | None:
    entries = (Export(one.path, (ExportedTo(one.client, tuple(one.options.summarize())),)) for one in table)
    return "".join(f"{entry}\n" for entry in entries) or None


def _describe_live(exports: Sequence[nfsd.LiveExport], lost: Sequence[LiveClient] = ()) -> str | None:
    lines = [f"{','.join(one.clients)}({','.join(one.options.summarize())})" for one in exports]
    return "".join(f"{line}\n" for line in (*lines, *(f"connected client {one}" for one in lost))) or None


def as_result(client: str, options: ExportOptions) -> dict[str, object]:
    """Return a client with its options as a module's result."""
    return {"client": client, "options": options.summarize()}


def build_nfs_export(
    options: Mapping[str, Any], etc: str = "/etc", proc: str = "/proc", rmtab: str = RMTAB
) -> NfsExportService:
    """Return the service for the options of the module ``nfs_export``.

    :raises InvalidInput: naming the option.
    """
    return NfsExportService(parse_export(options), etc, proc, rmtab)


__all__ = ["NfsExportService", "as_result", "build_nfs_export"]
