# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One operation on another host, over one ssh connection.

The other host needs python3 and nothing of ours: the engine goes along, from memory to memory. After the engine comes
the request, a line of JSON, and after the request the data of the operation, if there is any. Lines of JSON come back:
log lines and one answer. This side closes its end of the connection only when it is gone.

After an operation that makes something, the other host waits for a confirmation. Without one it deletes the thing,
because nobody would know of it.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .._core import records
from .._core.command import Conversation, reason
from .._core.errors import CommandFailed, TransferFailed, printable
from .engine import ENGINE, pack_engine, path_in_engine
from .ssh import CONNECT_TIMEOUT, ssh_command
from .wire import CONFIRMED, Operation, encode, read_answer, unexpected

#: Seconds for a host to start python3, and for an answer to a question that has a deadline of its own to arrive.
GRACE = CONNECT_TIMEOUT + 5

#: Upper bound of a line of an answer in bytes; an image of a datastore takes some hundred.
LONGEST_ANSWER = 64 << 20

#: Upper bound of the bytes that a login shell may write before python3 does.
LONGEST_BANNER = 64 << 10

#: Seconds in which a host must take a byte of the data that it is sent. Its disk may be slow.
STALL = 3600.0

#: Upper bound of the time of an operation that has no deadline of its own, in seconds, once everything was sent: a
#: week, because a URL may be slow.
LONGEST_ACTION = 7 * 86400.0

#: Upper bound of the log lines of an operation: this number, and some for each second; and of the bytes of one line.
LOG_LINES = 1000
LOG_RATE = 10
LONGEST_LOG_LINE = 64 << 10

#: The line that python3 prints on the other host when it is ready for the engine.
READY = "granary.vmstore is here"

#: The program of the other host. The login shell may be any, so this is one line without an exclamation mark. zipimport
#: wants a path, and a file in memory has one. Where standard error is closed, that file would get its number, and with
#: it the messages.
BOOTSTRAP = ";".join(
    (
        "import os,sys",
        'os.path.exists("/proc/self/fd/2")or os.open(os.devnull,os.O_WRONLY)',
        'sys.version_info<(3,9)and sys.exit("Python 3.9 or newer is expected, and python3 is '
        '%d.%d"%sys.version_info[:2])',
        f'print("{READY}",flush=True)',
        "i=sys.stdin.buffer",
        f'm=os.memfd_create("{ENGINE}")',
        "os.write(m,i.read(int(i.readline())))",
        'sys.path.insert(0,"/proc/self/fd/%d"%m)',
        f"from {ENGINE}.{{module}} import serve",
        "serve(i)",
    )
)

#: Exit codes of a shell: the command can't be run, or is missing.
NO_COMMAND = (126, 127)


def command_for(module: str) -> str:
    """Return the command for the other host's shell.

    :arg module: the full name of the module that the other host runs: its function ``serve`` gets standard input.
    """
    program = BOOTSTRAP.replace("{module}", path_in_engine(module))
    return f"exec python3 -ISXutf8 -c {shlex.quote(program)}"


class Session:
    """A connection to ``host``. The block ends the connection.

    :arg kind: the word for such a host in messages, such as ``bridge``.
    :arg module: as :func:`command_for` takes it.
    :arg log: gets a line a call.
    """

    def __init__(self, host: str, *, kind: str, module: str, log: Callable[[str], object]) -> None:
        self._peer = f"{kind} {host}"
        self._module = module
        self._log = log
        self._ssh = Conversation(ssh_command(host, command_for(module)))
        self._action = ""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self._ssh.__exit__(*error)

    def handshake(self) -> str | None:
        """Wait until python3 runs on the other host. Return the reason if python3 can't run there, as a part of a
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
            return "it answered something else than python3 does"
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

        :arg request: as the other host's ``serve`` takes it.
        :arg kinds: the dataclasses that the result may have, by name.
        :arg data: sealed frames for the other host.
        :arg timeout: seconds for an operation that is quick.
        :raises TransferFailed: the connection broke.
        :raises CommandFailed: the other host sends something else than an answer, or nothing in time.
        :raises VmstoreError: the error of the operation.
        """
        self._action = action
        allowed = timeout + GRACE if operation.is_quick else LONGEST_ACTION
        began, logged = time.monotonic(), 0
        for line in self._lines(self._sent(request, data), allowed):
            answer = read_answer(self._peer, action, line, operation.result, kinds)
            if "error" in answer:
                raise answer["error"]
            if "log" not in answer:
                return answer["result"]
            logged += 1
            if logged > LOG_LINES + LOG_RATE * (time.monotonic() - began):
                raise self.unexpected(
                    f"{logged} log lines, and at most {LOG_LINES} and {LOG_RATE} a second are accepted"
                )
            if len(line) > LONGEST_LOG_LINE:
                raise self.unexpected(f"a log line of more than {LONGEST_LOG_LINE} bytes")
            self._log(printable(str(answer["log"])))
        raise AssertionError("the lines end by an error")

    def confirm(self) -> None:
        """Confirm the result, so that the other host keeps what it made.

        :raises TransferFailed: the connection broke.
        """
        self._ssh.write(CONFIRMED)
        ended = self._ssh.finish(GRACE)
        if ended.returncode != 0:
            raise TransferFailed(
                f"The connection to the {self._peer} broke at the end of {self._action}; what it made may be left "
                f"there: {reason(ended)}."
            )

    def unexpected(self, why: str) -> CommandFailed:
        """Return the error about an answer that isn't acceptable."""
        return unexpected(self._peer, self._action, why)

    def _sent(self, request: Mapping[str, object], data: Iterable[bytes]) -> Iterator[bytes]:
        code = pack_engine(self._module)
        yield b"%d\n%b" % (len(code), code)
        yield encode(request)
        yield from data

    def _lines(self, parts: Iterator[bytes], timeout: float) -> Iterator[bytes]:
        """Yield the lines of the other host while it gets ``parts``.

        :arg timeout: seconds for all the lines, once everything was sent.
        :raises TransferFailed: the connection ended.
        :raises CommandFailed: the time is over, the other host takes nothing for too long, or a line is too long.
        """
        waiting: memoryview | bytes | None = b""
        line = bytearray()
        allowed = min(STALL, timeout)
        end = time.monotonic() + allowed
        while True:
            can_read, can_write = self._wait(end, is_writing=waiting is not None)
            if not can_write and time.monotonic() >= end:
                doing = "did not answer" if waiting is None else "takes nothing more for"
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
        try:
            return self._ssh.wait(max(0.0, end - time.monotonic()), write=is_writing)
        except CommandFailed as error:
            if time.monotonic() < end:
                raise CommandFailed(
                    f"The connection to the {self._peer} is given up during {self._action}: {error}"
                ) from error
            return False, False

    def _read_lines(self, line: bytearray) -> Iterator[bytes]:
        """Yield the lines that are complete now.

        :arg line: the beginning of a line; the beginning of the next line afterwards.
        """
        data = self._ssh.read()
        if not data:
            raise TransferFailed(
                f"The connection to the {self._peer} broke during {self._action}: {reason(self._ssh.finish(GRACE))}."
            )
        *whole, rest = data.split(b"\n")
        for one in whole:
            line += one
            yield bytes(line)
            line.clear()
        line += rest
        if len(line) > LONGEST_ANSWER:
            raise self.unexpected(f"a line of more than {LONGEST_ANSWER} bytes")


__all__ = ["Session", "command_for"]
