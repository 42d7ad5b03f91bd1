# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An operation on another host, over one ssh connection.

The other host needs only python3, because the connection transfers the engine, from memory to memory. After the engine
comes the request, a line of JSON, and after the request the data of the operation. The other host returns lines of
JSON: log lines and one answer. This side keeps its end of the connection open, so the end of input means that this side
is dead.

During an operation, the other host sends heartbeats (:func:`.serve.serve`). So this side finds a process that is
stopped or a host that hangs, and waits for a slow operation.

After an operation that creates data, the other host waits for a confirmation. Without a confirmation it deletes the
data, because nobody else would.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from .._core import records
from .._core.command import Conversation, reason
from .._core.errors import CommandFailed, TimedOut, TransferFailed, printable
from .engine import ENGINE, pack_engine, path_in_engine
from .ssh import CONNECT_TIMEOUT, ssh_command
from .wire import CONFIRMED, Operation, encode, read_answer, unexpected

#: Upper bound of the time to start python3 on a host in seconds. It is also the extra time for the answer of an
#: operation with a deadline of its own.
GRACE = CONNECT_TIMEOUT + 5

#: Upper bound of a line of an answer in bytes. In an inventory, each image takes some hundred bytes.
LONGEST_ANSWER = 64 << 20

#: Upper bound of the output of a login shell before that of python3, in bytes.
LONGEST_BANNER = 64 << 10

#: Upper bound of the time in which a host neither sends nor accepts anything, in seconds. A working host sends
#: heartbeats.
SILENCE = 60.0

#: Upper bound of the time in which a host accepts no data, in seconds. The host's disk may be slow.
STALL = 3600.0

#: Upper bound of the time of an operation that has no deadline of its own, in seconds, once everything was sent: a
#: week, because a URL may be slow.
LONGEST_ACTION = 7 * 86400.0

#: Upper bounds of the log of an operation: a number of lines, further lines for each second, and the bytes of one line.
LOG_LINES = 1000
LOG_RATE = 10
LONGEST_LOG_LINE = 64 << 10

#: The line that python3 prints on the other host when it is ready for the engine.
READY = "granary.vmstore is here"

#: The program of the other host. It is one line without an exclamation mark, because some login shells change others.
#: The engine is a file in memory, because zipimport needs a path. A closed standard error is opened first, because the
#: file would otherwise get its number and receive the messages.
BOOTSTRAP = ";".join(
    (
        "import os,sys,zlib",
        'os.path.exists("/proc/self/fd/2")or os.open(os.devnull,os.O_WRONLY)',
        'sys.version_info<(3,9)and sys.exit("Python 3.9 or newer is expected, and python3 is '
        '%d.%d"%sys.version_info[:2])',
        f'print("{READY}",flush=True)',
        "i=sys.stdin.buffer",
        f'm=os.memfd_create("{ENGINE}")',
        "os.write(m,zlib.decompress(i.read(int(i.readline()))))",
        'sys.path.insert(0,"/proc/self/fd/%d"%m)',
        f"from {ENGINE}.{{module}} import serve",
        "serve(i)",
    )
)

#: Exit codes of a shell: the command can't be run, or is missing.
NO_COMMAND = (126, 127)


def command_for(module: str) -> str:
    """Return the command that starts ``module`` on the other host, for the shell of that host.

    :arg module: the full name of the module. Its function ``serve`` gets standard input.
    """
    program = BOOTSTRAP.replace("{module}", path_in_engine(module))
    return f"exec python3 -ISXutf8 -c {shlex.quote(program)}"


