# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run a command as an argument list: no shell, a fixed locale, a deadline."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import CommandFailed


@dataclass(frozen=True)
class Completed:
    """What a command answered. ``stdout`` and ``stderr`` are text; bytes that aren't UTF-8 survive as surrogates."""

    returncode: int
    stdout: str
    stderr: str


def run(
    argv: Sequence[str],
    *,
    stdin: str = "",
    timeout: float = 60,
    accept: Sequence[int] | None = (0,),
) -> Completed:
    """Run ``argv`` and wait at most ``timeout`` seconds.

    :arg accept: exit codes that are answers; any other raises. ``None`` takes every code.
    :raises CommandFailed: the command is missing, ran too long, or its exit code isn't accepted.
    """
    try:
        done = subprocess.run(
            list(argv),
            input=os.fsencode(stdin),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=timeout,
            check=False,
            env={**os.environ, "LC_ALL": "C", "LANGUAGE": "C"},
        )
    except FileNotFoundError as error:
        raise CommandFailed(f"The command {argv[0]!r} is not installed on this host.") from error
    except OSError as error:
        raise CommandFailed(f"The command {argv[0]!r} could not be started: {error.strerror}.") from error
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"The command {argv[0]!r} did not end within {timeout:g} seconds and was stopped.") from error
    completed = Completed(done.returncode, os.fsdecode(done.stdout), os.fsdecode(done.stderr))
    if accept is not None and completed.returncode not in accept:
        raise CommandFailed(f"The command {argv[0]!r} failed with exit code {completed.returncode}: {reason(completed)}")
    return completed


def reason(completed: Completed) -> str:
    """The last line a failed command wrote to stderr (else stdout): tools print their reason last."""
    lines = (completed.stderr.strip() or completed.stdout.strip()).splitlines()
    return lines[-1].strip() if lines else "it gave no reason"


__all__ = ["Completed", "reason", "run"]
