# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations on migrating domains that a host runs itself. Both sides use this module."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import IO

from ..._libvirt.migration import Migration
from ..._remote import serve as serving
from ..._remote.serve import Handlers, Request
from ..._remote.wire import Operation
from .domain_migration import Departure, StoreMark, WrittenDisk, perform

OPERATIONS = {
    "check_arrival": Operation("tuple[str, ...]", is_quick=True),
    "check_departure": Operation("Departure", is_quick=True),
    "define": Operation(is_quick=True),
    "discard_left": Operation(),
    "enable_autostart": Operation(is_quick=True),
    "migrate": Operation(),
    "read_definition": Operation("str", is_quick=True),
    "undefine": Operation(is_quick=True),
}

#: The dataclasses of requests and results, by name.
KINDS: Mapping[str, type] = {kind.__name__: kind for kind in (Departure, Migration, StoreMark, WrittenDisk)}


def serve(stdin: IO[bytes]) -> None:
    """Run one operation on a host."""
    serving.serve(stdin, operations=OPERATIONS, kinds=KINDS, begin=_begin)


def _begin(request: Request, _received: object, log: Callable[[str], object]) -> Handlers:
    return {action: functools.partial(perform, action, log=log) for action in OPERATIONS}, lambda made: None


__all__ = ["KINDS", "OPERATIONS", "perform", "serve"]
