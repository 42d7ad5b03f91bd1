# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A state that must end whatever happens to this process, such as a frozen guest.

A child process ends the state: at the end of a block, at its deadline, or when this process dies.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator

from .deadline import close_inherited
from .errors import CommandFailed, TimedOut, from_os_error

#: Messages of the child process, one byte each: it is ready; it has ended the state at the end of the block; it ended
#: the state before, at the deadline.
_READY, _ENDED, _LATE = b"r", b"e", b"l"

#: Message to the child process: the block has ended.
_END = b"x"

#: Time between two tries to end the state, in seconds.
RETRY_INTERVAL = 0.5

#: Upper bound of the time in which the child process becomes ready, in seconds.
START_DEADLINE = 30


@contextlib.contextmanager
def guarded(
    doing: str,
    begin: Callable[[], object],
    prepare: Callable[[], Callable[[], object]],
    *,
    deadline: float,
    patience: float,
) -> Iterator[None]:
    """Begin a state, run a block, and end the state.

    :arg doing: the block, as the beginning of a message: ``Copying the disk``.
    :arg begin: begins the state. If it raises an error, nobody waits for the end of the state, which the child process
        tries in the background.
    :arg prepare: runs in the child process before ``begin``, and returns the function that ends the state. This
        function accepts a state that didn't begin. It is called again while it raises an error.
    :arg deadline: time of the block in seconds. Afterwards the state ends, even while the block still runs.
    :arg patience: time for ending the state in seconds.
    :raises TimedOut: the block ran longer than the deadline, so the state ended before the block did.
    :raises CommandFailed: the state can't be guarded, so the block didn't begin; or the state could not be ended.
    """
    child = _Child(prepare, deadline, patience)
    try:
        if child.receive(START_DEADLINE) != _READY:
            raise CommandFailed(f"{doing} was not begun, because the process that would end it could not start.")
        begin()
    except BaseException:
        child.close()
        raise
    try:
        yield
    finally:
        answer = child.end(patience)
        # The child process may have been killed.
        if answer == b"" and not _is_ended(prepare, patience):
            raise CommandFailed(f"{doing} could not be ended within {patience:g} seconds.")
    if answer == _LATE:
        raise TimedOut(f"{doing} did not end within {deadline:g} seconds and was stopped.")


def _is_ended(prepare: Callable[[], Callable[[], object]], patience: float) -> bool:
    """End the state, and return ``False`` if every try within ``patience`` seconds raised an error."""
    latest = time.monotonic() + patience
    while True:
        try:
            prepare()()
            return True
        except Exception:  # a later try may succeed, for example once libvirtd has restarted
            if time.monotonic() >= latest:
                return False
            time.sleep(RETRY_INTERVAL)


class _Child:
    """The child process that ends the state."""

    def __init__(self, prepare: Callable[[], Callable[[], object]], deadline: float, patience: float) -> None:
        answers, answering = os.pipe()
        requests, requesting = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:
            for descriptor in (answers, answering, requests, requesting):
                os.close(descriptor)
            raise from_os_error(error, "start a process") from error
        if pid == 0:
            try:
                _guard(requests, answering, prepare, deadline, patience)
            finally:
                os._exit(0)
        os.close(answering)
        os.close(requests)
        self._pid, self._answers, self._requesting = pid, answers, requesting

    def receive(self, seconds: float) -> bytes:
        """Return the next message; an empty one if the child process has ended or sends nothing in time."""
        return os.read(self._answers, 1) if _is_readable(self._answers, seconds) else b""

    def end(self, patience: float) -> bytes:
        """Let the child process end the state, and return its message."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._requesting, _END)
        answer = self.receive(patience + RETRY_INTERVAL)
        self.close()
        with contextlib.suppress(ChildProcessError):  # this process ignores SIGCHLD
            os.waitpid(self._pid, 0)
        return answer

    def close(self) -> None:
        """Close the pipes. The child process ends the state when its pipe is closed."""
        os.close(self._requesting)
        os.close(self._answers)


def _guard(
    requests: int, answering: int, prepare: Callable[[], Callable[[], object]], deadline: float, patience: float
) -> None:
    """End the state, as the child process.

    The child process has a session of its own and ignores polite signals, because what ends this program's other
    processes must not stop it.
    """
    os.setsid()
    close_inherited(requests, answering)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end = prepare()
    os.write(answering, _READY)
    is_in_time = _is_readable(requests, deadline)
    prepared = iter([end])
    if _is_ended(lambda: next(prepared, None) or prepare(), patience):
        with contextlib.suppress(BrokenPipeError):
            os.write(answering, _ENDED if is_in_time else _LATE)


def _is_readable(descriptor: int, seconds: float) -> bool:
    """Wait until a pipe has a message or has been closed, and return ``False`` if neither happens in time."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


__all__ = ["RETRY_INTERVAL", "guarded"]
