# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations of transfer drivers on hosts. Both sides use this module."""

from __future__ import annotations

from collections.abc import Mapping

from ..._core.records import dataclass
from ..._image.placeholder import Placeholder
from ..._image.vm_disk import DiskRecord
from ..._remote.wire import Operation
from .live_disks import RunningVm


@dataclass(frozen=True)
class Placement:
    """A new disk.

    :arg path: path of the disk.
    :arg former: name of the disk or the image at the sender.
    :arg size: least size in bytes. 0 keeps the size of the image.
    :arg monitor: the transfer driver, which a file of the system datastore names for probes. ``None`` writes no file.
    :arg may_be_used: whether a running VM may have an old disk of this name open, such as its context.
    """

    path: str
    former: str
    format: str
    size: int = 0
    monitor: str | None = None
    may_be_used: bool = False


#: The operations, which are methods of :class:`.HostActions`.
OPERATIONS = {
    "abandon_migration": Operation(),
    "accept_migration": Operation("tuple[str, ...]"),
    "clone": Operation(),
    "finish_migration": Operation(),
    "give_back": Operation(),
    "grow": Operation(),
    "has_directory": Operation("bool", is_quick=True),
    "has_moved": Operation("bool"),
    "has_token": Operation("bool", is_quick=True),
    "is_at_snapshot": Operation("bool"),
    "link": Operation(),
    "make": Operation(),
    "move_directory": Operation(),
    "place": Operation(),
    "prepare_migration": Operation("bool"),
    "push_directory": Operation(),
    "receive_directory": Operation(),
    "receive_migration": Operation(),
    "remove": Operation(),
    "require_shared": Operation(),
    "save": Operation(),
    "save_here": Operation(),
    "send_directory": Operation(),
    "shrink": Operation(),
    "snap_create": Operation(),
    "snap_create_live": Operation(),
    "snap_delete": Operation(),
    "snap_revert": Operation(),
    "unlink": Operation(),
}

#: The dataclasses of requests, by name.
KINDS: Mapping[str, type] = {
    "DiskRecord": DiskRecord,
    "Placeholder": Placeholder,
    "Placement": Placement,
    "RunningVm": RunningVm,
}

__all__ = ["KINDS", "OPERATIONS", "Placement"]
