# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The client side of a daemon: start, call and end it. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from . import checks
from .errors import DaemonGone, SimulatedDatastoreError
from .pipes import pipe_from, pipe_to
from .system import MNT_DETACH, mounts, resolve, unmount

#: The parent of one directory per datastore, with its socket and the record of its process.
RUNTIME = Path(os.environ.get("SIMULATED_DATASTORE_RUNTIME", "/run/simulated-datastore"))


class Control:
    """A connection to the control socket at *path*.

    Raises :class:`SimulatedDatastoreError` when no daemon accepts the connection.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._next = 1
        self._asked = ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(os.fspath(path))
        except OSError as error:
            self._socket.close()
            raise DaemonGone(
                f"No daemon answers at {str(path)!r} ({error.strerror or error}): 'simulated-datastore mount' starts "
                "one."
            ) from error
        self._lines = self._socket.makefile("rb")

    def call(self, method: str, /, deadline: float = 60, **params: Any) -> Any:
        """Call *method* and return its result.

        Raises :class:`SimulatedDatastoreError` with the daemon's refusal, or without an answer for *deadline* seconds.
        """
        self.ask(method, deadline, **params)
        return self.answer(deadline)

    def ask(self, method: str, /, deadline: float = 60, **params: Any) -> None:
        """Send a request. Its :meth:`answer` is ready when :meth:`fileno` is readable."""
        number, self._next, self._asked = self._next, self._next + 1, method
        with self._errors(deadline):
            self._socket.sendall(json.dumps({"id": number, "method": method, "params": params}).encode() + b"\n")

    def answer(self, deadline: float = 60) -> Any:
        """Return the result of the sent request. Raises as :meth:`call`."""
        with self._errors(deadline):
            line = self._lines.readline()
        if not line:
            raise DaemonGone(f"The daemon at {str(self.path)!r} has gone in the middle of {self._asked!r}.")
        answer = json.loads(line)
        if "error" in answer:
            raise SimulatedDatastoreError(answer["error"])
        return answer["result"]

    @contextlib.contextmanager
    def _errors(self, deadline: float) -> Iterator[None]:
        self._socket.settimeout(deadline)
        try:
            yield
        except TimeoutError as error:
            raise SimulatedDatastoreError(
                f"The daemon at {str(self.path)!r} hasn't answered {self._asked!r} for {deadline:g} seconds."
            ) from error
        except OSError as error:
            raise DaemonGone(f"The daemon at {str(self.path)!r} has gone: {error.strerror or error}.") from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


class Running:
    """The daemon called *name*, running or dead."""

    def __init__(self, name: str) -> None:
        self.name = checks.name("name", name)
        self.runtime = RUNTIME / name

    @property
    def socket(self) -> Path:
        return self.runtime / "socket"

    @property
    def log(self) -> Path:
        """The default path of the daemon's log, which stays when the daemon ends."""
        return Path(f"/var/log/simulated-datastore-{self.name}.log")

    def control(self) -> Control:
        return Control(self.socket)

    def record(self) -> dict[str, Any]:
        """Return the record of the daemon's start; empty if it is missing."""
        try:
            record = json.loads((self.runtime / "daemon.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) and {"pid", "started"} <= record.keys() else {}

    def _read_noted_mounts(self) -> list[Any]:
        """Return device and mount point of each mount in the daemon's notes."""
        try:
            found = json.loads((self.runtime / "mounts.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return found if isinstance(found, list) else []

    def note(self, **changes: Any) -> None:
        """Change the record of a daemon that still exists."""
        with _hold_lock():
            if record := self.record():
                self._note({**record, **changes})

    def _note(self, record: dict[str, Any]) -> None:
        temporary = self.runtime / ".daemon.json"
        temporary.write_text(json.dumps(record), encoding="utf-8")
        temporary.rename(self.runtime / "daemon.json")

    def connect(self, deadline: float = 30) -> Control | None:
        """Return a connection to the daemon, None without a daemon. A starting or ending daemon is waited for.

        Raises :class:`SimulatedDatastoreError` when the daemon is neither ready nor gone after *deadline* seconds.
        """
        until = time.monotonic() + deadline
        while self.is_alive():
            with contextlib.suppress(DaemonGone):
                return self.control()
            if time.monotonic() > until:
                raise SimulatedDatastoreError(
                    f"The datastore {self.name!r} is neither ready nor gone after {deadline:g} seconds, see its log."
                )
            time.sleep(0.02)
        return None

    def is_ready(self) -> bool:
        """Return True if the daemon accepts a connection. A starting or ending daemon is waited for."""
        control = self.connect()
        if control is not None:
            control.close()
        return control is not None

    def ask(self, method: str, /, **params: Any) -> Any:
        """Call *method* and return its result; None without a daemon, or when the daemon ends before its answer.

        Raises :class:`SimulatedDatastoreError` as :meth:`connect` and :meth:`Control.call` do.
        """
        until = time.monotonic() + 30
        while (control := self.connect()) is not None:
            try:
                return control.call(method, **params)
            except DaemonGone:
                if time.monotonic() > until:
                    raise
            finally:
                control.close()
        return None

    def is_alive(self) -> bool:
        """Return True if the daemon's process exists. A later process with the same number doesn't count."""
        record = self.record()
        return bool(record) and _read_start(record["pid"]) == record["started"]

    def end(self, deadline: float = 10) -> None:
        """End the daemon, by request and then by signals, and remove its files and mounts. A missing daemon is no
        error.

        Hanging requests get an error when their mount goes.
        """
        # The daemon removes its record when it ends.
        record = self.record()
        with contextlib.suppress(SimulatedDatastoreError):
            control = self.control()
            try:
                control.call("shutdown", deadline=deadline)
            finally:
                control.close()
        if record:
            for number in (None, signal.SIGTERM, signal.SIGKILL):
                if number is not None and _read_start(record["pid"]) == record["started"]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(record["pid"], number)
                if _wait_gone(record["pid"], record["started"], deadline):
                    break
            _wait_gone(record.get("watchdog", 0), record.get("watchdog_started", 0), deadline)
        self.sweep(record)

    def sweep(self, record: dict[str, Any]) -> None:
        """Remove the rest of a daemon, unless another daemon than that of *record* has the name by now.

        The unmount is lazy, because programs may still use the mount.
        """
        with _hold_lock():
            self._sweep(record)

    def _sweep(self, record: dict[str, Any]) -> None:
        now = self.record()
        if now and (now["pid"], now["started"]) != (record.get("pid"), record.get("started")):
            return
        noted = self._read_noted_mounts()
        for mount in reversed(mounts()):
            if [mount.device, mount.path] in noted:
                # Programs with pending requests get ENOTCONN. Without a mounted fusectl they get it when the daemon
                # ends.
                with contextlib.suppress(OSError):
                    Path("/sys/fs/fuse/connections", mount.device.rpartition(":")[2], "abort").write_text(
                        "1", encoding="ascii"
                    )
                with contextlib.suppress(OSError):
                    unmount(mount.path, MNT_DETACH)
        shutil.rmtree(self.runtime, ignore_errors=True)


def start(
    name: str,
    backing: Path,
    mounts: list[dict[str, Any]],
    *,
    exports: Sequence[dict[str, Any]] = (),
    parent: int | None = None,
    clock: str = "real",
    ledger: Path | None = None,
    log: Path | None = None,
    known: int = 200_000,
    deadline: float = 30,
) -> Running:
    """Start the daemon of a datastore on *backing*, with *mounts* (parameters of the method ``mount``).

    With *exports* (parameters of the method ``export``) the daemon runs on without a mount. With *parent* the daemon
    ends together with that process. *known* is the number of files in a client's memory above which the kernel has to
    forget the others. Raises :class:`SimulatedDatastoreError` for a failed start, of which nothing remains.
    """
    running = Running(name)
    if os.geteuid() != 0:
        raise SimulatedDatastoreError("A simulated datastore needs root, because it creates files of every user.")
    for mount in mounts:
        # The kernel's table has resolved paths.
        mount["mount_point"] = resolve(mount["mount_point"])
    config: dict[str, Any] = {
        "runtime": str(running.runtime),
        "backing": os.path.abspath(backing),
        "mounts": mounts,
        "exports": list(exports),
        "clock": clock,
        "known": known,
        "log": str(log.absolute() if log else running.log),
    }
    if parent is not None:
        config["parent"] = parent
    if ledger is not None:
        config["ledger"] = os.path.abspath(ledger)
    # Each large read or write allocates and frees memory. Kept memory in huge pages is five percent faster (malloc(3),
    # "Memory Allocation Tunables").
    tunables = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=67108864:glibc.malloc.trim_threshold=134217728"
    python_path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {"GLIBC_TUNABLES": tunables, **os.environ, "PYTHONPATH": python_path}
    with _hold_lock(), _log_file(config["log"]) as errors:
        _sweep_all()
        if running.is_alive():
            raise SimulatedDatastoreError(
                f"name: the datastore {name!r} is mounted already, give another name or unmount it."
            )
        running.runtime.mkdir(mode=0o700)
        # -P: modules in the current directory are no part of the program.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "simulated_datastore.daemon"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,
        )
        record = {"pid": process.pid, "started": _read_start(process.pid)}
        running._note(record)
    try:
        answer = _first_line(process, json.dumps(config).encode(), deadline)
    except BaseException:
        process.kill()
        process.wait()
        running.sweep(record)
        raise
    if "error" in answer:
        process.wait()
        running.sweep(record)
        raise SimulatedDatastoreError(answer["error"])
    running.note(watchdog=answer["watchdog"], watchdog_started=_read_start(answer["watchdog"]))
    # A child without wait(2) would stay a zombie.
    _children.append(process)
    return running


def _log_file(path: str) -> IO[bytes]:
    try:
        return open(path, "ab")
    except OSError as error:
        raise SimulatedDatastoreError(
            f"The log {path!r} can't be written: {error.strerror}, --log names another file."
        ) from error


#: Daemons of this process, which each later start and end collects.
_children: list[subprocess.Popen[bytes]] = []


def _first_line(process: subprocess.Popen[bytes], config: bytes, deadline: float) -> dict[str, Any]:
    output = b""
    poll = select.poll()
    stdin, stdout = pipe_to(process), pipe_from(process)
    poll.register(stdout, select.POLLIN)
    until = time.monotonic() + deadline
    with contextlib.suppress(BrokenPipeError), stdin:
        stdin.write(config)
    with stdout:
        while not output.endswith(b"\n"):
            if not poll.poll(max(0, until - time.monotonic()) * 1000):
                raise SimulatedDatastoreError(f"The daemon wasn't ready within {deadline:g} seconds.")
            if not (chunk := os.read(stdout.fileno(), 65536)):
                break
            output += chunk
    try:
        return json.loads(output)
    except ValueError as error:
        raise SimulatedDatastoreError(
            f"The daemon ended with {process.wait()} before it was ready, see its log."
        ) from error


def running() -> list[Running]:
    """Return the running datastores."""
    return [found for found in _list_known() if found.is_alive()]


def _list_known() -> list[Running]:
    """Return the running datastores, and those with files or mounts left."""
    return (
        [Running(path.name) for path in sorted(RUNTIME.iterdir()) if checks.NAME.fullmatch(path.name) and path.is_dir()]
        if RUNTIME.is_dir()
        else []
    )


def _sweep_all() -> None:
    """Remove the files and mounts of dead daemons."""
    for found in _list_known():
        if not found.is_alive():
            found._sweep(found.record())


@contextlib.contextmanager
def _hold_lock() -> Iterator[None]:
    """Hold the lock of all datastores' directories. Watchdogs take it, too."""
    try:
        RUNTIME.mkdir(parents=True, exist_ok=True)
        fd = os.open(RUNTIME, os.O_RDONLY | os.O_DIRECTORY)
        if not os.access(RUNTIME, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise SimulatedDatastoreError(
            f"The directory {str(RUNTIME)!r} can't be used: {error.strerror}. Name another one by the environment "
            "variable SIMULATED_DATASTORE_RUNTIME."
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _read_start(pid: int) -> int:
    """Return a process's start in ticks since boot (proc_pid_stat(5), field 22); 0 for a missing one or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def _wait_gone(pid: int, started: int, deadline: float) -> bool:
    until = time.monotonic() + deadline
    if not pid or _read_start(pid) != started:
        return True
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while _read_start(pid) == started:
            left = until - time.monotonic()
            if left <= 0:
                return False
            poll.poll(left * 1000)
        return True
    finally:
        os.close(fd)
        for child in list(_children):
            if child.poll() is not None:
                _children.remove(child)


__all__ = ["RUNTIME", "Control", "Running", "running", "start"]
