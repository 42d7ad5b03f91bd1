# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A session whose operation sends a tree to another host, or gets a tree from it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .._core.errors import CommandFailed
from .session import GRACE, LONGEST_ACTION, LONGEST_ANSWER, STALL, Session
from .tree_exchange import Broken
from .wire import Operation, read_answer


class TreeSession(Session):
    """A session as a :class:`.Peer`."""

    def __init__(
        self, host: str, *, kind: str, module: str, log: Callable[[str], object], options: Sequence[str] = ()
    ) -> None:
        super().__init__(host, kind=kind, module=module, log=log, options=options)
        self._input = bytearray()
        #: Bytes of data that were sent or received.
        self.moved = 0
        self._ssh.enlarge_pipes()

    def __enter__(self) -> TreeSession:
        return self

    @property
    def name(self) -> str:
        return self._peer

    def begin(self, action: str, request: Mapping[str, object]) -> None:
        """Send the request of an operation."""
        self._action = action
        for part in self._compose(request, ()):
            self.write(part)

    def read_result(self, operation: Operation, kinds: Mapping[str, type]) -> Any:
        """Return the result of the operation.

        :raises VmstoreError: the error of the operation.
        """
        answer = read_answer(self._peer, self._action, self._next_line(), operation.result, kinds)
        return answer["result"]

    def read_message(self, seconds: float = LONGEST_ACTION) -> Mapping[str, Any]:
        return self._parse(self._next_line(seconds))

    def read_into(self, buffer: memoryview) -> None:
        kept = min(len(self._input), len(buffer))
        buffer[:kept] = self._input[:kept]
        del self._input[:kept]
        while kept < len(buffer):
            try:
                length = self._ssh.read_into(buffer[kept:])
            except BlockingIOError:  # the data that had arrived was read without a further system call
                self._wait_for(time.monotonic() + STALL, is_writing=False)
                continue
            if not length:
                raise self._ended()
            kept += length
        self.moved += kept

    def write(self, data: bytes | memoryview) -> None:
        rest: bytes | memoryview | None = memoryview(data)
        self.moved += len(data)
        end = time.monotonic() + STALL
        while rest:
            can_read, can_write = self._wait_for(end, is_writing=True)
            if can_read:
                self._read_input()
                self._take_logs()
            if can_write:
                rest = self._ssh.write(rest)
                end = time.monotonic() + STALL
        if rest is None:  # the host has ended, perhaps with an error
            self._next_line(GRACE)
            raise self._ended()

    def _next_line(self, seconds: float = LONGEST_ACTION) -> bytes:
        """Return the next line that is no log line. An error in it is raised."""
        end = time.monotonic() + seconds
        while True:
            self._take_logs()
            length = self._input.find(b"\n") + 1
            if length:
                line = bytes(self._input[:length])
                del self._input[:length]
                return line
            self._wait_for(end, is_writing=False)
            self._read_input()

    def _take_logs(self) -> None:
        """Log the log lines that have arrived, and raise an error that has arrived."""
        while self._input.startswith((b'{"log"', b'{"error"')) and (length := self._input.find(b"\n") + 1):
            line = bytes(self._input[:length])
            del self._input[:length]
            self._log_line(read_answer(self._peer, self._action, line, "None", {}), line)

    def _parse(self, line: bytes) -> Mapping[str, Any]:
        try:
            return dict(json.loads(line))
        except (RecursionError, TypeError, ValueError) as error:
            raise self.unexpected(f"{type(error).__name__}: {error}") from error

    def _read_input(self) -> None:
        data = self._ssh.read()
        if not data:
            raise self._ended()
        self._input += data
        if len(self._input) > LONGEST_ANSWER:
            raise self.unexpected(f"a line of more than {LONGEST_ANSWER} bytes")

    def _wait_for(self, end: float, *, is_writing: bool) -> tuple[bool, bool]:
        """Wait until the host sends something, or takes something.

        :raises CommandFailed: nothing was taken or sent until ``end``.
        """
        can_read, can_write = self._wait(end, is_writing=is_writing)
        if not can_write and time.monotonic() >= end:
            doing = "accepts no more data for" if is_writing else "sends nothing more for"
            raise CommandFailed(f"The {self._peer} {doing} {self._action} and is given up.")
        return can_read, can_write

    def _lost(self, why: str) -> Broken:
        return Broken(why)


__all__ = ["TreeSession"]
