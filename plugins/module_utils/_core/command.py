# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Commands run as an argument list, with a fixed locale and a deadline, and without a shell.

:func:`run` waits for the result, :func:`stream` yields the output while the command runs.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from types import MappingProxyType

from .errors import CommandFailed, TimedOut, VmstoreError, missing_command, printable
from .process import Process
from .records import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from .confinement import Confinement

#: Upper bound of the time that a killed command takes to end, in seconds.
KILL_GRACE = 1

#: Time between two calls of ``watch``, in seconds.
WATCH_INTERVAL = 0.25

#: Upper bound of the bytes that :func:`stream` reads at once.
CHUNK = 1 << 18

#: fcntl(2); Python 3.9 has no name for it. The size of a pipe in bytes is the default of /proc/sys/fs/pipe-max-size.
F_SETPIPE_SZ, PIPE_SIZE = 1031, 1 << 20

#: Upper bound of the bytes kept from stderr of a streaming command: the last ones.
LONGEST_STDERR = 4096

#: Upper bound of what a streaming command may write to stderr in all, in bytes.
MOST_STDERR = 16 << 20

#: Upper bound of what :func:`run` keeps of stdout and stderr, in bytes.
MOST_OUTPUT = 256 << 20


@dataclass(frozen=True)
class Completed:
    """The result of a command. ``stdout`` and ``stderr`` are text, in which bytes that aren't UTF-8 are surrogates."""

    returncode: int
    stdout: str
    stderr: str


def run(
    argv: Sequence[str],
    *,
    stdin: str = "",
    timeout: float = 60,
    accept: Sequence[int] | None = (0,),
    files: Mapping[int, str] = MappingProxyType({}),
    limits: Sequence[str] = (),
    confinement: Confinement | None = None,
    watch: Callable[[], object] | None = None,
) -> Completed:
    """Run ``argv`` and wait at most ``timeout`` seconds, even for a command that hangs in the kernel and can't be
    killed.

    :arg accept: exit codes that raise no error. ``None`` accepts every code.
    :arg files: paths by the descriptors that the command inherits under the same numbers. The arguments of the command
        contain ``/proc/self/fd/N``, and messages contain the path instead.
    :arg limits: options of prlimit(1), such as ``--cpu=10``; a command that exceeds them is killed, which gives a
        negative exit code.
    :arg confinement: the only files that the command can open, if this process is root's.
    :arg watch: is called several times a second while the command runs. An error that it raises stops the command, and
        is raised.
    :raises CommandFailed: the command is missing, ran too long, wrote more than :data:`MOST_OUTPUT`, or its exit code
        isn't accepted.
    :raises UnsupportedAction: the kernel can't confine the command.
    """
    command = _limit(argv, limits)
    if confinement is None:
        process = _start(command, tuple(files))
    else:
        from .confinement import run_confined  # few commands need it

        process = run_confined(lambda: _start(command, tuple(files)), confinement)
    try:
        stdout, stderr = _communicate(process, os.fsencode(stdin), timeout, watch)
    except _TooLong as error:
        raise TimedOut(f"The command {argv[0]!r} did not end within {timeout:g} seconds and was stopped.") from error
    except _TooMuch as error:
        raise CommandFailed(f"The command {argv[0]!r} wrote more than {MOST_OUTPUT} bytes and was stopped.") from error
    finally:
        _stop(process)
    completed = Completed(process.returncode, os.fsdecode(stdout), _with_paths(os.fsdecode(stderr), files))
    if accept is not None and completed.returncode not in accept:
        raise CommandFailed(
            f"The command {argv[0]!r} failed with exit code {completed.returncode}: {reason(completed)}"
        )
    return completed


class _TooLong(Exception):
    """The command ran longer than its deadline."""


class _TooMuch(Exception):
    """The output of a command exceeds :data:`MOST_OUTPUT`."""


def _communicate(
    process: Process, stdin: bytes, timeout: float, watch: Callable[[], object] | None
) -> tuple[bytes, bytes]:
    """Return stdout and stderr of a command that reads ``stdin``, once the command has ended.

    :raises _TooLong: the command runs for more than ``timeout`` seconds.
    :raises _TooMuch: the command writes more than :data:`MOST_OUTPUT` bytes.
    """
    end = time.monotonic() + timeout
    exchange = _Exchange(process, stdin)
    watched = time.monotonic()
    while exchange.is_open:
        left = max(0.0, end - time.monotonic())
        ready = exchange.wait(left if watch is None else min(left, WATCH_INTERVAL))
        if not ready and time.monotonic() >= end:
            raise _TooLong
        if watch is not None and time.monotonic() - watched >= WATCH_INTERVAL:
            watch()
            watched = time.monotonic()
        for descriptor in ready:
            exchange.move(descriptor)
    if not process.wait(max(0.0, end - time.monotonic())):
        raise _TooLong
    return exchange.stdout, exchange.stderr


