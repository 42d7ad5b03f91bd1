# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Try operations in a mounted directory as several users, and print the results as JSON. The program runs on a client
of an NFS server, as root.

nfs_users.py DIRECTORY: the users are ``root``, ``service`` and ``mapped``. The last one is the root of a user namespace
whose ids begin at 100000, like a virtiofsd with mapped ids. The directory has files ``private`` and ``given-USER``.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable

SERVICE = 9869
MAPPED = 100000


def attempt(operation: Callable[[], object]) -> str:
    try:
        operation()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"


def try_all(directory: str, name: str) -> dict[str, str]:
    own, private = f"{directory}/{name}", f"{directory}/private"
    return {
        "list": attempt(lambda: os.listdir(directory)),
        "create": attempt(lambda: os.close(os.open(own, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))),
        "chmod": attempt(lambda: os.chmod(own, 0o640)),
        "chown": attempt(lambda: os.chown(f"{directory}/given-{name}", 1000, 1000)),
        "read": attempt(lambda: os.close(os.open(private, os.O_RDONLY))),
        "write": attempt(lambda: os.close(os.open(private, os.O_WRONLY))),
    }


def run_as(user: int, work: Callable[[], dict[str, str]], mapped: bool = False) -> dict[str, str]:
    """Return the results of a child process."""
    results, ready, go = os.pipe(), os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        if mapped:
            os.unshare(os.CLONE_NEWUSER)
            os.write(ready[1], b"x")
            os.read(go[0], 1)
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
        os.write(results[1], json.dumps(work()).encode())
        os._exit(0)
    if mapped:
        os.read(ready[0], 1)
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{child}/{name}", "w", encoding="ascii") as file:
                file.write(f"0 {MAPPED} 65536")
        os.write(go[1], b"x")
    _child, status = os.waitpid(child, 0)
    if status:
        raise SystemExit("A child process failed.")
    return json.loads(os.read(results[0], 1 << 16))


def main(directory: str) -> None:
    users = {"root": (0, False), "service": (SERVICE, False), "mapped": (0, True)}
    print(
        json.dumps(
            {
                name: run_as(user, lambda name=name: try_all(directory, name), mapped)
                for name, (user, mapped) in users.items()
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
