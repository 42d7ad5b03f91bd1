# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The clients that an export names: a host, a network, a wildcard, a netgroup or everybody (exports(5), Machine Name
Formats).
"""

from __future__ import annotations

import ipaddress
import re
import socket

from ..._core.deadline import run_with_deadline
from ..._core.errors import CommandFailed, InvalidInput
from ..._core.records import TYPE_CHECKING

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

#: The client that stands for every host.
WORLD = "*"

#: Upper bound of the length in bytes of a host name (RFC 1035) and of a wildcard.
LONGEST_NAME = 253

#: Upper bound of the time for the resolution of a host name, in seconds.
RESOLUTION_TIME = 10

_ACCEPTED = (
    "a host name, an IP address, a network such as '192.0.2.0/24', a wildcard such as '*.example.org', a netgroup such "
    "as '@hosts' or '*' is expected"
)
_NAME = r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?"


def check_client(option: str, client: str) -> str:
    """Return a client in the form of the exports file: networks with the length of their prefix.

    :raises InvalidInput: the client has none of the formats, or a network has bits of a host.
    """
    if client == WORLD or re.fullmatch(rf"@{_NAME}", client):
        return client
    network = _network(client)
    if network is not None:
        address = client.partition("/")[0]
        if ipaddress.ip_address(address) != network.network_address:
            raise InvalidInput(option, client, f"the network of that address is '{network}'")
        return str(network) if "/" in client else address
    is_wildcard = re.search(r"[*?\[]", client) is not None
    if is_wildcard and re.fullmatch(r"[0-9.*?\[\]-]*[0-9][0-9.*?\[\]-]*", client):
        raise InvalidInput(
            option, client, "wildcards don't match addresses; a network such as '192.0.2.0/24' is expected"
        )
    is_name = re.fullmatch(r"[A-Za-z0-9_.*?\[\]!^-]+" if is_wildcard else _NAME, client) is not None
    if not is_name or len(client) > LONGEST_NAME or re.fullmatch("[0-9.]+", client) or client.startswith("-"):
        raise InvalidInput(option, client, _ACCEPTED)
    return client


def client_key(client: str) -> str:
    """Return the same text for all notations of a client, also of a client in a file of other people."""
    network = _network(client)
    if network is not None:
        return str(network.network_address) if network.num_addresses == 1 else str(network)
    return client if client.startswith("@") else client.lower() or WORLD


def is_world(client: str) -> bool:
    """Return whether a client stands for every host."""
    network = _network(client)
    return not client.strip("*?.") if network is None else network.prefixlen == 0


def covers(client: str, address: str) -> bool:
    """Return whether a client is the address or a network with the address. Names aren't resolved."""
    network = _network(client)
    other = ipaddress.ip_address(address)
    return client == WORLD if network is None else network.version == other.version and other in network


def canonical_name(client: str) -> str | None:
    """Return the name under which exportfs lists a host; ``None`` for other clients, and without an answer of the
    resolver.
    """
    if re.fullmatch(_NAME, client) is None or _network(client) is not None:
        return None
    try:
        return run_with_deadline(RESOLUTION_TIME, f"The resolution of {client}", lambda: _resolve(client))
    except CommandFailed:
        return None


def _resolve(name: str) -> str | None:
    try:
        return socket.getaddrinfo(name, None, proto=socket.IPPROTO_TCP, flags=socket.AI_CANONNAME)[0][3]
    except OSError:
        return None


def _network(client: str) -> IPv4Network | IPv6Network | None:
    """Return the network of an address or a network; ``None`` for other clients."""
    address, slash, length = client.partition("/")
    try:
        network = ipaddress.ip_network(client, strict=False)
    except ValueError:
        return None
    # The standard library also accepts a wildcard mask such as 0.0.0.255.
    return None if slash and "." in length and length != str(network.netmask) else network


__all__ = ["WORLD", "canonical_name", "check_client", "client_key", "covers", "is_world"]
