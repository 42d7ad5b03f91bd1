# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Run a command in a mount namespace with a FUSE file system whose server reads every request and never replies.

hung_mount.py DIRECTORY TYPE COMMAND...: TYPE is the type in mountinfo, for example fuse.sshfs. The program needs root
and /dev/fuse.
"""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
import threading

# Linux: include/uapi/linux/fuse.h and include/uapi/linux/mount.h.
FUSE_INIT = 26
#: Timeout of the command in seconds. The tests check that the command doesn't wait for the mount.
DEADLINE = 120

MS_REC, MS_PRIVATE = 1 << 14, 1 << 18


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if (
        libc.mount(
            source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), data and data.encode()
        )
        != 0
    ):
        raise OSError(ctypes.get_errno(), f"mount {target}: {os.strerror(ctypes.get_errno())}")


def serve(device: int) -> None:
    while True:
        _length, opcode, unique = struct.unpack_from("=IIQ", os.read(device, 1 << 18))
        if opcode == FUSE_INIT:
            answer = struct.pack("=IIIIHHIIHHI28x", 7, 31, 0, 0, 12, 9, 4096, 1, 1, 0, 0)
            os.write(device, struct.pack("=IiQ", 16 + len(answer), 0, unique) + answer)


def main(directory: str, kind: str, command: list[str]) -> int:
    if ctypes.CDLL(None, use_errno=True).unshare(0x00020000) != 0:  # CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare: root is needed")
    mount("none", "/", None, MS_REC | MS_PRIVATE, None)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    mount("hung", directory, kind, 0, f"fd={device},rootmode=40000,user_id=0,group_id=0")
    threading.Thread(target=serve, args=[device], daemon=True).start()
    try:
        return subprocess.run(command, check=False, timeout=DEADLINE).returncode
    except subprocess.TimeoutExpired:
        print(f"The command waited for more than {DEADLINE} seconds.", file=sys.stderr)
        return 124


if __name__ == "__main__":
    # The device closes when this process ends. Requests that are still waiting then fail.
    os._exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
