# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The clients that are connected to the NFS server now. Only addresses count, because clients choose their names."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable

from ..._core.files import read_text
from ..._core.records import dataclass
from ..mount.mountinfo import unescape
from .export_client import client_key, covers

#: The clients that mounted by NFSv3, as rpc.mountd records them. A client that crashed stays in the file.
RMTAB = "/var/lib/nfs/rmtab"


@dataclass(frozen=True)
class LiveClient:
    """A client with the address of its connection.

    :arg version: the version of the protocol, such as ``4.2``.
    :arg path: the directory that the client mounted by NFSv3; ``None`` by NFSv4, which doesn't record one.
    """

    address: str
    version: str
    path: str | None = None

    def __str__(self) -> str:
        return f"{self.address} (NFSv{self.version})"


def read_clients(proc: str = "/proc", rmtab: str = RMTAB) -> list[LiveClient]:
    """Return the clients with a lease of NFSv4, and the recorded clients of NFSv3, each once."""
    directory = os.path.join(proc, "fs", "nfsd", "clients")
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        names = []
    # A client that leaves meanwhile has no text any more.
    found = [parse_client(read_text(os.path.join(directory, name, "info"))) for name in names]
    known = [one for one in found if one is not None]
    return list(dict.fromkeys([*known, *parse_rmtab(read_text(rmtab))]))


def parse_client(text: str) -> LiveClient | None:
    """Return the client in a file ``info`` of the kernel; ``None`` without a lease that the client has confirmed and
    renewed in time.
    """
    fields = dict(re.findall(r"^([a-z ]+): (.*)$", text, re.MULTILINE))
    address = re.fullmatch(r'"\[?([0-9A-Fa-f:.%\w]+?)\]?:[0-9]+"', fields.get("address", ""))
    minor = fields.get("minor version", "")
    if address is None or not _is_address(address[1]) or not minor.isdecimal() or fields.get("status") != "confirmed":
        return None
    return LiveClient(address[1], f"4.{minor}")


def parse_rmtab(text: str) -> list[LiveClient]:
    """Return the clients of NFSv3 whose record has an address."""
    found = []
    for line in text.split("\n"):
        match = re.fullmatch(r"(.+?):(/.*):0x[0-9a-f]{8}", line)
        if match is not None and _is_address(match[1]):
            found.append(LiveClient(match[1], "3", match[2]))
    return found


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def read_domains(proc: str = "/proc") -> dict[str, tuple[str, ...]]:
    """Return, by address, the clients in the table of exportfs that include the host, as rpc.mountd told the kernel."""
    text = read_text(os.path.join(proc, "net", "rpc", "auth.unix.ip", "content"))
    lines = [line.split(" ") for line in text.split("\n") if line.startswith("nfsd ")]
    return {fields[1]: tuple(unescape(fields[2]).split(",")) for fields in lines if len(fields) == 3}


def clients_of(
    path: str,
    exported_to: Iterable[str],
    live: Iterable[LiveClient],
    domains: dict[str, tuple[str, ...]],
) -> list[LiveClient]:
    """Return the live clients that an export lets in. By NFSv3, these are the clients that mounted the export or a
    directory below.
    """
    keys = {client_key(client) for client in exported_to}
    found = []
    for one in live:
        is_let_in = any(covers(key, one.address) for key in keys) or any(
            client_key(client) in keys for client in domains.get(one.address, ())
        )
        if is_let_in and (one.path is None or f"{one.path}/".startswith(f"{path}/")):
            found.append(one)
    return found


__all__ = ["RMTAB", "LiveClient", "clients_of", "parse_client", "parse_rmtab", "read_clients", "read_domains"]
