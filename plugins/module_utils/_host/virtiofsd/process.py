# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The virtiofsd process behind a device of a running domain. libvirt keeps the device when the process has died, so
its XML proves nothing.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from xml.sax.saxutils import escape

from ..._core.command import reason, run
from ..._core.errors import CommandFailed
from ..._core.files import read_text
from ..._core.records import dataclass

RUNNING, DEAD, STOPPED, OTHER_DIRECTORY = "running", "dead", "stopped", "other_directory"

#: Directory of the pid files of daemons that libvirt starts for system domains.
PID_DIRECTORY = "/run/libvirt/qemu"

#: State of a connected socket in proc_net_unix(5).
CONNECTED = "03"

#: struct flock of fcntl(2): type, whence, start, length, pid.
FLOCK = "hhqqi"

#: Upper bound of the time to read the identity of a directory, in seconds. Without its file server, the call never
#: returns.
STAT_DEADLINE = 5


@dataclass(frozen=True)
class DaemonState:
    """The state of a daemon.

    :arg value: one of the constants above.
    :arg pids: the processes of the daemon, empty if they are unknown.
    """

    value: str
    pids: tuple[int, ...] = ()


@dataclass(frozen=True)
class DomainSockets:
    """The sockets in libvirt's directory of one running domain.

    ``short_name`` is the name of the domain as libvirt shortens it.
    """

    short_name: str
    connected: frozenset[str]


def daemon_state(domain_id: int, name: str, alias: str, source: str) -> DaemonState | None:
    """Return the state of the virtiofsd that serves the device ``alias`` of a running domain; ``None`` if this process
    can't see it.

    :arg domain_id: libvirt's number of the running domain.
    :arg source: the directory that the device shares, by its present path.
    """
    sockets = find_sockets(read_text("/proc/net/unix"), domain_id, name)
    if sockets is None:
        return None
    # QEMU never connects a second time. So a daemon without the connection is useless, even if its process runs.
    if f"{alias}-fs.sock" not in sockets.connected:
        return DaemonState(DEAD)
    pid = lock_holder(os.path.join(PID_DIRECTORY, pid_file_name(domain_id, sockets.short_name, alias)))
    if pid is None:
        return DaemonState(RUNNING)
    pids = (pid, *_children(pid))
    if any(_is_stopped(one) for one in pids):
        return DaemonState(STOPPED, pids)
    return DaemonState(RUNNING if _serves(pid, source) else OTHER_DIRECTORY, pids)


def find_sockets(table: str, domain_id: int, name: str) -> DomainSockets | None:
    """Return the sockets of a domain in a table of proc_net_unix(5), ``None`` when no socket of the domain is in this
    network namespace.

    :arg name: the name of the domain. The name of libvirt's directory has the first characters of it.
    """
    short_name, connected = None, set()
    for line in table.split("\n"):
        fields = line.split(None, 7)
        match = re.fullmatch(rf"/.*/domain-{domain_id}-([^/]*)/([^/]+)", fields[7]) if len(fields) == 8 else None
        # The directory of another libvirt's domain, such as a user's own, can have the same number.
        if match is None or not os.fsencode(name).startswith(os.fsencode(match[1])):
            continue
        short_name = match[1]
        if fields[5] == CONNECTED:
            connected.add(match[2])
    return None if short_name is None else DomainSockets(short_name, frozenset(connected))


def pid_file_name(domain_id: int, short_name: str, alias: str) -> str:
    """Return the name of a daemon's pid file. libvirt escapes names of pid files like XML (virPidFileBuildPath)."""
    return escape(f"{domain_id}-{short_name}-{alias}-fs.pid", {'"': "&quot;", "'": "&apos;"})


def lock_holder(path: str) -> int | None:
    """Return the process that holds the record lock on a pid file; ``None`` without one.

    libvirt locks the file for the daemon (virPidFileAcquirePath), and the kernel releases the lock when the daemon
    ends. The number in the file may belong to another process by then.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # The directory belongs to QEMU's user, so the file is untrusted.
        if os.fstat(descriptor).st_uid not in (0, os.geteuid()):
            return None
        found = struct.unpack(
            FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        )
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return found[4] if found[0] != fcntl.F_UNLCK and found[4] > 0 else None


def _children(pid: int) -> list[int]:
    return [int(one) for one in _read_proc(f"{pid}/task/{pid}/children").split()]


def _is_stopped(pid: int) -> bool:
    """Return whether a signal or a debugger has stopped ``pid``: the state behind the name in proc_pid_stat(5)."""
    return _read_proc(f"{pid}/stat").rpartition(") ")[2][:1] in ("T", "t")


def _read_proc(name: str) -> str:
    try:
        with open(f"/proc/{name}", encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:  # the process has ended
        return ""


def _serves(pid: int, source: str) -> bool:
    """Return whether ``source`` is the directory that the daemon ``pid`` serves. That is the root of a sandboxed
    daemon.

    The result is true if the directory is unknown: a daemon without a sandbox has the root of the host, and a file
    server can be down.
    """
    try:
        served = _identity(f"/proc/{pid}/root")
        return served in (None, _identity("/")) or served == _identity(source)
    except CommandFailed:
        return True


def _identity(path: str) -> str | None:
    """Return device and inode of a directory, ``None`` if it is missing.

    :raises CommandFailed: stat(1) failed or hung. A process that hangs is left behind.
    """
    found = run(["stat", "--dereference", "--format=%d %i", "--", path], accept=None, timeout=STAT_DEADLINE)
    if found.returncode != 0 and not found.stderr.strip().endswith(("No such file or directory", "Not a directory")):
        raise CommandFailed(reason(found))
    return found.stdout.strip() or None


__all__ = [
    "DEAD",
    "OTHER_DIRECTORY",
    "RUNNING",
    "STOPPED",
    "DaemonState",
    "DomainSockets",
    "daemon_state",
    "find_sockets",
    "lock_holder",
    "pid_file_name",
]
