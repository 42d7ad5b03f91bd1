# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A child process with a pipe at each of its standard descriptors, started by posix_spawn(3).

``subprocess`` can do more, and loading it takes longer than most commands run (:mod:`.records` has the rule).
"""

from __future__ import annotations

import contextlib
import os
import time

from .records import TYPE_CHECKING
from .signals import SIGKILL, SIGPIPE, SIGXFSZ

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: Signals that Python ignores, and that a command expects to be ended by.
_IGNORED = (SIGPIPE, SIGXFSZ)

#: Seconds between two looks whether a process has ended: at first, and later on.
_SHORTEST_WAIT, _LONGEST_WAIT = 0.0005, 0.05


class Process:
    """A command that runs.

    ``stdin``, ``stdout`` and ``stderr`` are this side's descriptors of the pipes. ``returncode`` counts once
    :meth:`wait` returned that the end has come; it is negative where a signal ended the command.

    :arg argv: looked up in PATH.
    :arg passed: further descriptors that the command gets, under the same numbers; others, whoever opened them, it
        doesn't get.
    :raises OSError: it can't be started.
    """

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], passed: Sequence[int] = ()) -> None:
        self.returncode = 0
        self._is_gone = False
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            stdin, self.stdin = _pipe(theirs, ours)
            self.stdout, stdout = _pipe(ours, theirs)
            self.stderr, stderr = _pipe(ours, theirs)
            # Where this process has closed its own standard descriptors, the pipes have such numbers. None of theirs is
            # replaced before it has been copied.
            actions: list[tuple[int, ...]] = [
                (os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate((stdin, stdout, stderr))
            ]
            actions += _pass_on(passed)
            # AnsibleModule.run_command is out of reach: the driver scripts run this too, without Ansible.
            self._pid = os.posix_spawnp(  # pylint: disable=ansible-bad-function
                argv[0], list(argv), environment, file_actions=actions, setsigdef=_IGNORED
            )
            ours.pop_all()
        self._open = {self.stdin, self.stdout, self.stderr}

    def wait(self, seconds: float) -> bool:
        """Wait for the end. Return whether it has come."""
        end = time.monotonic() + seconds
        pause = _SHORTEST_WAIT
        while not self._has_ended():
            left = end - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_WAIT)
        return True

    def _has_ended(self) -> bool:
        if not self._is_gone:
            try:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
            except ChildProcessError:  # where this process ignores SIGCHLD, the kernel forgets how children ended
                pid, status = self._pid, 0
            if pid:
                self._is_gone, self.returncode = True, os.waitstatus_to_exitcode(status)
        return self._is_gone

    def kill(self) -> None:
        """End it, if it still runs (SIGKILL)."""
        if not self._has_ended():
            os.kill(self._pid, SIGKILL)

    def close_input(self) -> None:
        """Let the command read the end of its input."""
        self._close(self.stdin)

    def close(self) -> None:
        """Close all pipes that are open."""
        for descriptor in list(self._open):
            self._close(descriptor)

    def _close(self, descriptor: int) -> None:
        if descriptor in self._open:
            self._open.remove(descriptor)
            os.close(descriptor)


def _pipe(reading: contextlib.ExitStack, writing: contextlib.ExitStack) -> tuple[int, int]:
    """Open a pipe whose ends are closed with the stacks, and return the end to read from, and the end to write to."""
    ends = os.pipe()
    for descriptor, stack in zip(ends, (reading, writing)):
        stack.callback(os.close, descriptor)
    return ends


def _pass_on(passed: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield what the child process does with its descriptors behind the standard ones."""
    found = [int(name) for name in os.listdir("/proc/self/fd")]
    for descriptor in found:
        with contextlib.suppress(OSError):  # the one by which that directory was read
            if descriptor > 2 and descriptor not in passed and os.get_inheritable(descriptor):
                yield os.POSIX_SPAWN_CLOSE, descriptor
    spare = max(found) + 1
    for descriptor in passed:
        # A copy isn't closed by exec. Before glibc 2.29, a copy to the same number is none.
        yield os.POSIX_SPAWN_DUP2, descriptor, spare
        yield os.POSIX_SPAWN_DUP2, spare, descriptor
        yield os.POSIX_SPAWN_CLOSE, spare


__all__ = ["Process"]
