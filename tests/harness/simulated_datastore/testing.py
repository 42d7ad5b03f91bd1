# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""A datastore for tests. The daemon is a separate process, because in the test's process it would wait for itself."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import select
import shutil
import signal
import stat
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from . import settings
from .client import Control, Running, start
from .profiles import choose
from .values import format_amount

#: The errors of a fault walker by default: those of disks, servers and quotas.
ERRNOS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE)
#: The operations of a fault walker by default: all that change the file system or promise durability.
WRITE_SIDE = ("change",)

#: Option of prctl(2).
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


class FaultRule:
    """A rule in force; *hits* proves the injection of the fault."""

    def __init__(self, control: Control, status: dict[str, Any]) -> None:
        self._control = control
        self.id: str = status["id"]
        self._last = status

    @property
    def hits(self) -> int:
        return self._status()["hits"]

    @property
    def matches(self) -> int:
        """The number of matching requests, with or without a hit."""
        return self._status()["matches"]

    def _status(self) -> dict[str, Any]:
        for status in self._control.call("rule.list"):
            if status["id"] == self.id:
                self._last = status
        return self._last

    def delete(self) -> None:
        if any(status["id"] == self.id for status in self._control.call("rule.list")):
            self._last = self._control.call("rule.del", id=self.id)


class Reads:
    """The reads of one file."""

    def __init__(self, rows: list[dict[str, Any]], path: str, size: int) -> None:
        self.rows = [row for row in rows if not row["error"] and row["size"]]
        self.path = path
        self.file_size = size

    @property
    def bytes(self) -> int:
        return sum(row["size"] for row in self.rows)

    def assert_once(self) -> None:
        """Assert that every byte of the file was read exactly once.

        The check is exact on a *strict* mount. Elsewhere the page cache may have answered a read, or read ahead.
        """
        position = 0
        for start_, end in sorted((row["offset"], row["offset"] + row["size"]) for row in self.rows):
            if start_ < position:
                raise AssertionError(f"{self.path}: bytes {start_} to {min(position, end)} were read more than once")
            if start_ > position:
                raise AssertionError(f"{self.path}: bytes {position} to {start_} were never read")
            position = end
        if position < self.file_size:
            raise AssertionError(f"{self.path}: bytes {position} to {self.file_size} were never read")

    def assert_none(self) -> None:
        """Assert that the file was not read."""
        if self.rows:
            raise AssertionError(f"{self.path}: {self.bytes} bytes were read in {len(self.rows)} requests")


class LedgerView:
    """The ledger of a datastore, with queries for tests."""

    def __init__(self, datastore: SimulatedDatastore) -> None:
        self._datastore = datastore

    def query(self, **criteria: Any) -> list[dict[str, Any]]:
        """Return the entries that match op, path, client, rule, error, since and limit."""
        return self._datastore.control.call("ledger.query", **criteria)

    def summary(self, **criteria: Any) -> list[dict[str, Any]]:
        return self._datastore.control.call("ledger.summary", **criteria)

    def mark(self, name: str) -> None:
        self._datastore.control.call("ledger.mark", name=name)

    def read(self, path: str, **criteria: Any) -> Reads:
        """Return the reads of the file *path* below the mount point."""
        size = os.stat(self._datastore.backing / path.lstrip("/")).st_size
        # A glob that matches only the literal path.
        literal = "/" + "".join(f"[{character}]" if character in "*?[" else character for character in path.lstrip("/"))
        return Reads(self.query(op="read", path=literal, **criteria), path, size)


