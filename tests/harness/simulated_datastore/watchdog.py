# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""A process that outlives the daemon, to remove what a daemon that was killed leaves behind.

It reads lines from its standard input: ``mount PATH`` and ``file PATH`` name what will have to go, ``gone PATH`` what has gone. At the end of input it
unmounts and removes the rest. Nothing but the standard library, and no import of the package: it starts in some ten milliseconds.
"""
from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import sys

_MNT_DETACH = 2


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    left: dict[str, str] = {}
    for line in sys.stdin.buffer:
        kind, _, path = os.fsdecode(line.rstrip(b"\n")).partition(" ")
        if kind == "gone":
            left.pop(path, None)
        else:
            left[path] = kind
    libc = ctypes.CDLL(None)
    for path, kind in reversed(left.items()):
        if kind == "mount":
            libc.umount2(os.fsencode(path), _MNT_DETACH)
        else:
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):
                os.unlink(path)


if __name__ == "__main__":
    main()
