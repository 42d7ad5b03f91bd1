# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Calls that may hang on a file system with a dead server. They run in a child process, because a system call that
waits for the server can't be interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from .command import CHUNK, KILL_GRACE
from .errors import CommandFailed, TimedOut, VmstoreError, from_os_error

Answer = TypeVar("Answer")
Key = TypeVar("Key")

#: Length in bytes of the number before each message in the pipe.
_LENGTH = 8


def run_with_deadline(seconds: float, doing: str, function: Callable[[], Answer]) -> Answer:
    """Run ``function`` in a child process and return its result.

    The parent doesn't see changes in memory, and the child process lacks the parent's open files.

    :arg doing: the beginning of the message without a result: ``Reading the directory /x``.
    :raises TimedOut: there was no result in so many seconds. The child process, and every command that it started, was
        killed.
    :raises CommandFailed: another program stopped the child process.
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
    with contextlib.closing(_Child(doing, function)) as child:
        while child.receive(time.monotonic() + seconds, seconds):
            yield child.item


def run_all_with_deadline(
    seconds: float, doing: str, functions: Mapping[Key, Callable[[], Answer]]
) -> dict[Key, Answer | VmstoreError]:
    """Run each function in a child process of its own, all at once, and return each result or error by its key.

    :arg seconds: the time for all functions together. Any number of functions that hang takes this time once.
    :arg doing: the beginning of a message without a result. ``{}`` in it stands for the key.
    """
    found: dict[Key, Answer | VmstoreError] = {}
    end = time.monotonic() + seconds
    children: dict[Key, _Child] = {}
    try:
        # There is no upper bound of the children, because those that hang would leave no time for the others.
        for key, function in functions.items():
            try:
                children[key] = _Child(doing.format(key), functools.partial(_once, function))
            except VmstoreError as error:
                found[key] = error
        for key, child in children.items():
            try:
                child.receive(end, seconds)
                found[key] = child.item
            except VmstoreError as error:
                found[key] = error
    finally:
        _stop(list(children.values()))
    return {key: found[key] for key in functions}


def _once(function: Callable[[], Answer]) -> list[Answer]:
    return [function()]


class _Child:
    """A child process that sends the items of ``function``. ``item`` is the last one.

    The child process has a process group of its own, so that the commands that it started are killed with it.
    """

    item: Any

    def __init__(self, doing: str, function: Callable[[], Iterable[object]]) -> None:
        self._doing = doing
        self._reading, writing = os.pipe()
        try:
            self._pid = os.fork()
        except OSError as error:
            os.close(self._reading)
            os.close(writing)
            raise from_os_error(error, "start a process") from error
        if self._pid == 0:
            os.setpgid(0, 0)
            _answer(writing, function)
        # Whichever process comes first sets the group.
        with contextlib.suppress(OSError):
            os.setpgid(self._pid, 0)
        os.close(writing)

    def receive(self, end: float, seconds: float) -> bool:
        """Read the next item, and return ``False`` if there is none.

        :arg end: the latest time on the monotonic clock.
        :arg seconds: the time that the caller gave, for the message.
        :raises VmstoreError: see :func:`run_with_deadline`.
        """
        sent = _receive(self._reading, end, seconds, self._doing)
        if sent is None:
            return False
        kind, *values = sent
        if kind == "defect":
            raise RuntimeError(values[0])
        if kind == "error":
            raise _revive(*values)
        self.item = values[0]
        return True

    def close(self) -> None:
        """Kill the process and all that it started."""
        _stop([self])

    def kill(self) -> None:
        """Kill the process and all that it started, and don't wait for their end."""
        os.close(self._reading)
        os.killpg(self._pid, signal.SIGKILL)

    def has_ended(self) -> bool:
        return os.waitpid(self._pid, os.WNOHANG)[0] != 0


def _stop(children: Sequence[_Child]) -> None:
    """Kill child processes.

    A process that waits for a dead file server dies when the server comes back. So there is no wait for its end.
    """
    for child in children:
        child.kill()
    end = time.monotonic() + KILL_GRACE
    for child in children:
        while not child.has_ended() and time.monotonic() < end:
            time.sleep(0.001)


def _answer(descriptor: int, function: Callable[[], Iterable[object]]) -> NoReturn:
    """Run ``function`` in the child process, send its items, and end the process.

    Whatever happens, the child process ends without running the parent's handlers or writing its buffers.
    """
    try:
        close_inherited(descriptor)
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


def close_inherited(*kept: int) -> None:
    """Close all descriptors of a child process except ``kept``, and give it no standard input and output. Signals act
    as by default.

    A child process that hangs would keep the parent's locks, and readers of the parent's output would wait for the
    child.
    """
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in (0, 1, 2, *kept):
            with contextlib.suppress(OSError):  # the descriptor of the listed directory itself
                os.close(int(name))


def _send(descriptor: int, value: object) -> None:
    data = pickle.dumps(value)
    data = len(data).to_bytes(_LENGTH, "big") + data
    while data:
        data = data[os.write(descriptor, data) :]


def _receive(descriptor: int, end: float, seconds: float, doing: str) -> Any:
    """Return one message. It comes from this program's own child process, so unpickling is safe."""
    data = b""
    wanted = _LENGTH
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    while len(data) < wanted:
        if not poller.poll(max(0.0, end - time.monotonic()) * 1000):
            raise TimedOut(f"{doing} did not end within {seconds:g} seconds and was stopped.")
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


__all__ = ["close_inherited", "iterate_with_deadline", "run_all_with_deadline", "run_with_deadline"]
