# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way to the operations of another host, from the front-end or from a host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..._remote.transfer import Route, push_tree
from ..._remote.tree import Source
from .operations import KINDS, OPERATIONS

#: The module that a host runs.
PROGRAM = f"{__package__}.protocol"

Log = Callable[[str], object]


def push(host: str, action: str, *arguments: Any, source: Source, log: Log) -> Any:
    """Return the result of an operation of another host that receives files. See :func:`.hosts.push` for the errors."""
    route = Route(host, PROGRAM, log)
    return push_tree(route, action, OPERATIONS[action], request(action, arguments), source, kinds=KINDS)


def request(action: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
    return {"action": action, "arguments": arguments, "named": {}, "size": None}


__all__ = ["PROGRAM", "Log", "push", "request"]
