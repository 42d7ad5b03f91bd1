# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""A process that outlives the daemon, and removes the files and mounts of a killed daemon.

Its arguments are the daemon's process id and runtime directory. Its standard input has lines of JSON: ``["mount",
PATH]`` adds a mount, ``["gone", PATH]`` drops one. At the end of input the watchdog unmounts the rest and removes the
directory, unless a later daemon has both by then. The program imports the standard library only, so that it starts in
some ten milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import sys

_MNT_DETACH = 2


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    daemon = int(sys.argv[1])
    runtime = sys.argv[2]
    left: dict[str, None] = {}
    for line in sys.stdin.buffer:
        kind, path = json.loads(line)
        if kind == "gone":
            left.pop(path, None)
        else:
            left[path] = None
    with contextlib.suppress(OSError):
        # The lock of all datastores' directories (client.py).
        fcntl.flock(os.open(os.path.dirname(runtime), os.O_RDONLY | os.O_DIRECTORY), fcntl.LOCK_EX)
        if _owner(runtime) == daemon:
            libc = ctypes.CDLL(None)
            for path in reversed(left):
                libc.umount2(os.fsencode(path), _MNT_DETACH)
            shutil.rmtree(runtime, ignore_errors=True)


def _owner(runtime: str) -> int:
    try:
        with open(os.path.join(runtime, "daemon.json"), encoding="utf-8") as file:
            return json.load(file)["pid"]
    except (OSError, ValueError, KeyError):
        return 0


if __name__ == "__main__":
    main()
