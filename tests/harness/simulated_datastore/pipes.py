# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The pipes of a child process that was started with them."""

from __future__ import annotations

import subprocess
from typing import IO


def pipe_to(process: subprocess.Popen[bytes]) -> IO[bytes]:
    """Return what the process reads as its standard input; raises :class:`ValueError` when that isn't a pipe."""
    if process.stdin is None:
        raise ValueError("the process has no pipe as standard input")
    return process.stdin


def pipe_from(process: subprocess.Popen[bytes]) -> IO[bytes]:
    """Return what the process writes as its standard output; raises :class:`ValueError` when that isn't a pipe."""
    if process.stdout is None:
        raise ValueError("the process has no pipe as standard output")
    return process.stdout


__all__ = ["pipe_from", "pipe_to"]
