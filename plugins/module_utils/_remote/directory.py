# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A directory of another host: its real path and its size. The other host needs only a shell and du(1)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from .._core.command import Conversation, reason
from .._core.errors import CommandFailed, printable
from .._core.paths import absolute
from .._host.directory import PROBE_TIMEOUT, Directory, DuOutput, Measuring
from .ssh import CONNECT_TIMEOUT, SSH_FAILED, TIMED_OUT, script_command

#: Exit code of :data:`LOOK` for a missing directory.
NOT_A_DIRECTORY = 3

#: A script that prints the real path, waits for a line, and prints the output of du(1) with the size in bytes. du
#: measures the directory that the shell has entered, even if the path leads elsewhere meanwhile. Directories that the
#: shell can't enter are printed, too.
LOOK = """\
cd -P -- {path} 2>/dev/null && pwd -P || { [ -d {path} ] && readlink -e -- {path} && closed=1 || exit 3; }
read -r _ || exit 0
[ -z "$closed" ] || { echo "du: cannot read directory '.': Permission denied"; printf '0\\t.\\n'; exit 1; }
exec du -s -B1 . 2>&1
"""
GO_ON = b"\n"

#: Upper bound of a line from another host in bytes: a quoted path and a reason.
LONGEST_LINE = 1 << 16


def look_there(host: str, path: str, check: Callable[[str], object], measuring: Measuring | None) -> Directory | str:
    """Return the directory ``path`` of another host, or the reason why there is none. Measure the directory unless
    ``measuring`` is ``None``.

    :arg check: see :func:`look`, also for ``measuring``.
    :raises CommandFailed: the output of the other host is invalid, or du failed or took too long.
    """
    import shlex

    seconds = PROBE_TIMEOUT if measuring is None else measuring.timeout
    wait = CONNECT_TIMEOUT + seconds + 5
    with Conversation(script_command(host, LOOK.replace("{path}", shlex.quote(path)), timeout=seconds)) as ssh:
        lines = _read_lines(ssh, wait)
        answer = next(lines, None)
        if answer is None:
            ended = ssh.finish(wait)
            if ended.returncode == NOT_A_DIRECTORY:
                return "no such directory"
            if ended.returncode == SSH_FAILED:
                return reason(ended)
            raise CommandFailed(f"The host {host} did not print a path: {reason(ended)}")
        if not answer.startswith("/"):
            raise CommandFailed(f"The host {host} did not print a path: {printable(answer)}")
        real = absolute("path", answer)
        check(real)
        if measuring is None:
            return Directory(real, None, host)
        ssh.write(GO_ON)
        output = DuOutput()
        for line in lines:
            output.take(line)
        ended = ssh.finish(wait)
        if ended.returncode == TIMED_OUT:
            raise CommandFailed(f"The command 'du' on {host} did not end within {seconds:g} seconds and was stopped.")
        return Directory(real, output.size_mb(f"du on {host}", real, ended.returncode, measuring.log), host)


def _read_lines(ssh: Conversation, timeout: float) -> Iterator[str]:
    """Yield the lines that another host prints.

    :raises CommandFailed: no line came in time, or a line is too long.
    """
    rest = b""
    while True:
        can_read, _can_write = ssh.wait(timeout, write=False)
        data = ssh.read() if can_read else b""
        if can_read and not data:
            return
        *whole, rest = (rest + data).split(b"\n")
        yield from map(os.fsdecode, whole)
        if len(rest) > LONGEST_LINE:
            raise CommandFailed("The host did not print lines of text.")


__all__ = ["look_there"]
