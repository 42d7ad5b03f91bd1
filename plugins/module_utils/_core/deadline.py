# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Questions to a file system whose server may be dead: a child process asks, because a system call that waits for the
server can't be given up.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, TypeVar

from .command import CHUNK, KILL_GRACE
from .errors import CommandFailed, VmstoreError, from_os_error

Answer = TypeVar("Answer")

#: Bytes of the length that each answer in the pipe begins with.
_LENGTH = 8


def within(seconds: float, what: str, function: Callable[[], Answer]) -> Answer:
    """What ``function`` answers in a child process. What it changes in memory is lost, and the parent's open files
    aren't open there.

    :arg what: begins the message when there is no answer: ``Reading the directory /x``.
    :raises CommandFailed: no answer in so many seconds.
    :raises VmstoreError: what ``function`` raised.
    """
    with contextlib.closing(each_within(seconds, what, lambda: [function()])) as answers:
        return next(answers)


def each_within(seconds: float, what: str, function: Callable[[], Iterable[Answer]]) -> Iterator[Answer]:
    """The answers that ``function`` yields in a child process, each of them within so many seconds of the one before;
    else as :func:`within`.
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
            sent = _receive(reading, seconds, what)
            if sent is None:
                return
            kind, *values = sent
            if kind == "defect":
                raise RuntimeError(values[0])
            if kind == "error":
                raise _revived(*values)
            yield values[0]
    finally:
        os.close(reading)
        _stop(child)


def _answer(descriptor: int, function: Callable[[], Iterable[object]]) -> NoReturn:
    """The child's life.

    It is no second run of the parent: whatever comes, it leaves without the parent's handlers and buffers.
    """
    try:
        _let_go(descriptor)
        try:
            for answer in function():
                _send(descriptor, ("answer", answer))
            _send(descriptor, None)
        except VmstoreError as error:
            _send(descriptor, ("error", type(error), error.args, error.__dict__))
        except Exception:  # pylint: disable=broad-except  # a defect is the parent's to report
            _send(descriptor, ("defect", traceback.format_exc()))
    finally:
        os._exit(0)


def _let_go(kept: int) -> None:
    """Keep nothing of the parent's but the pipe: a child that hangs would hold its locks, and whoever reads its output
    would wait for the child.
    """
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in (0, 1, 2, kept):
            with contextlib.suppress(OSError):  # the one by which that directory was read
                os.close(int(name))


def _send(descriptor: int, value: object) -> None:
    data = pickle.dumps(value)
    data = len(data).to_bytes(_LENGTH, "big") + data
    while data:
        data = data[os.write(descriptor, data) :]


def _receive(descriptor: int, seconds: float, what: str) -> Any:
    """One answer. It comes from this program's own child, so it may be unpickled."""
    end = time.monotonic() + seconds
    data = b""
    wanted = _LENGTH
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    while len(data) < wanted:
        if not poller.poll(max(0.0, end - time.monotonic()) * 1000):
            raise CommandFailed(f"{what} did not end within {seconds:g} seconds and was stopped.")
        chunk = os.read(descriptor, min(CHUNK, wanted - len(data)))
        if not chunk:
            raise CommandFailed(f"{what} was stopped by another program.")
        data += chunk
        if len(data) == wanted == _LENGTH:
            wanted += int.from_bytes(data, "big")
    return pickle.loads(data[_LENGTH:])


def _revived(cls: type[VmstoreError], values: tuple[object, ...], attributes: dict[str, object]) -> VmstoreError:
    """An error as it was, whatever arguments its class takes."""
    error = cls.__new__(cls, *values)
    error.__dict__.update(attributes)
    return error


def _stop(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    # One that waits for a dead file server dies when the server comes back; it isn't waited for.
    end = time.monotonic() + KILL_GRACE
    while os.waitpid(child, os.WNOHANG)[0] == 0 and time.monotonic() < end:
        time.sleep(0.001)


__all__ = ["each_within", "within"]
