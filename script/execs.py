# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Record each program that a process and its descendants execute.

Usage: execs.py PID FILE

Prints "attached" as soon as every execve is traced. Appends a line of JSON to FILE for each executed program: the
``path`` that was given to execve(2), the file that became the process (``exe``, for a script the interpreter), and the
program of the parent process (``by``). Ends with the last process, or with SIGTERM; the processes then go on untraced.

A process whose root directory differs from that of PID belongs to another root tree, such as a container's. The tracer
detaches from such a process when the process executes its first program there, so its descendants aren't traced either.
Other processes stop only for execve, fork and clone (ptrace(2), PTRACE_O_TRACEEXEC).

strace(1) doesn't serve here: strace stops at each system call, also of emulated guests, and the demo misses its
deadlines. strace --seccomp-bpf sets no_new_privs, and the newuidmap of virtiofsd then has no privileges.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import struct
import sys
from typing import TextIO

# <sys/ptrace.h>
CONT, DETACH, SEIZE, LISTEN = 7, 17, 0x4206, 0x4208
EVENT_EXEC, EVENT_STOP = 4, 128
FORK_VFORK_CLONE_EXEC = 1 << 1 | 1 << 2 | 1 << 3 | 1 << EVENT_EXEC
# <linux/wait.h>, <linux/auxvec.h>
WALL = 0x40000000
AT_EXECFN = 31
STOP_SIGNALS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, pid: int, data: int = 0) -> None:
    """Send *request* to a traced process. A process that was killed meanwhile is no error. Raises :class:`OSError`."""
    if _libc.ptrace(request, pid, None, data) == -1 and (number := ctypes.get_errno()) != errno.ESRCH:
        raise OSError(number, f"ptrace of process {pid}: {os.strerror(number)}")


def identify_root(pid: int) -> tuple[int, int]:
    root = os.stat(f"/proc/{pid}/root/")
    return root.st_dev, root.st_ino


def describe_execve(pid: int) -> dict[str, str]:
    """Return what a process, stopped in its execve, executes: path, program, and program of the parent."""
    with open(f"/proc/{pid}/auxv", "rb") as file:
        address = dict(struct.iter_unpack("@LL", file.read()))[AT_EXECFN]
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        path = os.fsdecode(memory.read(4096).partition(b"\0")[0])
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        parent = file.read().rpartition(")")[2].split()[1]
    try:
        by = os.readlink(f"/proc/{parent}/exe")
    except OSError:  # the parent has ended
        by = "?"
    return {
        "path": os.path.join(os.readlink(f"/proc/{pid}/cwd"), path),
        "exe": os.readlink(f"/proc/{pid}/exe"),
        "by": by,
    }


def follow(first: int, log: TextIO) -> None:
    """Trace until no process is left. Raises :class:`OSError`."""
    root = identify_root(first)
    ptrace(SEIZE, first, FORK_VFORK_CLONE_EXEC)
    print("attached", flush=True)
    while True:
        try:
            pid, status = os.waitpid(-1, WALL)
        except ChildProcessError:
            return
        if not os.WIFSTOPPED(status):
            continue
        event, number = status >> 16, os.WSTOPSIG(status)
        if event == EVENT_EXEC:
            try:
                if identify_root(pid) != root:
                    ptrace(DETACH, pid)
                    continue
                print(json.dumps(describe_execve(pid)), file=log, flush=True)
            except (FileNotFoundError, ProcessLookupError):  # killed in its execve
                pass
        if event == EVENT_STOP and number in STOP_SIGNALS:
            ptrace(LISTEN, pid)
        else:
            # A stop without an event is a signal, which the process must get.
            ptrace(CONT, pid, 0 if event else number)


def main() -> None:
    with open(sys.argv[2], "a", encoding="utf-8") as log:
        follow(int(sys.argv[1]), log)


if __name__ == "__main__":
    main()
