# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""A process that takes a lab down at the end of its standard input, also after a kill of the writing process."""

from __future__ import annotations

import signal
import subprocess
import sys

from .running import Lab


def start(name: str, instance: str) -> subprocess.Popen[bytes]:
    """Watch over the lab *name* while the caller lives and keeps the result's stdin open."""
    return subprocess.Popen(
        [sys.executable, "-m", __name__, name, instance],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def main() -> None:
    name, instance = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    Lab(name, say=lambda _line: None).down(instance)


if __name__ == "__main__":
    main()
