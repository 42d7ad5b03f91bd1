# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations of transfer drivers on hosts. Both sides use this module, and a host runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

from ..._image.vm_disk import DiskRecord
from ..._remote.wire import Operation
from .host_actions import HostActions, Placement

#: The operations, which are methods of :class:`HostActions`.
OPERATIONS = {
    "clone": Operation(),
    "give_back": Operation(),
    "grow": Operation(),
    "has_directory": Operation("bool", is_quick=True),
    "has_moved": Operation("bool", is_quick=True),
    "link": Operation(),
    "make": Operation(),
    "move_directory": Operation(),
    "place": Operation(),
    "push_directory": Operation(),
    "receive_directory": Operation(),
    "remove": Operation(),
    "save": Operation(),
    "save_here": Operation(),
    "send_directory": Operation(),
    "snap_create": Operation(),
    "snap_delete": Operation(),
    "snap_revert": Operation(),
    "unlink": Operation(),
}

#: The dataclasses of requests, by name.
KINDS: Mapping[str, type] = {"DiskRecord": DiskRecord, "Placement": Placement}


def serve(stdin: IO[bytes]) -> None:
    """Run one operation on a host."""
    from ..._remote import serve as serving
    from ..._remote.tree_peer import TreePeer

    def begin(request: serving.Request, peer: Any, log: Any) -> serving.Handlers:
        actions = HostActions(peer, log)
        return {request["action"]: getattr(actions, request["action"])}, bool

    serving.serve(stdin, operations=OPERATIONS, kinds=KINDS, begin=begin, peer=TreePeer)


__all__ = ["KINDS", "OPERATIONS", "serve"]
