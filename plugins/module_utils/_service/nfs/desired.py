# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The desired state of one export of this server, as the options of the module ``nfs_export`` give it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..._core.arguments import ArgumentSpec
from ..._core.errors import InvalidInput
from ..._core.records import dataclass
from ..._host.nfs.export_client import check_client, client_key, is_world
from ..._host.nfs.export_options import ExportOptions, check_options
from ..._host.nfs.exported_directory import check_path
from ..._host.nfs.exports_file import LONGEST_CLIENT, SUFFIX, Export, ExportedTo

#: Upper bound of the length of a name, because file systems accept 255 bytes, and a temporary file has a longer name.
LONGEST_NAME = 200

NFS_EXPORT_SPEC = ArgumentSpec(
    {
        "path": {"type": "str", "required": True},
        "client": {"type": "str"},
        "options": {"type": "list", "elements": "str", "default": []},
        "clients": {
            "type": "list",
            "elements": "dict",
            "options": {
                "client": {"type": "str", "required": True},
                "options": {"type": "list", "elements": "str", "default": []},
            },
        },
        "name": {"type": "str"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    },
    mutually_exclusive=[["client", "clients"]],
    required_if=[["state", "present", ["client", "clients"], True]],
)


@dataclass(frozen=True)
class DesiredClient:
    """A client of the export with its options."""

    client: str
    options: ExportOptions

    @property
    def key(self) -> str:
        return client_key(self.client)

    def as_exported(self) -> ExportedTo:
        """Return the client for the file. Old versions of exportfs warn of a line without a word for subtree checks."""
        words = self.options.summarize()
        subtree = self.options.settings["subtree"]
        return ExportedTo(self.client, (*words, *([] if subtree in words else [subtree])))

    def risks(self) -> list[str]:
        """Return the risks of the options, each as a sentence with the remedy."""
        found = []
        if self.options.has("async"):
            found.append(
                f"The option async for {self.client} loses writes that the client was told are stored, when the server "
                "crashes: give sync, also for virtual disks."
            )
        if is_world(self.client) and self.options.has("rw"):
            if self.options.has("no_root_squash"):
                found.append(
                    f"The option no_root_squash lets root of every host that reaches this server ({self.client}) act "
                    "as root in the directory: name the hosts or their network."
                )
            if self.options.has("insecure"):
                found.append(
                    f"The option insecure lets every user of every host that reaches this server ({self.client}) write "
                    "as any other user: name the hosts or their network, or give secure."
                )
        return found


@dataclass(frozen=True)
class ExportSpec:
    """The desired state of an export.

    :arg name: the name of the file in exports.d, without its suffix.
    :arg clients: empty for an export that is absent.
    """

    path: str
    name: str
    clients: tuple[DesiredClient, ...] = ()

    @property
    def file_name(self) -> str:
        return self.name + SUFFIX

    def as_export(self, path: str) -> Export | None:
        """Return the entry of the file; ``None`` for an export that is absent."""
        return Export(path, tuple(one.as_exported() for one in self.clients)) if self.clients else None


def parse_export(options: Mapping[str, Any]) -> ExportSpec:
    """Return the desired state in the options of the module.

    :raises InvalidInput: naming the option.
    """
    path = check_path("path", options["path"])
    name = _default_name(path) if options["name"] is None else options["name"]
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) is None or len(name) > LONGEST_NAME:
        accepted = f"1 to {LONGEST_NAME} letters, digits and '_', '.', '-', not starting with '.' or '-', are expected"
        raise InvalidInput("name", name, accepted)
    if options["state"] == "absent":
        return ExportSpec(path, name)
    if options["clients"] is None:
        return ExportSpec(path, name, (_read_client("", options),))
    clients = tuple(_read_client("clients.", one) for one in options["clients"])
    if not clients:
        raise InvalidInput("clients", [], "at least one client is expected")
    _require_different(clients)
    return ExportSpec(path, name, clients)


def _default_name(path: str) -> str:
    """Return a name from a path: ``/srv/vm store`` is ``srv-vm_store``."""
    return "-".join(re.sub(r"[^A-Za-z0-9_.]", "_", part) for part in path[1:].split("/"))


def _read_client(prefix: str, options: Mapping[str, Any]) -> DesiredClient:
    if options["client"] is None:  # Ansible takes a null for a value
        raise InvalidInput(f"{prefix}client", None, "a client is expected")
    client = check_client(f"{prefix}client", options["client"])
    found = DesiredClient(client, check_options(f"{prefix}options", options["options"]))
    exported = found.as_exported()
    if len(f"{exported.client}({','.join(exported.words)})".encode()) > LONGEST_CLIENT:
        raise InvalidInput(
            f"{prefix}options",
            ",".join(exported.words),
            f"a client and its options of at most {LONGEST_CLIENT} bytes are expected",
        )
    return found


def _require_different(clients: Sequence[DesiredClient]) -> None:
    seen: dict[str, DesiredClient] = {}
    for one in clients:
        other = seen.setdefault(one.key, one)
        if other is not one:
            raise InvalidInput("clients", one.client, f"{other.client!r} is the same client, and each is expected once")


__all__ = ["NFS_EXPORT_SPEC", "DesiredClient", "ExportSpec", "parse_export"]
