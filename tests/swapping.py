# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Exchange two names continuously, like a user who attacks a program that works by name.

swapping.py UID NAME OTHER prints a line after the first exchange. renameat2(2) with RENAME_EXCHANGE leaves no moment in
which a name is missing.
"""

from __future__ import annotations

import ctypes
import os
import sys

AT_FDCWD = -100
RENAME_EXCHANGE = 2


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    os.setgroups([])
    os.setgid(int(sys.argv[1]))
    os.setuid(int(sys.argv[1]))
    name, other = (argument.encode() for argument in sys.argv[2:])
    begun = False
    while True:
        if libc.renameat2(AT_FDCWD, name, AT_FDCWD, other, RENAME_EXCHANGE):
            raise OSError(ctypes.get_errno(), f"exchange {name!r} and {other!r}")
        if not begun:
            print("begun", flush=True)
            begun = True


if __name__ == "__main__":
    main()
