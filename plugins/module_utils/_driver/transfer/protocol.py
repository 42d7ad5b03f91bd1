# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The program of a host that runs one operation of a transfer driver."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any

from ..._remote import serve as serving
from ..._remote.tree_peer import open_peer
from . import remote
from .host_actions import HostActions
from .operations import KINDS, OPERATIONS


def serve(stdin: IO[bytes]) -> None:
    """Run one operation."""
    serving.serve(stdin, operations=OPERATIONS, kinds=KINDS, begin=_begin, peer=open_peer)


def _begin(request: serving.Request, peer: Any, log: Callable[[str], object]) -> serving.Handlers:
    actions = HostActions(peer, log, remote.OTHER_HOSTS)
    return {name: getattr(actions, name) for name in OPERATIONS}, bool


__all__ = ["serve"]