class SimulatedDatastore:
    """A datastore with its clients. *backing* is the backing directory."""

    def __init__(self, running: Running, backing: Path, mount_points: dict[str, Path], log: Path) -> None:
        self.running = running
        self.backing = backing
        self.log = log
        self.control = running.control()
        self.ledger = LedgerView(self)
        self._mount_points = mount_points
        self._root = os.stat(backing)

    def path(self, client: str = "host1") -> Path:
        """Return the mount point of a client."""
        return self._mount_points[choose("client", client, list(self._mount_points))]

    def status(self) -> dict[str, Any]:
        return self.control.call("status")

    def set(self, **given: Any) -> None:
        """Change settings, like ``simulated-datastore set``: size, inodes, quotas, latency, read, write, state,
        crash_tracking, ...
        """
        settings.apply(self.control, given)

    @contextmanager
    def fault(self, ops: str | list[str], error: int | str = errno.EIO, **rule: Any) -> Iterator[FaultRule]:
        """Add a rule for a ``with`` block: ``with ds.fault("write", errno.EIO, path="*.qcow2", nth=3) as rule:``."""
        name = errno.errorcode[error] if isinstance(error, int) else error
        found = FaultRule(
            self.control, self.control.call("rule.add", ops=[ops] if isinstance(ops, str) else ops, error=name, **rule)
        )
        try:
            yield found
        finally:
            found.delete()

    def renew(self, prepare: Callable[[Path], Any] | None = None) -> Path:
        """Reset the datastore except for its settings: no rules, no crash tracking, and only the files of *prepare*.

        Returns the first mount point.
        """
        self.control.call("rule.clear")
        self.control.call("crash.track", enabled=False)
        self.control.call("restart")
        path = next(iter(self._mount_points.values()))
        for entry in list(os.scandir(path)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry)
            else:
                os.unlink(entry)
        now = os.stat(path)
        if (now.st_uid, now.st_gid) != (self._root.st_uid, self._root.st_gid):
            os.chown(path, self._root.st_uid, self._root.st_gid)
        if now.st_mode != self._root.st_mode:
            os.chmod(path, stat.S_IMODE(self._root.st_mode))
        if prepare is not None:
            prepare(path)
        return path

    def crash(self, **parameters: Any) -> dict[str, Any]:
        """Crash, come up again without the losses of *keep*, *names*, *seed*, *count* or *state*, and return the
        losses.
        """
        return self.control.call("crash", restart=True, **parameters)

    def wait_for(self, timeout: float = 10, **predicate: Any) -> None:
        self.control.call("wait_for", predicate=predicate, timeout=timeout, deadline=timeout + 30)

    def end(self) -> None:
        """Unmount. Raises :class:`AssertionError` if the daemon has logged a bug."""
        self.control.close()
        self.running.end()
        text = self.log.read_text(encoding="utf-8", errors="replace")
        if " ERROR simulated_datastore" in text:
            raise AssertionError(f"the simulated datastore has logged a bug:\n{text}")


def mount(
    name: str,
    root: Path,
    clients: dict[str, dict[str, Any]] | None = None,
    *,
    backing: Path | None = None,
    clock: str = "real",
    **given: Any,
) -> SimulatedDatastore:
    """Mount a datastore below *root* that ends with this process.

    *clients* maps each client to the options of its mount; *given* are settings.
    """
    if backing is None:
        backing = root / "backing"
        backing.mkdir(parents=True)
    points = {client: root / "mounts" / client for client in clients or {"host1": {}}}
    for point in points.values():
        point.mkdir(parents=True)
    mounts = [
        {"client": client, "mount_point": str(points[client]), **options}
        for client, options in (clients or {"host1": {}}).items()
    ]
    log = root / "datastore.log"
    datastore = SimulatedDatastore(
        start(name, backing, mounts, parent=os.getpid(), clock=clock, log=log), backing, points, log
    )
    try:
        datastore.set(**given)
    except BaseException:
        datastore.end()
        raise
    return datastore


class _Walker:
    """A walker runs a piece of code repeatedly, each time on a reset datastore. Starting a daemon takes longer than
    most runs.
    """

    def __init__(self, factory: Callable[..., SimulatedDatastore]) -> None:
        self._factory = factory

    @contextmanager
    def _datastore(self) -> Iterator[SimulatedDatastore]:
        datastore = self._factory()
        try:
            yield datastore
        finally:
            datastore.end()


