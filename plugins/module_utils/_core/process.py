# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A child process with a pipe at each of its standard descriptors, started by posix_spawn(3).

``subprocess`` has more features, but loading it takes longer than most commands run (:mod:`.records` has the rule).
"""

from __future__ import annotations

import contextlib
import os
import time

from .records import TYPE_CHECKING
from .signals import SIGKILL, SIGPIPE, SIGXFSZ

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: Signals that Python ignores, but that end a command by default.
_IGNORED = (SIGPIPE, SIGXFSZ)

#: Time between two checks whether a process has ended, in seconds: the first and the longest.
_SHORTEST_WAIT, _LONGEST_WAIT = 0.0005, 0.05


class Process:
    """A running command.

    ``stdin``, ``stdout`` and ``stderr`` are this side's descriptors of the pipes. ``returncode`` is valid once
    :meth:`wait` returned true; it is negative if a signal ended the command.

    :arg argv: looked up in PATH.
    :arg passed: further descriptors that the command inherits, under the same numbers. It inherits no others.
    :raises OSError: the command can't be started.
    """

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], passed: Sequence[int] = ()) -> None:
        self.returncode = 0
        self._is_gone = False
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            stdin, self.stdin = _pipe(theirs, ours)
            self.stdout, stdout = _pipe(ours, theirs)
            self.stderr, stderr = _pipe(ours, theirs)
            # If this process has closed its own standard descriptors, the pipes have such numbers. No pipe is replaced
            # before it has been copied.
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
        """Wait for the end, and return whether the command has ended."""
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
            except ChildProcessError:  # if this process ignores SIGCHLD, the kernel discards exit codes
                pid, status = self._pid, 0
            if pid:
                self._is_gone, self.returncode = True, os.waitstatus_to_exitcode(status)
        return self._is_gone

    def kill(self) -> None:
        """Kill the command, if it still runs (SIGKILL)."""
        if not self._has_ended():
            os.kill(self._pid, SIGKILL)

    def close_input(self) -> None:
        """Close the input of the command."""
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
    """Open a pipe whose ends are closed with the stacks. Return the end to read from and the end to write to."""
    ends = os.pipe()
    for descriptor, stack in zip(ends, (reading, writing)):
        stack.callback(os.close, descriptor)
    return ends


def _pass_on(passed: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield the operations by which the child process gets its descriptors after the standard ones."""
    found = [int(name) for name in os.listdir("/proc/self/fd")]
    for descriptor in found:
        with contextlib.suppress(OSError):  # the descriptor of the listed directory itself
            if descriptor > 2 and descriptor not in passed and os.get_inheritable(descriptor):
                yield os.POSIX_SPAWN_CLOSE, descriptor
    spare = max(found) + 1
    for descriptor in passed:
        # exec doesn't close a copy. Before glibc 2.29, a copy to the same number does nothing.
        yield os.POSIX_SPAWN_DUP2, descriptor, spare
        yield os.POSIX_SPAWN_DUP2, spare, descriptor
        yield os.POSIX_SPAWN_CLOSE, spare


__all__ = ["Process"]
