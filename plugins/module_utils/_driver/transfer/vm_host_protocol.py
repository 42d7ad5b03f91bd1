# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations on VMs that a host runs itself. Both sides use this module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import IO

from ..._image.vm_disk import DiskRecord
from ..._image.vm_disk_data import DiskFacts
from ..._libvirt.devices.disk import Disk
from ..._remote.serve import Handlers, Request
from ..._remote.wire import Operation
from .vm_host import (
    AttachResult,
    DiskState,
    DomainDisk,
    DomainState,
    HostState,
    VmQuery,
    VmState,
    perform,
)

OPERATIONS = {
    "look": Operation("HostState", is_quick=True),
    "attach": Operation("AttachResult"),
    "detach": Operation("AttachResult"),
    "resize": Operation(),
}

#: The dataclasses of requests and results, by name.
KINDS: Mapping[str, type] = {
    kind.__name__: kind
    for kind in (
        AttachResult,
        Disk,
        DiskFacts,
        DiskRecord,
        DiskState,
        DomainDisk,
        DomainState,
        HostState,
        VmQuery,
        VmState,
    )
}


def serve(stdin: IO[bytes]) -> None:
    """Run one operation on a host."""
    from ..._remote import serve as serving

    serving.serve(stdin, operations=OPERATIONS, kinds=KINDS, begin=_begin)


def _begin(request: Request, _received: object, _log: Callable[[str], object]) -> Handlers:
    import functools

    return {action: functools.partial(perform, action) for action in OPERATIONS}, lambda made: None


__all__ = ["KINDS", "OPERATIONS", "perform", "serve"]
