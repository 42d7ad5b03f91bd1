# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Commands on other hosts over ssh(1), one connection each."""

from __future__ import annotations

from collections.abc import Sequence

from .._model.names import check_host

#: Upper bound of the time to connect to a host in seconds.
CONNECT_TIMEOUT = 10

#: Interval between two probes of a silent host in seconds. After three probes without a reply, ssh(1) fails.
ALIVE_INTERVAL = 15

#: Bytes of /proc/cpuinfo that contain the features of the first processor.
CPU_INFO = 8192

#: Exit code of ssh(1) if ssh(1) itself failed.
SSH_FAILED = 255

#: Exit code of timeout(1) if timeout(1) ended the command.
TIMED_OUT = 124


def ssh_command(destination: str, command: str, *, port: int | None = None, options: Sequence[str] = ()) -> list[str]:
    """Return the arguments that run ``command`` at ``destination``, ``[user@]host``. The caller checks or quotes both.
    ssh never prompts.

    :arg options: further options of ssh(1), such as ``-c`` with a cipher.
    """
    fixed = [
        "BatchMode=yes",
        f"ConnectTimeout={CONNECT_TIMEOUT}",
        f"ServerAliveInterval={ALIVE_INTERVAL}",
        "ClearAllForwardings=yes",
        "LogLevel=ERROR",
    ]
    if port is not None:
        fixed.append(f"Port={port}")
    return ["ssh", "-T", *(word for one in fixed for word in ("-o", one)), *options, "--", destination, command]


def fast_cipher(host: str) -> tuple[str, ...]:
    """Return options of ssh(1) for bulk data: of the ciphers that the configuration allows for ``host``, AES-GCM comes
    first. With AES instructions it takes half the time of the default, ChaCha20.
    """
    from .._core.command import run

    with open("/proc/cpuinfo", encoding="utf-8") as file:
        if " aes " not in file.read(CPU_INFO):
            return ()
    found = run(["ssh", "-G", "--", host], accept=None, timeout=CONNECT_TIMEOUT)
    allowed = next((line.split(" ", 1)[1] for line in found.stdout.splitlines() if line.startswith("ciphers ")), "")
    ciphers = sorted(allowed.split(","), key=lambda cipher: "-gcm@" not in cipher)
    return ("-c", ",".join(ciphers)) if allowed else ()


def script_command(host: str, script: str, *, timeout: float) -> list[str]:
    """Return the arguments that run a POSIX sh script on ``host``. The user's ssh configuration for the host applies.

    :arg script: a fixed text, in which variable parts are quoted with ``shlex.quote``.
    :arg timeout: seconds for the script. After that, the host ends the script with the exit code ``TIMED_OUT``.
    """
    import math
    import shlex

    # The user's login shell can be any shell, so it only starts sh.
    command = f"exec timeout {math.ceil(timeout)} sh -c {shlex.quote(f'export LC_ALL=C; {script}')}"
    return ssh_command(check_host("bridge_list", host), command)


__all__ = ["CONNECT_TIMEOUT", "SSH_FAILED", "TIMED_OUT", "fast_cipher", "script_command", "ssh_command"]
