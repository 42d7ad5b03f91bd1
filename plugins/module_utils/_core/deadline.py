# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Calls that may hang on a file system with a dead server. They run in a child process, because a system call that
waits for the server can't be interrupted.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable, Generator, Iterable
from typing import Any, NoReturn, TypeVar

from .command import CHUNK, KILL_GRACE
from .errors import CommandFailed, VmstoreError, from_os_error

Answer = TypeVar("Answer")

#: Length in bytes of the number before each message in the pipe.
_LENGTH = 8


def run_with_deadline(seconds: float, doing: str, function: Callable[[], Answer]) -> Answer:
    """Run ``function`` in a child process and return its result.

    The parent doesn't see changes in memory, and the child process lacks the parent's open files.

    :arg doing: the beginning of the message without a result: ``Reading the directory /x``.
    :raises CommandFailed: there was no result in so many seconds.
    :raises VmstoreError: ``function`` raised it.
    """
    with contextlib.closing(iterate_with_deadline(seconds, doing, lambda: [function()])) as answers:
        return next(answers)


def iterate_with_deadline(
    seconds: float, doing: str, function: Callable[[], Iterable[Answer]]
) -> Generator[Answer, None, None]:
    """Yield the items of ``function``, which runs in a child process.

    Each item must follow the previous one within so many seconds. Errors are those of :func:`run_with_deadline`.
    """
    reading, writing = os.pipe()
    try:
        child = os.fork()
    except OSError as error:
        os.close(reading)
        os.close(writing)
        raise from_os_error(error, "start a process") from error
    if child == 0:
        _answer(writing, function)
    os.close(writing)
    try:
        while True:
            sent = _receive(reading, seconds, doing)
            if sent is None:
                return
            kind, *values = sent
            if kind == "defect":
                raise RuntimeError(values[0])
            if kind == "error":
                raise _revive(*values)
            yield values[0]
    finally:
        os.close(reading)
        _stop(child)


def _answer(descriptor: int, function: Callable[[], Iterable[object]]) -> NoReturn:
    """Run ``function`` in the child process, send its items, and end the process.

    Whatever happens, the child process ends without running the parent's handlers or writing its buffers.
    """
    try:
        _let_go(descriptor)
        try:
            for answer in function():
                _send(descriptor, ("answer", answer))
            _send(descriptor, None)
        except VmstoreError as error:
            _send(descriptor, ("error", type(error), error.args, error.__dict__))
        except Exception:  # the parent reports a defect
            _send(descriptor, ("defect", traceback.format_exc()))
    finally:
        os._exit(0)


def _let_go(kept: int) -> None:
    """Close all descriptors except that of the pipe. A child process that hangs would keep the parent's locks, and
    readers of the parent's output would wait for the child.
    """
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in (0, 1, 2, kept):
            with contextlib.suppress(OSError):  # the descriptor of the listed directory itself
                os.close(int(name))


def _send(descriptor: int, value: object) -> None:
    data = pickle.dumps(value)
    data = len(data).to_bytes(_LENGTH, "big") + data
    while data:
        data = data[os.write(descriptor, data) :]


def _receive(descriptor: int, seconds: float, doing: str) -> Any:
    """Return one message. It comes from this program's own child process, so unpickling is safe."""
    end = time.monotonic() + seconds
    data = b""
    wanted = _LENGTH
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    while len(data) < wanted:
        if not poller.poll(max(0.0, end - time.monotonic()) * 1000):
            raise CommandFailed(f"{doing} did not end within {seconds:g} seconds and was stopped.")
        chunk = os.read(descriptor, min(CHUNK, wanted - len(data)))
        if not chunk:
            raise CommandFailed(f"{doing} was stopped by another program.")
        data += chunk
        if len(data) == wanted == _LENGTH:
            wanted += int.from_bytes(data, "big")
    return pickle.loads(data[_LENGTH:])


def _revive(cls: type[VmstoreError], values: tuple[object, ...], attributes: dict[str, object]) -> VmstoreError:
    """Return an error with all its attributes, independent of the arguments of its class."""
    error = cls.__new__(cls, *values)
    error.__dict__.update(attributes)
    return error


def _stop(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    # A process that waits for a dead file server dies when the server comes back. So there is no wait for its end.
    end = time.monotonic() + KILL_GRACE
    while os.waitpid(child, os.WNOHANG)[0] == 0 and time.monotonic() < end:
        time.sleep(0.001)


__all__ = ["iterate_with_deadline", "run_with_deadline"]
