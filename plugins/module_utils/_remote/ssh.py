# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Commands on other hosts over ssh(1), one connection each."""

from __future__ import annotations

from .._model.names import check_host

#: Seconds to reach a host.
CONNECT_TIMEOUT = 10

#: Seconds between two questions whether a silent host is still there; after three without an answer ssh(1) gives up.
ALIVE_INTERVAL = 15

#: What ssh(1) answers when it, and not the command, failed.
SSH_FAILED = 255

#: What timeout(1) answers when it ended the command.
TIMED_OUT = 124


def ssh_command(destination: str, command: str, *, port: int | None = None) -> list[str]:
    """The arguments that run ``command`` at ``destination``, ``[user@]host``; both are checked or quoted by the caller.

    It never asks for anything.
    """
    options = [
        "BatchMode=yes",
        f"ConnectTimeout={CONNECT_TIMEOUT}",
        f"ServerAliveInterval={ALIVE_INTERVAL}",
        "ClearAllForwardings=yes",
        "LogLevel=ERROR",
    ]
    if port is not None:
        options.append(f"Port={port}")
    return ["ssh", "-T", *(word for option in options for word in ("-o", option)), "--", destination, command]


def script_command(host: str, script: str, *, timeout: float) -> list[str]:
    """The arguments that run a POSIX sh script on ``host``, as the user and with the configuration that this user's ssh
    has for it.

    :arg script: fixed text; anything else in it must be quoted with ``shlex.quote``.
    :arg timeout: seconds for the script; the host ends it by itself then, with the exit code ``TIMED_OUT``.
    """
    import math
    import shlex

    # The user's login shell may be any: it only starts sh.
    command = f"exec timeout {math.ceil(timeout)} sh -c {shlex.quote(f'export LC_ALL=C; {script}')}"
    return ssh_command(check_host("bridge_list", host), command)


__all__ = ["CONNECT_TIMEOUT", "SSH_FAILED", "TIMED_OUT", "script_command", "ssh_command"]
