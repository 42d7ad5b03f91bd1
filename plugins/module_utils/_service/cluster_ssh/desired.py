# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options of the module ``cluster_ssh``, checked: the hosts of a site with their public keys."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..._core.arguments import ArgumentSpec
from ..._core.errors import InvalidInput
from ..._core.records import dataclass
from ..._model.names import check_host

CLUSTER_SSH_SPEC = ArgumentSpec(
    {
        "user": {"type": "str", "required": True},
        "peers": {"type": "list", "elements": "str"},
        "next_key": {"type": "bool", "default": False, "no_log": False},
        "use_key": {"type": "str", "no_log": False},
        "hosts": {
            "type": "list",
            "elements": "dict",
            "options": {
                "name": {"type": "str", "required": True},
                "names": {"type": "list", "elements": "str", "default": []},
                "keys": {"type": "list", "elements": "str", "no_log": False},
                "host_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
                "addresses": {"type": "list", "elements": "str", "default": []},
            },
        },
    }
)

#: The public key of a pair that check mode doesn't create. No real key has such characters.
UNKNOWN_KEY = "ssh-ed25519 (not-created-yet)"

#: A line of a public key file: the type, the key in base64, and perhaps a comment (sshd(8)).
_PUBLIC_KEY = re.compile(r"([a-z0-9@.-]+) ([A-Za-z0-9+/]+={0,2})(?:[ \t].*)?")

#: Number of bytes before a text in the format of SSH (RFC 4251, 5).
_LENGTH = 4


@dataclass(frozen=True)
class ClusterHost:
    """A host of the site.

    :arg name: its name in the inventory.
    :arg names: names and addresses by which other hosts reach it, in the format of known_hosts.
    :arg keys: public keys of its user; ``None`` if the lines of the host stay as they are.
    :arg addresses: addresses and networks from which it connects.
    """

    name: str
    names: tuple[str, ...]
    keys: tuple[str, ...] | None
    host_keys: tuple[str, ...]
    addresses: tuple[str, ...]


def parse_hosts(hosts: Sequence[Mapping[str, Any]]) -> tuple[ClusterHost, ...]:
    """Return the hosts in the option ``hosts``.

    :raises InvalidInput: a value could change the meaning of a line, or a name stands twice.
    """
    found = tuple(map(_parse_host, hosts))
    names = [host.name for host in found]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput("hosts.name", name, "each host is expected once")
    return found


def _parse_host(options: Mapping[str, Any]) -> ClusterHost:
    name = check_host("hosts.name", options["name"])
    keys = options["keys"]
    if keys is None:
        return ClusterHost(name, (), None, (), ())
    if not options["names"]:
        raise InvalidInput("hosts.names", None, f"a name by which other hosts reach {name!r} is expected")
    return ClusterHost(
        name,
        tuple(dict.fromkeys(_check_known_name(one) for one in options["names"])),
        tuple(dict.fromkeys(check_key("hosts.keys", key) for key in keys)),
        tuple(dict.fromkeys(check_key("hosts.host_keys", key) for key in options["host_keys"])),
        tuple(dict.fromkeys(_check_address(one) for one in options["addresses"])),
    )


def check_key(option: str, text: str) -> str:
    """Return a public key without its comment. :data:`UNKNOWN_KEY` is accepted.

    :raises InvalidInput: the text is no public key in one line.
    """
    if text == UNKNOWN_KEY:
        return text
    found = _PUBLIC_KEY.fullmatch(text.strip())
    if found is None or not _is_key(found[1], found[2]):
        raise InvalidInput(option, text, "a public key such as 'ssh-ed25519 AAAA...' is expected")
    return f"{found[1]} {found[2]}"


def _is_key(kind: str, encoded: str) -> bool:
    """Return whether a key begins with its own type (RFC 4253, 6.6)."""
    try:
        blob = base64.b64decode(encoded, validate=True)
    except ValueError:
        return False
    return blob.startswith(len(kind).to_bytes(_LENGTH, "big") + kind.encode())


def _check_known_name(name: str) -> str:
    """Return a name for known_hosts: a host, or ``[host]:port``. Such a name is never a pattern."""
    found = re.fullmatch(r"\[(.*)\]:([0-9]{1,5})", name)
    if found is None:
        return check_host("hosts.names", name)
    check_host("hosts.names", found[1])
    # Without a port, ssh(1) looks for the bare name.
    return found[1] if int(found[2]) == 22 else name


def host_of(name: str) -> str:
    """Return the host in a name of known_hosts.

    :raises InvalidInput: as for :func:`parse_hosts`.
    """
    found = re.fullmatch(r"\[(.*)\]:[0-9]{1,5}", name)
    return check_host("peers", found[1] if found else name)


def _check_address(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidInput(
            "hosts.addresses", text, "an IP address or a network such as '192.0.2.0/24' is expected"
        ) from error
    return text


__all__ = ["CLUSTER_SSH_SPEC", "UNKNOWN_KEY", "ClusterHost", "check_key", "host_of", "parse_hosts"]
