# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The public keys of this host, and the addresses from which it connects to other hosts."""

from __future__ import annotations

import contextlib
import fnmatch
import ipaddress
import os
import socket
from collections.abc import Sequence

from ..._core.deadline import run_with_deadline
from ..._core.directory import list_directory, opened_directory, opened_file_at
from ..._core.errors import os_errors
from .desired import check_key
from .key_pair import read_public

#: Upper bound of the time for all names together, in seconds. A name server that doesn't reply takes about ten seconds
#: for each name (resolv.conf(5)).
LOOKUP_TIMEOUT = 120

#: Upper bound of the public key of a host in bytes.
LONGEST_HOST_KEY = 1 << 14

#: A port for the route. No packet is sent to it.
_PORT = 22


def read_host_keys(etc: str) -> list[str]:
    """Return the public keys of this host, without comments. ``etc`` is the directory of the files.

    sshd(8) needs the private key only. If the file of the public key is missing, root reads it from the private key.

    :raises InvalidInput, Conflict, FileAccessFailed: a file has no key, or can't be read.
    """
    found = []
    with contextlib.suppress(FileNotFoundError), opened_directory(etc) as directory:
        names = list_directory(directory)
        for name in sorted(fnmatch.filter(names, "ssh_host_*_key.pub")):
            path = os.path.join(etc, name)
            with os_errors(f"read {path}"), opened_file_at(directory, name) as file:
                found.append(check_key(path, os.fsdecode(os.read(file, LONGEST_HOST_KEY))))
        for name in sorted(fnmatch.filter(names, "ssh_host_*_key")):
            if f"{name}.pub" not in names and os.geteuid() == 0:
                found.append(read_public(directory, name, os.path.join(etc, name)) or "")
    return [key for key in found if key]


def find_sources(names: Sequence[str]) -> list[str]:
    """Return the addresses of this host that the kernel chooses for connections to the hosts ``names``.

    A name that this host can't resolve, or an address without a route, adds nothing.

    :raises TimedOut: the names were not resolved in :data:`LOOKUP_TIMEOUT` seconds.
    """
    if not names:
        return []
    return run_with_deadline(LOOKUP_TIMEOUT, "Looking up the names of the site's hosts", lambda: _find(names))


def _find(names: Sequence[str]) -> list[str]:
    found = set()
    for name in names:
        with contextlib.suppress(OSError, UnicodeError):
            for family, kind, protocol, _name, address in socket.getaddrinfo(name, _PORT, type=socket.SOCK_DGRAM):
                with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
                    probe.connect(address)  # of a datagram socket: the kernel looks for the route only (connect(2))
                    found.add(probe.getsockname()[0])
    # A link-local address is valid with the name of an interface only, which another host doesn't know.
    return sorted(one for one in found if "%" not in one and not ipaddress.ip_address(one).is_link_local)


__all__ = ["find_sources", "read_host_keys"]