class _Exchange:
    """The input and the output of a command, until all pipes of the command are closed."""

    def __init__(self, process: Process, stdin: bytes) -> None:
        self._process = process
        self._rest = stdin
        self._outputs = {process.stdout: bytearray(), process.stderr: bytearray()}
        self._poller = select.poll()
        self._open = {process.stdin, *self._outputs}
        for descriptor in self._open:
            os.set_blocking(descriptor, False)
            self._poller.register(descriptor, select.POLLIN if descriptor in self._outputs else select.POLLOUT)

    @property
    def is_open(self) -> bool:
        return bool(self._open)

    @property
    def stdout(self) -> bytes:
        return bytes(self._outputs[self._process.stdout])

    @property
    def stderr(self) -> bytes:
        return bytes(self._outputs[self._process.stderr])

    def wait(self, seconds: float) -> list[int]:
        """Return the descriptors that are ready, as soon as one is."""
        return [descriptor for descriptor, _events in self._poller.poll(seconds * 1000)]

    def move(self, descriptor: int) -> None:
        """Read or write at a descriptor that :meth:`wait` returned.

        :raises _TooMuch: the command has written more than :data:`MOST_OUTPUT` bytes.
        """
        if not (self._take(descriptor) if descriptor in self._outputs else self._give()):
            self._poller.unregister(descriptor)
            self._open.remove(descriptor)

    def _give(self) -> bool:
        """Write a part of the input, and return whether more input is left."""
        with contextlib.suppress(BrokenPipeError):
            self._rest = self._rest[os.write(self._process.stdin, self._rest) :] if self._rest else b""
            if self._rest:
                return True
        self._process.close_input()
        return False

    def _take(self, descriptor: int) -> bool:
        """Read a part of the output, and return whether the pipe had any."""
        data = os.read(descriptor, CHUNK)
        self._outputs[descriptor] += data
        if sum(map(len, self._outputs.values())) > MOST_OUTPUT:
            raise _TooMuch
        return bool(data)


def stream(
    argv: Sequence[str],
    chunks: Iterable[bytes] = (),
    *,
    failed: Callable[[str], VmstoreError],
    timeout: float = 60,
    limits: Sequence[str] = (),
) -> Generator[bytes, None, None]:
    """Yield the stdout of ``argv`` while the command reads ``chunks`` from stdin, at the pace of the consumer. Closing
    the iterator stops the command.

    :arg failed: returns the error for an exit code other than 0, from the last line on stderr.
    :arg timeout: seconds in which the command must read or write a byte, or end.
    :arg limits: options of prlimit(1), as for :func:`run`.
    :raises TimedOut: the command did nothing for too long.
    :raises CommandFailed: the command is missing, or wrote too much to stderr.
    """
    with Conversation(argv, limits) as command:
        waiting: bytes | memoryview | None = b""
        source = iter(chunks)
        while True:
            can_read, can_write = command.wait(timeout, write=waiting is not None)
            if can_read:
                data = command.read()
                if not data:
                    break
                yield data
            if can_write:
                waiting = waiting or next(source, None)
                if waiting is not None:
                    waiting = command.write(waiting)
                if waiting is None:
                    command.close_input()
        completed = command.finish(timeout)
    if completed.returncode != 0:
        import signal

        raise failed(
            f"stopped by {signal.Signals(-completed.returncode).name}"
            if completed.returncode < 0
            else reason(completed)
        )


