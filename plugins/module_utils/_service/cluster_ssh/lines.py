# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lines of a site in authorized_keys and known_hosts (sshd(8)).

Each line of the site ends with a comment that names its host. All other lines stay as they are, to the byte.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

from .desired import ClusterHost

#: Beginning of the comment of the site's lines. The name of the host follows.
MARK = "granary.vmstore.cluster_ssh:"


def authorized_lines(host: ClusterHost, own_keys: Sequence[str]) -> dict[str, str]:
    """Return the lines of authorized_keys by which a host may run commands here, by its public keys.

    ``restrict`` forbids terminals and all kinds of forwarding. A key without a known address has no line.

    :arg own_keys: the public keys of this host. Only these are accepted from the loopback addresses.
    """
    found = {}
    for key in host.keys or ():
        sources = [one for one in host.addresses if key in own_keys or not ipaddress.ip_network(one).is_loopback]
        if sources:
            found[key] = f'from="{",".join(sorted(sources))}",restrict {key} {MARK}{host.name}'
    return found


def known_lines(host: ClusterHost) -> list[str]:
    """Return the lines of known_hosts for a host."""
    return [f"{','.join(host.names)} {key} {MARK}{host.name}" for key in host.host_keys]


def own_lines(text: str) -> list[str]:
    """Return the lines of the site in a file."""
    return [line for line in text.split("\n") if _host_of(line)]


def replace_lines(text: str, desired: Mapping[str, Sequence[str] | None]) -> str:
    """Return the text of a file with the desired lines of each host. Lines of hosts that left the site are removed.

    :arg desired: lines by the name of the host; ``None`` keeps the host's lines.
    """
    wanted = {line for lines in desired.values() for line in lines or ()}
    kept = []
    for line in text.split("\n"):
        host = _host_of(line)
        if not host or line in wanted or (host in desired and desired[host] is None):
            kept.append(line)
            wanted.discard(line)
    missing = [line for lines in desired.values() for line in lines or () if line in wanted]
    if not missing:
        return "\n".join(kept)
    if kept and not kept[-1]:
        kept.pop()  # the end of the last line
    return "\n".join([*kept, *missing, ""])


def _host_of(line: str) -> str:
    """Return the host that a line belongs to, or an empty text for a line of somebody else."""
    words = line.split()
    if len(words) > 2 and not line.startswith("#") and words[-1].startswith(MARK):
        return words[-1][len(MARK) :]
    return ""


__all__ = ["MARK", "authorized_lines", "known_lines", "own_lines", "replace_lines"]