class Session:
    """A connection to ``host``, as a context that closes the connection.

    :arg kind: the role of the host in messages, such as ``bridge``.
    :arg module: see :func:`command_for`.
    :arg log: is called with each log line.
    :arg options: further options of ssh(1).
    """

    def __init__(
        self, host: str, *, kind: str, module: str, log: Callable[[str], object], options: Sequence[str] = ()
    ) -> None:
        self._peer = f"{kind} {host}"
        self._module = module
        self._log = log
        self._ssh = Conversation(ssh_command(host, command_for(module), options=options))
        self._action = ""
        self._logged = 0
        self._began = time.monotonic()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self._ssh.__exit__(*error)

    def handshake(self) -> str | None:
        """Wait until python3 runs on the other host. If python3 does not start, return the reason as a part of a
        sentence.
        """
        end = time.monotonic() + GRACE
        banner = b""
        while f"{READY}\n".encode() not in banner:
            try:
                can_read, _can_write = self._ssh.wait(max(end - time.monotonic(), 0), write=False)
            except CommandFailed as error:
                if time.monotonic() >= end:
                    return f"python3 did not start within {GRACE} seconds"
                return str(error).rstrip(".")
            data = self._ssh.read() if can_read else None
            if data == b"" or len(banner) > LONGEST_BANNER:
                return self._refusal(banner)
            banner += data or b""
        return None

    def _refusal(self, banner: bytes) -> str:
        try:
            ended = self._ssh.finish(1)
        except CommandFailed:
            return "its output isn't that of python3"
        why = reason(records.replace(ended, stdout=banner.decode(errors="replace")))
        if ended.returncode in NO_COMMAND:
            return f"python3, 3.9 or newer, is not installed there ({why})"
        return why.rstrip(".")

    def ask(
        self,
        action: str,
        operation: Operation,
        request: Mapping[str, object],
        *,
        kinds: Mapping[str, type],
        data: Iterable[bytes] = (),
        timeout: float,
    ) -> Any:
        """Return the result of ``action`` on the other host.

        :arg request: further fields of the request, see :data:`.serve.Request`.
        :arg kinds: the dataclasses that the result may contain, by name.
        :arg data: sealed frames for the other host.
        :arg timeout: seconds for a quick operation.
        :raises TransferFailed: the connection broke, or the other host is silent.
        :raises CommandFailed: the other host sends an invalid answer, or none in time.
        :raises VmstoreError: the error of the operation.
        """
        self._action = action
        allowed = timeout + GRACE if operation.is_quick else LONGEST_ACTION
        self._began, self._logged = time.monotonic(), 0
        for line in self._exchange(self._compose(request, data), allowed):
            answer = read_answer(self._peer, action, line, operation.result, kinds)
            if "error" not in answer and "log" not in answer:
                return answer["result"]
            self._log_line(answer, line)
        raise AssertionError("the lines end by an error")

    def _log_line(self, answer: Mapping[str, Any], line: bytes) -> None:
        """Log a log line, or raise the error in the answer.

        :raises CommandFailed: there are too many log lines, or the line is too long.
        :raises VmstoreError: the error of the operation.
        """
        if "error" in answer:
            raise answer["error"]
        self._logged += 1
        if self._logged > LOG_LINES + LOG_RATE * (time.monotonic() - self._began):
            raise self.unexpected(
                f"{self._logged} log lines, and at most {LOG_LINES} and {LOG_RATE} a second are accepted"
            )
        if len(line) > LONGEST_LOG_LINE:
            raise self.unexpected(f"a log line of more than {LONGEST_LOG_LINE} bytes")
        self._log(printable(str(answer["log"])))

    def confirm(self) -> None:
        """Confirm the result, so that the other host keeps the created data.

        :raises TransferFailed: the connection broke.
        """
        self._ssh.write(CONFIRMED)
        ended = self._ssh.finish(GRACE)
        if ended.returncode != 0:
            raise TransferFailed(
                f"The connection to the {self._peer} broke at the end of {self._action}; what it made may be left "
                f"there: {reason(ended)}."
            )

    def _ended(self) -> TransferFailed:
        """Return the error about the end of the connection."""
        why = reason(self._ssh.finish(GRACE))
        return self._lost(f"The connection to the {self._peer} broke during {self._action}: {why}.")

    def _lost(self, why: str) -> TransferFailed:
        """Return the error about a connection that is of no more use."""
        return TransferFailed(why)

    def unexpected(self, why: str) -> CommandFailed:
        """Return the error about an invalid answer."""
        return unexpected(self._peer, self._action, why)

    def _compose(self, request: Mapping[str, object], data: Iterable[bytes]) -> Iterator[bytes]:
        code = pack_engine(self._module)
        yield b"%d\n%b" % (len(code), code)
        yield encode(request)
        yield from data

    def _exchange(self, parts: Iterator[bytes], timeout: float) -> Iterator[bytes]:
        """Send ``parts`` to the other host, and yield the lines that the host sends.

        :arg timeout: seconds for all the lines, after ``parts`` were sent.
        :raises TransferFailed: the connection ended.
        :raises CommandFailed: the time is over, the other host accepts no data for too long, or a line is too long.
        """
        waiting: memoryview | bytes | None = b""
        line = bytearray()
        allowed = min(STALL, timeout)
        end = time.monotonic() + allowed
        while True:
            can_read, can_write = self._wait(end, is_writing=waiting is not None)
            if not can_write and time.monotonic() >= end:
                doing = "sent no answer to" if waiting is None else "accepts no more data for"
                raise CommandFailed(
                    f"The {self._peer} {doing} {self._action} within {allowed:g} seconds and is given up."
                )
            if can_read:
                yield from self._read_lines(line)
            if can_write:
                waiting = waiting or next((memoryview(part) for part in parts), None)
                if waiting is not None:
                    waiting = self._ssh.write(waiting)
                allowed = timeout if waiting is None else min(STALL, timeout)
                end = time.monotonic() + allowed

    def _wait(self, end: float, *, is_writing: bool) -> tuple[bool, bool]:
        """Wait until the other host sends or accepts something, at most until ``end``. See :meth:`.Conversation.wait`.

        :raises TransferFailed: the other host is silent.
        :raises CommandFailed: the other host sends too many messages.
        """
        began = time.monotonic()
        while True:
            silent = max(began, self._ssh.told) + SILENCE
            try:
                return self._ssh.wait(max(0.0, min(end, silent) - time.monotonic()), write=is_writing)
            except TimedOut:
                # After a stop of this process, heartbeats may have waited in the pipe.
                is_silent = time.monotonic() >= max(began, self._ssh.told) + SILENCE
            except CommandFailed as error:
                raise CommandFailed(
                    f"The connection to the {self._peer} is given up during {self._action}: {error}"
                ) from error
            if is_silent:
                raise self._lost(
                    f"The {self._peer} showed no sign of life for {SILENCE:g} seconds during {self._action} and is "
                    "given up."
                )
            if time.monotonic() >= end:
                return False, False

    def _read_lines(self, line: bytearray) -> Iterator[bytes]:
        """Read once, and yield the complete lines.

        :arg line: a buffer with the incomplete line, before and after the call.
        """
        data = self._ssh.read()
        if not data:
            raise self._ended()
        *whole, rest = data.split(b"\n")
        for one in whole:
            line += one
            yield bytes(line)
            line.clear()
        line += rest
        if len(line) > LONGEST_ANSWER:
            raise self.unexpected(f"a line of more than {LONGEST_ANSWER} bytes")


__all__ = ["GRACE", "LONGEST_ACTION", "LONGEST_ANSWER", "STALL", "Session", "command_for"]