class Conversation:
    """A command that reads and writes while this process uses it. The end of the block stops the command.

    :arg limits: options of prlimit(1), as for :func:`run`.
    :ivar told: time of the last output on stderr on the monotonic clock. The start of the command counts, too.
    :raises CommandMissing: the command is missing.
    """

    def __init__(self, argv: Sequence[str], limits: Sequence[str] = ()) -> None:
        self._name = argv[0]
        self._process = _start(_limit(argv, limits))
        self._in, self._out, self._err = self._process.stdin, self._process.stdout, self._process.stderr
        self._stderr, self._stderr_length = b"", 0
        self.told = time.monotonic()
        self._open = {self._out: select.POLLIN, self._err: select.POLLIN}
        for descriptor in (self._in, *self._open):
            os.set_blocking(descriptor, False)

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_error: object) -> None:
        _stop(self._process)

    def wait(self, timeout: float | None, *, write: bool) -> tuple[bool, bool]:
        """Return two flags: whether output or its end can be read, and whether the command takes input. The second one
        is for ``write`` only.

        :arg timeout: seconds in which the command must read or write a byte; ``None`` waits for ever. Output on stderr
            doesn't count.
        :raises TimedOut: the command did neither.
        :raises CommandFailed: the command wrote too much to stderr.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            poller = select.poll()
            for descriptor, event in [*self._open.items(), *([(self._in, select.POLLOUT)] if write else [])]:
                poller.register(descriptor, event)
            ready = [
                descriptor
                for descriptor, _events in poller.poll(None if end is None else max(0.0, end - time.monotonic()) * 1000)
            ]
            if self._err in ready:
                self._read_stderr()
            if self._out in ready or self._in in ready:
                return self._out in ready, self._in in ready
            if timeout is not None and end is not None and time.monotonic() >= end:
                raise self._too_slow(timeout)

    def read(self) -> bytes:
        """Return at most :data:`CHUNK` bytes, none at the end of the output."""
        return os.read(self._out, CHUNK)

    def read_into(self, buffer: memoryview) -> int:
        """Read output into a buffer, and return the number of bytes; 0 at the end of the output."""
        return os.readv(self._out, [buffer])

    def enlarge_pipes(self) -> None:
        """Let the pipes take as much as an unprivileged user may (pipe(7)), so that data takes fewer system calls."""
        import fcntl

        for descriptor in (self._in, self._out):
            with contextlib.suppress(OSError):  # the user has too many pipes
                fcntl.fcntl(descriptor, F_SETPIPE_SZ, PIPE_SIZE)

    def write(self, data: bytes | memoryview) -> bytes | memoryview | None:
        """Write ``data`` and return the rest; ``None`` if the command has closed its input. Its exit code explains
        the reason.
        """
        try:
            return data[os.write(self._in, data) :]
        except BrokenPipeError:
            return None

    def close_input(self) -> None:
        self._process.close_input()

    def finish(self, timeout: float) -> Completed:
        """Wait for the end of a command that has closed its output. Return its result with the end of its stderr.

        :raises TimedOut: the command runs for more than ``timeout`` seconds.
        """
        # Until then, zstd(1) waits for the end of its input. stderr may stay open for longer, in a process that the
        # command started.
        self.close_input()
        if not self._process.wait(timeout):
            raise self._too_slow(timeout)
        with contextlib.suppress(BlockingIOError):
            self._read_stderr()
        return Completed(self._process.returncode, "", os.fsdecode(self._stderr))

    def _read_stderr(self) -> None:
        said = os.read(self._err, CHUNK)
        self.told = time.monotonic()
        self._stderr = (self._stderr + said)[-LONGEST_STDERR:]
        self._stderr_length += len(said)
        if self._stderr_length > MOST_STDERR:
            raise CommandFailed(
                f"The command {self._name!r} wrote more than {MOST_STDERR} bytes of messages and was stopped."
            )
        if not said:
            self._open.pop(self._err, None)

    def _too_slow(self, timeout: float) -> TimedOut:
        return TimedOut(f"The command {self._name!r} did nothing for {timeout:g} seconds and was stopped.")


def _limit(argv: Sequence[str], limits: Sequence[str]) -> Sequence[str]:
    return ["prlimit", *limits, *argv] if limits else argv


def _start(argv: Sequence[str], passed: Sequence[int] = ()) -> Process:
    try:
        return Process(argv, {**os.environ, "LC_ALL": "C", "LANGUAGE": "C"}, passed)
    except FileNotFoundError as error:
        raise missing_command(argv[0]) from error
    except OSError as error:
        raise CommandFailed(f"The command {argv[0]!r} could not be started: {error.strerror}.") from error


def _stop(process: Process) -> None:
    process.kill()
    # A process that waits for a dead file server dies when the server comes back. So there is no wait for its end.
    process.wait(KILL_GRACE)
    process.close()


def _with_paths(text: str, files: Mapping[int, str]) -> str:
    if "/proc/self/fd/" not in text:
        return text
    import re

    return re.sub(r"/proc/self/fd/([0-9]+)", lambda found: files.get(int(found[1]), found[0]), text)


def reason(completed: Completed) -> str:
    """Return the last line that a failed command wrote to stderr (else stdout).

    Tools print the reason last, apart from an explanation of their usage.
    """
    lines = (completed.stderr.strip() or completed.stdout.strip()).splitlines()
    usage = next((number for number, line in enumerate(lines) if line.lower().startswith("usage:")), 0)
    return printable(lines[usage - 1].strip()) if lines else "it gave no reason"


__all__ = ["CHUNK", "Completed", "Conversation", "reason", "run", "stream"]
