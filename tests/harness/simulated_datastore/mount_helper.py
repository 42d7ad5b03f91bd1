# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The mount helper of the file system type ``sim`` and, with an installed shim, of ``nfs`` and ``nfs4``.

mount(8) calls ``mount.TYPE SPEC DIRECTORY [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE.SUBTYPE]`` (mount(8), "EXTERNAL
HELPERS"). The helper mounts the simulated datastore with the export SPEC, so that a role's ``mount -t nfs nfs1:/images
/mnt/images`` needs no change. Messages and exit codes are those of mount.nfs(8).
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from .client import Running, running
from .errors import DaemonGone, SimulatedDatastoreError
from .helpers import DIRECTORY, REAL
from .system import mounts, remount, resolve

#: Exit codes (mount(8)).
_USAGE, _FAILED = 1, 32
#: Minutes until a mount in the foreground and in the background fails (nfs(5), "retry").
_RETRY = {"fg": 2, "bg": 10_000}
#: Options of mount(8), with the flag of mount(2) that a remount sets; None for an option without effect here.
_FLAGS: dict[str, int | None] = {
    "ro": 1,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "noatime": 1024,
    "nodiratime": 2048,
    **dict.fromkeys(
        (
            "async",
            "atime",
            "auto",
            "defaults",
            "dev",
            "diratime",
            "dirsync",
            "exec",
            "group",
            "iversion",
            "lazytime",
            "loud",
            "mand",
            "noauto",
            "nofail",
            "nogroup",
            "noiversion",
            "nolazytime",
            "nomand",
            "noowner",
            "norelatime",
            "nostrictatime",
            "nouser",
            "nousers",
            "owner",
            "relatime",
            "remount",
            "rw",
            "silent",
            "strictatime",
            "suid",
            "sync",
            "user",
            "users",
            "_netdev",
        )
    ),
}
#: Options of a FUSE mount in the kernel's table, which mount(8) passes to a remount.
_FUSE = frozenset({"allow_other", "blksize", "default_permissions", "group_id", "max_read", "user_id"})
#: Options of nfs(5).
_NFS = frozenset(
    {
        "ac",
        "acdirmax",
        "acdirmin",
        "acl",
        "acregmax",
        "acregmin",
        "actimeo",
        "addr",
        "bg",
        "clientaddr",
        "cto",
        "fg",
        "fsc",
        "hard",
        "intr",
        "local_lock",
        "lock",
        "lookupcache",
        "max_connect",
        "migration",
        "minorversion",
        "mountaddr",
        "mounthost",
        "mountport",
        "mountproto",
        "mountvers",
        "namlen",
        "nconnect",
        "nfsvers",
        "noac",
        "noacl",
        "nocto",
        "nofsc",
        "nointr",
        "nolock",
        "nomigration",
        "nordirplus",
        "noresvport",
        "nosharecache",
        "nosoftreval",
        "notrunkdiscovery",
        "port",
        "posix",
        "proto",
        "rdirplus",
        "rdma",
        "resvport",
        "retrans",
        "retry",
        "rsize",
        "sec",
        "sharecache",
        "soft",
        "softerr",
        "softreval",
        "tcp",
        "timeo",
        "trunkdiscovery",
        "udp",
        "v2",
        "v3",
        "v4",
        "v4.0",
        "v4.1",
        "v4.2",
        "vers",
        "write",
        "wsize",
        "xprtsec",
    }
)
_VERSIONS = ("3", "4", "4.0", "4.1", "4.2")


class _Failure(Exception):
    """A message, and the exit code."""

    def __init__(self, text: str, code: int = _FAILED) -> None:
        super().__init__(text)
        self.code = code


class Call:
    """The arguments of a call by mount(8).

    Raises :class:`_Failure` for a malformed call, or an unknown option.
    """

    def __init__(self, kind: str, words: list[str]) -> None:
        self.kind = kind
        self.fake = self.sloppy = self.verbose = False
        self.options: dict[str, str] = {}
        names = []
        left = list(words)
        while left:
            word = left.pop(0)
            if word.startswith("-") and word != "-":
                self._read_letters(word[1:], left)
            else:
                names.append(word)
        if len(names) != 2:
            raise _Failure(f"usage: mount.{kind} SPEC DIRECTORY [-sfnv] [-o OPTIONS]", _USAGE)
        self.spec, self.directory = names
        if not self.sloppy:
            self._check_options()

    def _read_letters(self, letters: str, left: list[str]) -> None:
        """Read the letters of one word. A value may be the first of the words that are *left*."""
        for position, letter in enumerate(letters, 1):
            if letter in "oNt":
                self._read_value(letter, letters[position:] or (left.pop(0) if left else None))
                return
            if letter not in "sfnvrw":
                raise _Failure(f"unknown option -{letter}", _USAGE)
            self.fake |= letter == "f"
            self.sloppy |= letter == "s"
            self.verbose |= letter == "v"
            if letter in "rw":
                self.options["ro" if letter == "r" else "rw"] = ""

    def _read_value(self, letter: str, value: str | None) -> None:
        if value is None:
            raise _Failure(f"-{letter} needs a value", _USAGE)
        if letter == "N":
            raise _Failure(
                f"-N {value}: to mount in another namespace, run mount in there: nsenter --mount={value} mount ...",
                _USAGE,
            )
        if letter == "o":
            for option in filter(None, value.split(",")):
                name, _equals, text = option.partition("=")
                self.options[name] = text

    def _check_options(self) -> None:
        known = _FLAGS.keys() | _NFS | _FUSE | {"comment"}
        for name in self.options:
            if name not in known and not name.lower().startswith("x-"):
                raise _Failure(f"an incorrect mount option was specified: {name}")

    @property
    def read_only(self) -> bool:
        """True if "ro" follows the last "rw"."""
        return "ro" in [name for name in self.options if name in ("ro", "rw")][-1:]

    @property
    def version(self) -> str | None:
        """The requested version of NFS, None for any."""
        found = self.options.get("vers", self.options.get("nfsvers"))
        for version in _VERSIONS:
            if f"v{version}" in self.options:
                found = version
        if found is None:
            return "4" if self.kind == "nfs4" else None
        if found == "4" and "minorversion" in self.options:
            found = f"4.{self.options['minorversion']}"
        if found not in _VERSIONS:
            raise _Failure(f"requested NFS version or transport protocol is not supported: {found}")
        return found

    @property
    def type(self) -> str:
        """The type in the kernel's table of mounts, after ``fuse.``."""
        return self.kind if self.kind == "sim" or (self.version or "4").startswith("3") else "nfs4"

    @property
    def soft(self) -> float | None:
        """Seconds until a hanging request of a soft mount fails: the first timeout, and one per retransmission (nfs(5),
        "timeo", "retrans").
        """
        if "soft" not in self.options and "softerr" not in self.options:
            return None
        return self.number("timeo", 600) / 10 * (1 + self.number("retrans", 2))

    def number(self, option: str, default: int) -> int:
        value = self.options.get(option, str(default))
        if not value.isdecimal() or len(value) > 9:
            raise _Failure(f"an incorrect mount option was specified: {option}={value}")
        return int(value)

    def flags(self) -> list[str]:
        """Return the flags of the mount without "ro"."""
        return [name for name in self.options if _FLAGS.get(name) and name != "ro"]


def _mount(call: Call) -> None:
    point = _mount_point(call)
    if "remount" in call.options:
        _remount(call, point)
        return
    server = _server(call)
    background = "bg" in call.options and "fg" not in call.options
    until = time.monotonic() + 60 * call.number("retry", _RETRY["bg" if background else "fg"])
    while problem := _unreachable(server):
        if background:
            # Like mount.nfs, the parent ends and the child continues to try.
            print(f'mount.{call.kind}: backgrounding "{call.spec}"', file=sys.stderr, flush=True)
            if os.fork():
                return
            os.setsid()
            os.chdir("/")
            null = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            background = False
        if time.monotonic() >= until:
            raise _Failure(f"{problem} for {call.spec} on {call.directory}")
        time.sleep(0.2)
    mount = {
        "source": call.spec,
        "mount_point": point,
        "version": call.version,
        "read_only": call.read_only,
        "type": call.type,
        "flags": call.flags(),
        "soft": call.soft,
    }
    done = server.ask("mount_export", **mount)
    if done is None:
        raise _Failure(f"Connection refused for {call.spec} on {call.directory}")
    if call.verbose:
        print(
            f"mount.{call.kind}: {call.spec} on {point} is the simulated datastore {server.name}, client "
            f"{done['client']}"
        )


def _mount_point(call: Call) -> str:
    point = resolve(call.directory)
    entries = [entry for entry in mounts() if entry.path == point]
    if entries and entries[-1].is_simulated:
        if "remount" not in call.options:
            raise _Failure(f"{call.directory} is busy or already mounted")
    elif "remount" in call.options:
        raise _Failure(f"{call.directory} is not mounted")
    elif not os.path.isdir(point):
        raise _Failure(
            f"mount point {call.directory} {'is not a directory' if os.path.lexists(point) else 'does not exist'}"
        )
    return point


def _remount(call: Call, point: str) -> None:
    """Change the flags of a mount. The datastore isn't involved, and may hang."""
    flags = sum(_FLAGS[name] or 0 for name in call.flags()) | (1 if call.read_only else 0)
    try:
        remount(point, flags)
    except OSError as error:
        raise _Failure(f"{call.directory}: {error.strerror}") from error


def _exports() -> Iterator[tuple[Running, dict[str, Any]]]:
    for each in running():
        for export in (each.ask("status") or {}).get("exports", ()):
            yield each, export


def _server(call: Call) -> Running:
    """Return the datastore with the export of the call."""
    spec = call.spec.rstrip("/") if not call.spec.endswith(":/") else call.spec
    hosts = set()
    for each, export in _exports():
        if export["source"] in (call.spec, spec):
            call.spec = export["source"]
            return each
        hosts.add(_host(export["source"]))
    _real(call.kind)
    if _host(spec) not in hosts:
        raise _Failure(
            f"Failed to resolve server {_host(spec)}: Name or service not known ('simulated-datastore export' creates "
            "one)"
        )
    if (call.version or "4").startswith("3"):
        raise _Failure(f"access denied by server while mounting {call.spec}")
    raise _Failure(f"mounting {call.spec} failed, reason given by server: No such file or directory")


def _host(spec: str) -> str:
    return spec.rpartition(":/")[0] or spec


def _unreachable(server: Running) -> str:
    """Return the reason why a client can't reach *server* now; empty if it can.

    Raises :class:`_Failure` for an ended datastore, which will never be reachable.
    """
    status = server.ask("status")
    if status is None:
        raise _Failure(f"Connection refused: the simulated datastore {server.name} has ended")
    return {"hung": "Connection timed out", "down": "Connection refused"}.get(status["state"]["state"], "")


def _real(kind: str) -> None:
    """Execute the system's own helper if a shim has its name."""
    path = DIRECTORY / ("mount.nfs" + REAL)
    if kind != "sim" and path.exists():
        os.execv(path, [f"mount.{kind}", *sys.argv[2:]])


def main() -> NoReturn:
    name = Path(sys.argv[1]).name
    kind = name.rpartition(".")[2]
    if name.startswith("umount."):
        # The system has a link to its mount.nfs, whose name the shim has.
        with contextlib.suppress(OSError):
            os.execv(DIRECTORY / ("mount.nfs" + REAL), [name, *sys.argv[2:]])
        os.execvp("umount", ["umount", "-i", *sys.argv[2:]])
    try:
        call = Call(kind, sys.argv[2:])
        if not call.fake:
            _mount(call)
    except _Failure as failure:
        print(f"mount.{kind}: {failure}", file=sys.stderr)
        sys.exit(failure.code)
    except DaemonGone as error:
        print(f"mount.{kind}: Connection refused: {error}", file=sys.stderr)
        sys.exit(_FAILED)
    except SimulatedDatastoreError as error:
        print(f"mount.{kind}: {error}", file=sys.stderr)
        sys.exit(_FAILED)
    sys.exit(0)


if __name__ == "__main__":
    main()
