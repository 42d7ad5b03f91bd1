# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""A datastore as a test sees it. The daemon is a process of its own: in the test's process it would wait for itself."""

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
from .values import amount

#: What a fault walker injects unless told otherwise: what disks, servers and quotas answer.
ERRNOS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE)
#: What a fault walker makes fail: all that changes the file system or promises durability.
WRITE_SIDE = ("change",)

#: prctl(2).
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


class FaultRule:
    """A rule in force: *hits* proves that the fault was injected."""

    def __init__(self, control: Control, status: dict[str, Any]) -> None:
        self._control = control
        self.id: str = status["id"]
        self._last = status

    @property
    def hits(self) -> int:
        return self._status()["hits"]

    @property
    def matches(self) -> int:
        """How many requests it was about, whether its trigger held or not."""
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
        """Every byte of the file was read exactly once.

        Exact on a *strict* mount; else the page cache may have answered before, or read ahead.
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
        """The file was not read at all."""
        if self.rows:
            raise AssertionError(f"{self.path}: {self.bytes} bytes were read in {len(self.rows)} requests")


class LedgerView:
    """The ledger of a datastore, with questions that tests ask."""

    def __init__(self, datastore: SimulatedDatastore) -> None:
        self._datastore = datastore

    def query(self, **criteria: Any) -> list[dict[str, Any]]:
        """The entries that match op, path, client, rule, error, since and limit."""
        return self._datastore.control.call("ledger.query", **criteria)

    def summary(self, **criteria: Any) -> list[dict[str, Any]]:
        return self._datastore.control.call("ledger.summary", **criteria)

    def mark(self, name: str) -> None:
        self._datastore.control.call("ledger.mark", name=name)

    def read(self, path: str, **criteria: Any) -> Reads:
        """The reads of the file *path*, which is below the mount point."""
        size = os.stat(self._datastore.backing / path.lstrip("/")).st_size
        # A glob that is a literal.
        literal = "/" + "".join(f"[{character}]" if character in "*?[" else character for character in path.lstrip("/"))
        return Reads(self.query(op="read", path=literal, **criteria), path, size)


class SimulatedDatastore:
    """One datastore with its clients. *backing* is the backing directory."""

    def __init__(self, running: Running, backing: Path, mount_points: dict[str, Path], log: Path) -> None:
        self.running = running
        self.backing = backing
        self.log = log
        self.control = running.control()
        self.ledger = LedgerView(self)
        self._mount_points = mount_points
        self._root = os.stat(backing)

    def path(self, client: str = "host1") -> Path:
        """The mount point of a client."""
        return self._mount_points[choose("client", client, list(self._mount_points))]

    def status(self) -> dict[str, Any]:
        return self.control.call("status")

    def set(self, **given: Any) -> None:
        """Change settings, as ``simulated-datastore set`` does: size, inodes, quotas, latency, read, write, state,
        crash_tracking, ...
        """
        settings.apply(self.control, given)

    @contextmanager
    def fault(self, ops: str | list[str], error: int | str = errno.EIO, **rule: Any) -> Iterator[FaultRule]:
        """A rule for the time of a ``with`` block: ``with ds.fault("write", errno.EIO, path="*.qcow2", nth=3) as rule:
        ...``.
        """
        name = errno.errorcode[error] if isinstance(error, int) else error
        found = FaultRule(
            self.control, self.control.call("rule.add", ops=[ops] if isinstance(ops, str) else ops, error=name, **rule)
        )
        try:
            yield found
        finally:
            found.delete()

    def renew(self, prepare: Callable[[Path], Any] | None = None) -> Path:
        """Be as it was at the beginning, but for settings: no rules, no crash tracking, and nothing there but what
        *prepare* makes. The first mount point.
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
        """Crash and come up again, having lost what *keep*, *names*, *seed*, *count* or *state* say."""
        return self.control.call("crash", restart=True, **parameters)

    def wait_for(self, timeout: float = 10, **predicate: Any) -> None:
        self.control.call("wait_for", predicate=predicate, timeout=timeout, deadline=timeout + 30)

    def end(self) -> None:
        """Unmount. Raises :class:`AssertionError` when the daemon has logged a bug."""
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
    """A datastore below *root* that ends with this process; *clients* maps each one to the options of its mount,
    *given* are settings.
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
    """Runs a piece of code again and again, each time as if the datastore were new: it is the same one, as to start a
    daemon takes longer than most runs.
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
    """Makes each write-side operation of a piece of code fail once with each errno."""

    def __call__(
        self,
        work: Callable[[Path], Any],
        check: Callable[[Path, BaseException | None], None],
        *,
        prepare: Callable[[Path], Any] | None = None,
        errnos: tuple[int, ...] = ERRNOS,
        ops: tuple[str, ...] = WRITE_SIDE,
    ) -> int:
        """Run *work* on a mount once without faults and count its operations; then anew for each operation and errno.

        *prepare* makes what must be there before. After each run *check* gets the directory and what *work* raised
        (None: nothing), and asserts what must hold whatever fails. Returns how many faults were injected. An operation
        that is no longer reached, as *work* took another way, ends the walk of its errno.
        """
        with self._datastore() as datastore:
            total = self._once(datastore, work, check, prepare, ops, None, 0)[0]
            injected = 0
            for number in errnos:
                for nth in range(1, total + 1):
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
        # The first run counts: its rule never hits.
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
    """How many crashes there were. *states* is how many states the disk could be in at all those moments; if not
    *exact*, at most so many.
    """

    states: int
    exact: bool

    def __str__(self) -> str:
        return f"{int(self):,} crashes, into {int(self):,} of {amount(self.states, self.exact)} states of the disk"


