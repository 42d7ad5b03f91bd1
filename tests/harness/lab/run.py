# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Run a command: an argument list, a deadline, and one sentence for a failure."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence

from .errors import LabError

#: Name of a variable in the environment of every command of a lab, by which ``down`` finds the commands of a killed
#: lab.
MARK = "GRANARY_LAB"


def run(
    argv: Sequence[str],
    *,
    deadline: float = 60,
    stdin: bytes = b"",
    check: bool = True,
    env: Mapping[str, str] | None = None,
    dies_with_lab: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run *argv* and return its result with text output.

    *deadline* is in seconds. The command gets SIGKILL when the lab's process dies, unless *dies_with_lab* is false
    (prctl(2), PR_SET_PDEATHSIG). *env* is added to the lab's own environment.

    Raises :class:`LabError` for a missing program, a non-zero exit code (with *check*) and a missed deadline.
    """
    command = ["setpriv", "--pdeathsig", "KILL", "--", *argv] if dies_with_lab else list(argv)
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, timeout=deadline, check=False, env={**os.environ, **(env or {})}
        )
    except FileNotFoundError as error:
        raise LabError(f"The program {command[0]!r} is missing: install the packages of apt-packages.txt.") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"'{_shorten(argv)}' did not end within {deadline:g} seconds.") from error
    result = subprocess.CompletedProcess(
        argv, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )
    if check and result.returncode != 0:
        raise LabError(
            f"'{_shorten(argv)}' ended with {result.returncode}: {shorten_output(result.stderr or result.stdout)}"
        )
    return result


def _shorten(argv: Sequence[str], words: int = 5) -> str:
    return shlex.join(argv[:words]) + (" ..." if len(argv) > words else "")


def shorten_output(text: str, lines: int = 3) -> str:
    """Return the last non-empty *lines* of a program's output, on one line."""
    return " | ".join([line.strip() for line in text.splitlines() if line.strip()][-lines:]) or "no output"


__all__ = ["MARK", "shorten_output", "run"]
