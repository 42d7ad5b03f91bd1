# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way to the operations of another host, from the front-end or from a host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..._core.errors import HostUnreachable
from ..._core.records import dataclass
from ..._remote.session import Session
from ..._remote.transfer import Route, push_tree
from ..._remote.tree import Source
from .operations import KINDS, OPERATIONS

#: The module that a host runs.
PROGRAM = f"{__package__}.protocol"

#: Upper bound of the time of a quick operation in seconds.
QUICK = 60.0

Log = Callable[[str], object]


@dataclass(frozen=True)
class Hosts:
    """The way from this host to operations of hosts.

    :arg run: returns the result of an operation that transfers no files, see :func:`.hosts.run`.
    :arg push: returns the result of an operation that receives files, see :func:`.hosts.push`.
    """

    run: Callable[..., Any]
    push: Callable[..., Any]


def run(host: str, action: str, *arguments: Any, log: Log) -> Any:
    """Return the result of an operation of another host that transfers no files. See :func:`.hosts.run` for errors."""
    with Session(host, kind="host", module=PROGRAM, log=log) as session:
        refusal = session.handshake()
        if refusal is not None:
            raise HostUnreachable(f"{action} needs the host {host}, which can't be used: {refusal}.")
        return session.ask(action, OPERATIONS[action], request(action, arguments), kinds=KINDS, timeout=QUICK)


def push(host: str, action: str, *arguments: Any, source: Source, log: Log) -> Any:
    """Return the result of an operation of another host that receives files. See :func:`.hosts.push` for the errors."""
    route = Route(host, PROGRAM, log)
    return push_tree(route, action, OPERATIONS[action], request(action, arguments), source, kinds=KINDS)


def request(action: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
    return {"action": action, "arguments": arguments, "named": {}, "size": None}


#: The way of a host, which is none of the hosts that an operation names.
OTHER_HOSTS = Hosts(run, push)

__all__ = ["OTHER_HOSTS", "PROGRAM", "Hosts", "Log", "push", "request", "run"]