class CrashWalker(_Walker):
    """Crashes before each change that a piece of code makes and after the last, into states that the disk may be in
    then. Each walk adds a line to
    *reports*."""

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
    ) -> Crashes:
        """Run *work* anew for every crash: before its first change, its second one, ..., and after the last; each time
        into at most *limit* states. Where there are more, those come first in which something is there without what was
        before it; *seed* chooses a part of the others.

        *check* gets the directory as it is after the restart, and asserts what must hold after any crash. Returns how
        many crashes there were, and of how many.
        """
        crashes, possible, exact = 0, 0, True
        with self._datastore() as datastore:
            reached = True
            for point in itertools.count(1):
                state = 0
                while True:
                    # Another seed at each point: what is unsynced at one is, but for a change, what was at the point
                    # before.
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
        """How many states there are, and whether *work* got to this *point*."""
        path = datastore.renew(prepare)
        datastore.set(crash_tracking=True)
        # From this change on the server is gone: what was done up to there is what may be on the disk.
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
    """Kills a piece of code before each change that it makes."""

    def __call__(
        self,
        work: Callable[[Path], Any],
        check: Callable[[Path], None],
        *,
        prepare: Callable[[Path], Any] | None = None,
        ops: tuple[str, ...] = WRITE_SIDE,
        deadline: float = 60,
    ) -> int:
        """Run *work* anew in a process of its own, a fork of this one, for every kill: before its first change, its
        second one, ..., until there is no more.

        While the change waits, the process gets SIGKILL, and so do those that it has started, in its process group; the
        change isn't made. When they are gone
        *check* gets the directory, and asserts what must hold whenever the process ends; at last after a run that
        nobody killed. Returns how many kills there were. Raises :class:`SimulatedDatastoreError` when *work* neither
        ends nor makes a change for *deadline* seconds.
        """
        with self._datastore() as datastore:
            for point in itertools.count(1):
                if not self._once(datastore, work, check, prepare, list(ops), point, deadline):
                    return point - 1
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
        """Whether *work* got to this *point*."""
        path = datastore.renew(prepare)
        hang = FaultRule(datastore.control, datastore.control.call("rule.add", ops=ops, action="hang", after=point - 1))
        with datastore.fault(ops, errno.EIO, after=point - 1):
            process = _Process(lambda: work(path))
            try:
                killed = process.waits(datastore, deadline)
            finally:
                process.kill()
                # Who waits in the kernel dies when it is answered: by the other rule.
                hang.delete()
                status = process.wait()
        if not killed and status:
            raise AssertionError(
                f"the process ended with {status} though nobody killed it, its standard error may tell why"
            )
        try:
            check(path)
        except AssertionError as error:
            raise AssertionError(
                f"after a kill before change {point}: {error}" if killed else f"without a kill: {error}"
            ) from error
        return killed


class _Process:
    """A fork of this process that does *work* in a process group of its own.

    Another one, between them, collects it and all that it leaves behind.
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
        """Wait until it waits for the datastore, or has ended, which is False."""
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
        """Wait until all are gone; the exit status of the one that worked, negative for a signal."""
        os.close(self._ended)
        return os.waitstatus_to_exitcode(os.waitpid(self._keeper, 0)[1])


def _keep(work: Callable[[], Any], told: int) -> int:
    """Start *work* and tell its process group; wait until that, and all whose parent has ended, are gone.

    Its exit status, at most 127: others are signals.
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
