# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The processes of a killed lab."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from .run import MARK


def end_processes(name: str) -> None:
    """End the processes of a killed lab of this name. A running podman may finish, all others are killed."""
    patience = time.monotonic() + 20
    while processes := _find_processes(name):
        for process, program in processes.items():
            if program != "podman" or time.monotonic() > patience:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


def _find_processes(name: str) -> dict[int, str]:
    """Return id and name of each process with the lab's mark in its environment, without the monitors of containers."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            program = (directory / "comm").read_text(encoding="utf-8", errors="replace").strip()
            mark = f"{MARK}={name}".encode()
            if (
                program != "conmon"
                and mark in (directory / "environ").read_bytes().split(b"\0")
                and int(directory.name) != os.getpid()
            ):
                found[int(directory.name)] = program
    return found


__all__ = ["end_processes"]
