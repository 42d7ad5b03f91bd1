# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The thread that receives libvirt's events."""

from __future__ import annotations

import functools
import threading
from types import ModuleType


@functools.cache
def start_event_loop(libvirt: ModuleType) -> threading.Thread:
    """Start the thread, once in a process, before the first connection is opened."""
    libvirt.virEventRegisterDefaultImpl()
    thread = threading.Thread(target=_receive, args=(libvirt,), name="libvirt events", daemon=True)
    thread.start()
    return thread


def _receive(libvirt: ModuleType) -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


__all__ = ["start_event_loop"]