class FaultWalker(_Walker):
    """A walker that makes each write-side operation of a piece of code fail once with each errno."""

    def __call__(
        self,
        work: Callable[[Path], Any],
        check: Callable[[Path, BaseException | None], None],
        *,
        prepare: Callable[[Path], Any] | None = None,
        errnos: tuple[int, ...] = ERRNOS,
        ops: tuple[str, ...] = WRITE_SIDE,
        stride: int = 1,
    ) -> int:
        """Run *work* on a mount once without faults, and count its operations. Repeat for each operation and errno.

        *prepare* creates files before each run. After each run, *check* gets the directory and the exception of *work*
        (None without one), and asserts what must hold in spite of the fault. Returns the number of injected faults. If
        *work* takes another way and an operation isn't reached any more, the walk of its errno ends. With a *stride*,
        only every so many-th operation fails, each errno beginning at another one.
        """
        with self._datastore() as datastore:
            total = self._once(datastore, work, check, prepare, ops, None, 0)[0]
            injected = 0
            for first, number in enumerate(errnos):
                for nth in range(1 + first * stride // len(errnos), total + 1, stride):
                    hits = self._once(datastore, work, check, prepare, ops, nth, number)[1]
                    if not hits:
                        break
                    injected += hits
        return injected

    def _once(
        self,
        datastore: SimulatedDatastore,
        work: Callable[[Path], Any],
        check: Callable[[Path, BaseException | None], None],
        prepare: Callable[[Path], Any] | None,
        ops: tuple[str, ...],
        nth: int | None,
        number: int,
    ) -> tuple[int, int]:
        path = datastore.renew(prepare)
        # The first run counts the operations: its rule never hits.
        trigger = {"nth": nth} if nth is not None else {"after": 1 << 40}
        raised: BaseException | None = None
        with datastore.fault(list(ops), number or errno.EIO, **trigger) as rule:
            try:
                work(path)
            except Exception as error:
                if nth is None:
                    raise
                raised = error
        try:
            check(path, raised)
        except AssertionError as error:
            failed = ", ".join(f"{row['op']} {row['path']}" for row in datastore.ledger.query(rule=rule.id))
            what = (
                f"with {failed} (number {nth}) failing with {errno.errorcode.get(number, number)}"
                if nth
                else "without a fault"
            )
            raise AssertionError(f"{what}: {error}") from error
        return rule.matches, rule.hits


class Crashes(int):
    """The number of crashes. *states* is the number of possible states of the disk at all crashes, unless *exact* an
    upper bound.
    """

    states: int
    exact: bool

    def __str__(self) -> str:
        return (
            f"{int(self):,} crashes, into {int(self):,} of {format_amount(self.states, self.exact)} states of the disk"
        )


class CrashWalker(_Walker):
    """A walker that crashes before each change of a piece of code and after the last, into possible states of the disk.

    Each walk adds a line to *reports*.
    """

    def __init__(self, factory: Callable[..., SimulatedDatastore]) -> None:
        super().__init__(factory)
        self.reports: list[str] = []

    def __call__(
        self,
        work: Callable[[Path], Any],
        check: Callable[[Path], Any],
        *,
        prepare: Callable[[Path], Any] | None = None,
        names: str = "ordered",
        limit: int = 20,
        seed: int = 0,
        stride: int = 1,
    ) -> Crashes:
        """Run *work* for every crash: before its first change, its second one, ..., and after the last.

        Each crash leads into at most *limit* states. If there are more, the first ones are those with a later change
        but without an earlier one; *seed* chooses among the others. *check* gets the directory after the restart, and
        asserts what must hold after any crash. Returns the numbers of crashes and of possible states. With a *stride*,
        there is a crash only before every so many-th change.
        """
        crashes, possible, exact = 0, 0, True
        with self._datastore() as datastore:
            reached = True
            for point in itertools.count(1, stride):
                state = 0
                while True:
                    # A different seed at each point, because the unsynced changes of two neighbouring points are almost
                    # the same.
                    counted, reached = self._once(
                        datastore, work, check, prepare, names, point, state, limit, seed + point
                    )
                    state += 1
                    if state >= counted["listed"]:
                        break
                crashes += state
                possible += counted["states"]
                exact = exact and counted["exact"]
                if not reached:
                    break
        found = Crashes(crashes)
        found.states, found.exact = possible, exact
        self.reports.append(f"{found} (limit={limit}, seed={seed})")
        return found

    def _once(
        self,
        datastore: SimulatedDatastore,
        work: Callable[[Path], Any],
        check: Callable[[Path], Any],
        prepare: Callable[[Path], Any] | None,
        names: str,
        point: int,
        state: int,
        limit: int,
        seed: int,
    ) -> tuple[dict[str, Any], bool]:
        """Run *work* up to *point*, crash, check. Return the number of states, and True if *work* got to the point."""
        path = datastore.renew(prepare)
        datastore.set(crash_tracking=True)
        # From this change on the server is gone, so the earlier changes are those that may be on the disk.
        with datastore.fault("change", errno.EIO, after=point - 1) as gone:
            failed = None
            try:
                work(path)
            except Exception as error:
                failed = error
        if failed is not None and not gone.hits:
            raise failed
        counted = datastore.control.call("crash.count", names=names, limit=limit, seed=seed)
        if state >= counted["listed"]:
            raise AssertionError(
                f"before change {point} there were more than {state} states of the disk in the run before, and now "
                f"there are {counted['listed']}"
            )
        told = datastore.crash(state=state, names=names, seed=seed)
        try:
            check(path)
        except Exception as error:
            lost, torn = (", ".join(told[key]) or "nothing" for key in ("lost", "torn"))
            what = f"{error}" if isinstance(error, AssertionError) else repr(error)
            raise AssertionError(
                f"after a crash before change {point}, with {lost} lost and {torn} torn (state={state}, names={names}, "
                f"seed={seed}): {what}"
            ) from error
        return counted, gone.hits > 0


class KillWalker(_Walker):
    """A walker that kills a piece of code before each of its changes."""

    def __call__(
        self,
        work: Callable[[Path], Any],
        check: Callable[[Path], None],
        *,
        prepare: Callable[[Path], Any] | None = None,
        ops: tuple[str, ...] = WRITE_SIDE,
        deadline: float = 60,
        stride: int = 1,
    ) -> int:
        """Run *work* in a fork of this process for every kill: before its first change, its second one, ..., up to the
        last.

        While the change waits, the process group of *work* gets SIGKILL, and the change isn't executed. After the end
        of the group, *check* gets the directory, and asserts what must hold after a kill. The last run has no kill.
        Returns the number of kills. Raises :class:`SimulatedDatastoreError` if *work* neither ends nor makes a change
        for *deadline* seconds. With a *stride*, there is a kill only before every so many-th change.
        """
        with self._datastore() as datastore:
            for kills, point in enumerate(itertools.count(1, stride)):
                if not self._once(datastore, work, check, prepare, list(ops), point, deadline):
                    return kills
        raise AssertionError("unreachable")

    def _once(
        self,
        datastore: SimulatedDatastore,
        work: Callable[[Path], Any],
        check: Callable[[Path], None],
        prepare: Callable[[Path], Any] | None,
        ops: list[str],
        point: int,
        deadline: float,
    ) -> bool:
        """Run *work* up to *point*, kill and check. Return True if *work* got to the point."""
        path = datastore.renew(prepare)
        hang = FaultRule(datastore.control, datastore.control.call("rule.add", ops=ops, action="hang", after=point - 1))
        with datastore.fault(ops, errno.EIO, after=point - 1):
            process = _Process(lambda: work(path))
            try:
                killed = process.waits(datastore, deadline)
            finally:
                process.kill()
                # A process that waits in the kernel dies at the answer, which the other rule gives.
                hang.delete()
                status = process.wait()
        if not killed and status:
            raise AssertionError(f"the process ended with {status} without a kill, see its standard error")
        try:
            check(path)
        except AssertionError as error:
            raise AssertionError(
                f"after a kill before change {point}: {error}" if killed else f"without a kill: {error}"
            ) from error
        return killed


class _Process:
    """A fork of this process that runs *work* in a process group of its own.

    A keeper process in between collects the fork and all its orphans.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        reader, writer = os.pipe()
        self._keeper = os.fork()
        if not self._keeper:
            status = 1
            with suppress(BaseException):
                os.close(reader)
                status = _keep(work, writer)
            os._exit(status)
        os.close(writer)
        with open(reader, "rb") as pipe:
            self._group = int(pipe.read())
        self._ended = os.pidfd_open(self._keeper)

    def waits(self, datastore: SimulatedDatastore, deadline: float) -> bool:
        """Wait for a request of the process to wait in the datastore, and return True; False if the process ends
        before.
        """
        control = datastore.running.control()
        try:
            control.ask("wait_for", predicate={"parked": 1}, timeout=deadline)
            poll = select.poll()
            poll.register(control, select.POLLIN)
            poll.register(self._ended, select.POLLIN)
            ready = [descriptor for descriptor, _unused in poll.poll()]
            if control.fileno() in ready:
                control.answer()
            return control.fileno() in ready
        finally:
            control.close()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._group, signal.SIGKILL)

    def wait(self) -> int:
        """Wait until all processes are gone. Return the exit status of *work*, negative for a signal."""
        os.close(self._ended)
        return os.waitstatus_to_exitcode(os.waitpid(self._keeper, 0)[1])


def _keep(work: Callable[[], Any], told: int) -> int:
    """Start *work*, write its process group to *told*, and wait until the process and all orphans are gone.

    Returns the exit status; above 127 it is 128 plus a signal.
    """
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    worker = os.fork()
    if not worker:
        os.close(told)
        os._exit(_work(work))
    with suppress(ProcessLookupError, PermissionError):
        os.setpgid(worker, worker)
    os.write(told, b"%d" % worker)
    os.close(told)
    found = 1
    with suppress(ChildProcessError):
        while True:
            pid, status = os.wait()
            if pid == worker:
                found = os.waitstatus_to_exitcode(status)
    return found if found >= 0 else 128 - found


def _work(work: Callable[[], Any]) -> int:
    try:
        os.setpgid(0, 0)
        work()
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


__all__ = [
    "ERRNOS",
    "WRITE_SIDE",
    "CrashWalker",
    "Crashes",
    "FaultRule",
    "FaultWalker",
    "KillWalker",
    "LedgerView",
    "Reads",
    "SimulatedDatastore",
    "mount",
]
