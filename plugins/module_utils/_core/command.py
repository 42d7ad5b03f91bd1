# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run a command as an argument list: no shell, a fixed locale, a deadline. :func:`run` waits for the answer, :func:`stream` passes bytes on as they come."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from .errors import CommandFailed, VmstoreError, printable

#: Seconds for a killed command to end.
KILL_GRACE = 1

#: Bytes that :func:`stream` reads at once.
CHUNK = 1 << 18

#: Bytes of what a streaming command wrote to stderr that are kept: the last ones.
LONGEST_STDERR = 4096


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
    limits: Sequence[str] = (),
) -> Completed:
    """Run ``argv`` and wait at most ``timeout`` seconds, also for a command that hangs in the kernel and can't be killed.

    :arg accept: exit codes that are answers; any other raises. ``None`` takes every code.
    :arg pass_fds: file descriptors that the command gets under the same numbers.
    :arg limits: options of prlimit(1), such as ``--cpu=10``; a command that exceeds them is killed, which gives a negative exit code.
    :raises CommandFailed: the command is missing, ran too long, or its exit code isn't accepted.
    """
    process = _start(["prlimit", *limits, *argv] if limits else argv, pass_fds)
    try:
        stdout, stderr = process.communicate(os.fsencode(stdin), timeout)
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"The command {argv[0]!r} did not end within {timeout:g} seconds and was stopped.") from error
    finally:
        _stop(process)
    completed = Completed(process.returncode, os.fsdecode(stdout), os.fsdecode(stderr))
    if accept is not None and completed.returncode not in accept:
        raise CommandFailed(f"The command {argv[0]!r} failed with exit code {completed.returncode}: {reason(completed)}")
    return completed


def stream(argv: Sequence[str], chunks: Iterable[bytes] = (), *, failed: Callable[[str], VmstoreError], timeout: float = 60) -> Iterator[bytes]:
    """Yield what ``argv`` writes to stdout while it gets ``chunks`` on stdin, at the pace of whoever takes it; closing the iterator stops the command.

    :arg failed: the error to raise for an exit code other than 0, made from the last line on stderr.
    :arg timeout: seconds in which the command must take or give a byte, or end.
    :raises CommandFailed: the command is missing, or did nothing for too long.
    """
    process = _start(argv)
    try:
        stderr = yield from _pass_on(process, iter(chunks), timeout)
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"The command {argv[0]!r} did nothing for {timeout:g} seconds and was stopped.") from error
    finally:
        _stop(process)
    if process.returncode != 0:
        raise failed(reason(Completed(process.returncode, "", os.fsdecode(stderr))))


def _pass_on(process: subprocess.Popen[bytes], chunks: Iterator[bytes], timeout: float) -> Generator[bytes, None, bytes]:
    """Returns the last bytes on stderr."""
    into, out, err = (pipe.fileno() for pipe in (process.stdin, process.stdout, process.stderr))
    poller = select.poll()
    for descriptor, event in ((into, select.POLLOUT), (out, select.POLLIN), (err, select.POLLIN)):
        os.set_blocking(descriptor, False)
        poller.register(descriptor, event)
    waiting: bytes | None = b""
    stderr = b""
    while True:
        ready = [descriptor for descriptor, _events in poller.poll(timeout * 1000)]
        if not ready:
            raise subprocess.TimeoutExpired(process.args, timeout)
        if err in ready:
            said = os.read(err, CHUNK)
            stderr = (stderr + said)[-LONGEST_STDERR:]
            if not said:
                poller.unregister(err)
        if out in ready:
            data = os.read(out, CHUNK)
            if not data:
                # Until then, zstd(1) waits for the end of its input. stderr may stay open for longer, in a process that the command left behind.
                process.stdin.close()
                process.wait(timeout)
                with contextlib.suppress(BlockingIOError):
                    stderr += os.read(err, CHUNK)
                return stderr
            yield data
        if into in ready:
            waiting = waiting or next(chunks, None)
            if waiting is not None:
                waiting = _write(into, waiting)
            if waiting is None:
                poller.unregister(into)
                process.stdin.close()


def _write(descriptor: int, data: bytes) -> bytes | None:
    """What is left of ``data``; ``None`` when nobody reads any more, which the exit code explains."""
    try:
        return data[os.write(descriptor, data) :]
    except BrokenPipeError:
        return None


def _start(argv: Sequence[str], pass_fds: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    try:
        # AnsibleModule.run_command is out of reach: the driver scripts run this too, without Ansible.
        return subprocess.Popen(  # pylint: disable=ansible-bad-function
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            env={**os.environ, "LC_ALL": "C", "LANGUAGE": "C"},
        )
    except FileNotFoundError as error:
        raise CommandFailed(f"The command {argv[0]!r} is not installed on this host.") from error
    except OSError as error:
        raise CommandFailed(f"The command {argv[0]!r} could not be started: {error.strerror}.") from error


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    # A process that waits for a dead file server dies when the server comes back; it isn't waited for.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(KILL_GRACE)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):  # input that the command never read
                pipe.close()


def reason(completed: Completed) -> str:
    """The last line a failed command wrote to stderr (else stdout): tools print their reason last."""
    lines = (completed.stderr.strip() or completed.stdout.strip()).splitlines()
    return printable(lines[-1].strip()) if lines else "it gave no reason"


__all__ = ["CHUNK", "Completed", "reason", "run", "stream"]
