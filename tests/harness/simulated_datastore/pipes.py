# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The pipes of a child process."""

from __future__ import annotations

import subprocess
from typing import IO


def pipe_to(process: subprocess.Popen[bytes]) -> IO[bytes]:
    """Return the pipe to the standard input of *process*. Raises :class:`ValueError` if it has no such pipe."""
    if process.stdin is None:
        raise ValueError("the process has no pipe as standard input")
    return process.stdin


def pipe_from(process: subprocess.Popen[bytes]) -> IO[bytes]:
    """Return the pipe from the standard output of *process*. Raises :class:`ValueError` if it has no such pipe."""
    if process.stdout is None:
        raise ValueError("the process has no pipe as standard output")
    return process.stdout


__all__ = ["pipe_from", "pipe_to"]
