# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run a command as an argument list: no shell, a fixed locale, a deadline."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import CommandFailed

#: Seconds for a killed command to end.
KILL_GRACE = 1


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
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Run ``argv`` and wait at most ``timeout`` seconds, also for a command that hangs in the kernel and can't be killed.

    :arg accept: exit codes that are answers; any other raises. ``None`` takes every code.
    :arg pass_fds: file descriptors that the command gets under the same numbers.
    :raises CommandFailed: the command is missing, ran too long, or its exit code isn't accepted.
    """
    try:
        # AnsibleModule.run_command is out of reach: the driver scripts run this too, without Ansible.
        process = subprocess.Popen(  # pylint: disable=ansible-bad-function
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            env={**os.environ, "LC_ALL": "C", "LANGUAGE": "C"},
        )
        stdout, stderr = _communicate(process, os.fsencode(stdin), timeout)
    except FileNotFoundError as error:
        raise CommandFailed(f"The command {argv[0]!r} is not installed on this host.") from error
    except OSError as error:
        raise CommandFailed(f"The command {argv[0]!r} could not be started: {error.strerror}.") from error
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"The command {argv[0]!r} did not end within {timeout:g} seconds and was stopped.") from error
    completed = Completed(process.returncode, os.fsdecode(stdout), os.fsdecode(stderr))
    if accept is not None and completed.returncode not in accept:
        raise CommandFailed(f"The command {argv[0]!r} failed with exit code {completed.returncode}: {reason(completed)}")
    return completed


def _communicate(process: subprocess.Popen[bytes], stdin: bytes, timeout: float) -> tuple[bytes, bytes]:
    try:
        return process.communicate(stdin, timeout)
    except BaseException:
        process.kill()
        # A process that waits for a dead file server dies when the server comes back; it isn't waited for.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KILL_GRACE)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):  # input that the command never read
                    pipe.close()
        raise


def reason(completed: Completed) -> str:
    """The last line a failed command wrote to stderr (else stdout): tools print their reason last."""
    lines = (completed.stderr.strip() or completed.stdout.strip()).splitlines()
    return lines[-1].strip() if lines else "it gave no reason"


__all__ = ["Completed", "reason", "run"]
