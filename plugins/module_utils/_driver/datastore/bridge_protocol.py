# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations of a bridge's driver. Both sides use this module, and a bridge runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO

from ..._core.words import Words
from ..._model.datastore import Datastore
from ..._remote.wire import Operation
from .base import Capacity, CopiedImage, CopyOptions, ExportedImage, ImageUse, Settings, VmUsage

#: The operations that a front-end requests.
OPERATIONS = {
    "clone": Operation("CopiedImage", is_confirmed=True),
    "cp": Operation("CopiedImage", is_confirmed=True),
    "damage": Operation("str | None"),
    "export": Operation("ExportedImage"),
    "inventory": Operation("Inventory"),
    "mkfs": Operation("str", is_confirmed=True),
    "monitor": Operation("Capacity", is_quick=True),
    "prepare": Operation(is_quick=True),
    "preview": Operation("CopiedImage"),
    "preview_clone": Operation("CopiedImage"),
    "preview_mkfs": Operation(),
    "preview_resize": Operation(),
    "preview_snapshot": Operation(),
    "resize": Operation(),
    "rm": Operation(),
    "snap_delete": Operation(),
    "snap_flatten": Operation(),
    "snap_revert": Operation(),
    "snap_same": Operation("bool"),
    "snap_size": Operation("int", is_quick=True),
    "snapshots": Operation("tuple[int, ...]", is_quick=True),
    "stat": Operation("int"),
    "stored": Operation("tuple[str, ...]", is_quick=True),
    "sweep": Operation(),
    "uses": Operation("tuple[ImageUse, ...]", is_quick=True),
    "vm_usage": Operation("tuple[VmUsage, ...]", is_quick=True),
}

#: The dataclasses of requests and of most results, by name.
KINDS: Mapping[str, type] = {
    kind.__name__: kind
    for kind in (Capacity, CopiedImage, CopyOptions, Datastore, ExportedImage, ImageUse, Settings, VmUsage, Words)
}


def kinds_in(action: str) -> Mapping[str, type]:
    """Return the dataclasses of the result of an operation, by name."""
    if action != "inventory":
        return KINDS
    from ..._image.inventory import Inventory, StoredFile, StoredImage, StoredSnapshot

    return {kind.__name__: kind for kind in (Inventory, StoredFile, StoredImage, StoredSnapshot)}


def serve(stdin: IO[bytes]) -> None:
    """Run one operation on a bridge."""
    from ..._remote import serve as serving
    from .receiving import begin

    serving.serve(stdin, operations=OPERATIONS, kinds=KINDS, begin=begin)


__all__ = ["KINDS", "OPERATIONS", "kinds_in", "serve"]
