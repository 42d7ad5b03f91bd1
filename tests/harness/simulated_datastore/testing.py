# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""A datastore as a test sees it. The daemon is a process of its own: in the test's process it would wait for itself."""
from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import settings
from .client import Control, Running, start
from .profiles import choose
from .request import expand

#: What a fault walker injects unless told otherwise: what disks, servers and quotas answer.
ERRNOS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE)
#: What a fault walker makes fail: all that changes the file system or promises durability.
WRITE_SIDE = ("change",)


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
        """Every byte of the file was read exactly once. Exact on a *strict* mount; else the page cache may have answered before, or read ahead."""
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

    def path(self, client: str = "host1") -> Path:
        """The mount point of a client."""
        return self._mount_points[choose("client", client, list(self._mount_points))]

    def status(self) -> dict[str, Any]:
        return self.control.call("status")

    def set(self, **given: Any) -> None:
        """Change settings, as ``simulated-datastore set`` does: size, inodes, quotas, latency, read, write, state, crash_tracking, ..."""
        settings.apply(self.control, given)

    @contextmanager
    def fault(self, ops: str | list[str], error: int | str = errno.EIO, **rule: Any) -> Iterator[FaultRule]:
        """A rule for the time of a ``with`` block: ``with ds.fault("write", errno.EIO, path="*.qcow2", nth=3) as rule: ...``."""
        name = errno.errorcode[error] if isinstance(error, int) else error
        found = FaultRule(self.control, self.control.call("rule.add", ops=[ops] if isinstance(ops, str) else ops, error=name, **rule))
        try:
            yield found
        finally:
            found.delete()

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


def mount(name: str, root: Path, clients: dict[str, dict[str, Any]] | None = None, *, backing: Path | None = None, clock: str = "real",
          **given: Any) -> SimulatedDatastore:
    """A datastore below *root* that ends with this process; *clients* maps each one to the options of its mount, *given* are settings."""
    if backing is None:
        backing = root / "backing"
        backing.mkdir(parents=True)
    points = {client: root / "mounts" / client for client in clients or {"host1": {}}}
    for point in points.values():
        point.mkdir(parents=True)
    mounts = [{"client": client, "mount_point": str(points[client]), **options} for client, options in (clients or {"host1": {}}).items()]
    log = root / "datastore.log"
    datastore = SimulatedDatastore(start(name, backing, mounts, parent=os.getpid(), clock=clock, log=log), backing, points, log)
    try:
        datastore.set(**given)
    except BaseException:
        datastore.end()
        raise
    return datastore


class FaultWalker:
    """Makes each write-side operation of a piece of code fail once with each errno."""

    def __init__(self, factory: Callable[..., SimulatedDatastore]) -> None:
        self._factory = factory

    def __call__(self, work: Callable[[Path], Any], check: Callable[[Path, BaseException | None], None], *, prepare: Callable[[Path], Any] | None = None,
                 errnos: tuple[int, ...] = ERRNOS, ops: tuple[str, ...] = WRITE_SIDE) -> int:
        """Run *work* on a mount once without faults and count its operations; then anew for each operation and errno.

        *prepare* makes what must be there before. After each run *check* gets the directory and what *work* raised (None: nothing), and asserts what must hold
        whatever fails. Returns how many faults were injected. An operation that is no longer reached,
        as *work* took another way, ends the walk of its errno.
        """
        total = self._once(work, check, prepare, ops, None, 0)[0]
        injected = 0
        for number in errnos:
            for nth in range(1, total + 1):
                hits = self._once(work, check, prepare, ops, nth, number)[1]
                if not hits:
                    break
                injected += hits
        return injected

    def _once(self, work: Callable[[Path], Any], check: Callable[[Path, BaseException | None], None], prepare: Callable[[Path], Any] | None,
              ops: tuple[str, ...], nth: int | None, number: int) -> tuple[int, int]:
        datastore = self._factory()
        path = datastore.path()
        if prepare is not None:
            prepare(path)
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
            matches, hits = rule.matches, rule.hits
        try:
            check(path, raised)
        except AssertionError as error:
            failed = ", ".join(f"{row['op']} {row['path']}" for row in datastore.ledger.query(rule=rule.id))
            what = f"with {failed} (number {nth}) failing with {errno.errorcode.get(number, number)}" if nth else "without a fault"
            raise AssertionError(f"{what}: {error}") from error
        finally:
            datastore.end()
        return matches, hits


class CrashWalker:
    """Crashes before each change that a piece of code makes and after the last, into each state that the disk may be in then."""

    def __init__(self, factory: Callable[..., SimulatedDatastore]) -> None:
        self._factory = factory

    def __call__(self, work: Callable[[Path], Any], check: Callable[[Path], None], *, prepare: Callable[[Path], Any] | None = None, names: str = "ordered",
                 limit: int = 20) -> int:
        """Run *work* anew for every crash: before its first change, its second one, ..., and after the last; each time into at most *limit* states.

        *check* gets the directory as it is after the restart, and asserts what must hold after any crash. Returns how many crashes there were.
        """
        crashes = 0
        point = 1
        while True:
            state, reached = 0, True
            while True:
                found, reached = self._once(work, check, prepare, names, point, state)
                if not found:
                    break
                crashes += 1
                state += 1
                if state >= limit:
                    break
            if not reached:
                return crashes
            point += 1

    def _once(self, work: Callable[[Path], Any], check: Callable[[Path], None], prepare: Callable[[Path], Any] | None, names: str, point: int,
              state: int) -> tuple[bool, bool]:
        """Whether there is this *state*, and whether *work* got to this *point*."""
        datastore = self._factory()
        try:
            path = datastore.path()
            if prepare is not None:
                prepare(path)
            datastore.set(crash_tracking=True)
            # From this change on the server is gone: what was done up to there is what may be on the disk.
            gone = datastore.control.call("rule.add", ops=sorted(expand(["change"])), after=point - 1, error="EIO")
            reached = False
            try:
                work(path)
            except Exception:
                reached = FaultRule(datastore.control, gone).hits > 0
                if not reached:
                    raise
            reached = reached or FaultRule(datastore.control, gone).hits > 0
            datastore.control.call("rule.clear")
            states = datastore.control.call("crash.states", names=names, limit=state + 1)
            if state >= len(states):
                return False, reached
            datastore.crash(state=state, names=names)
            try:
                check(path)
            except AssertionError as error:
                lost = ", ".join(states[state]["lost"]) or "nothing"
                raise AssertionError(f"after a crash before change {point}, with {lost} lost and {states[state]['torn'] or 'nothing'} torn: {error}") from error
            return True, reached
        finally:
            datastore.end()


__all__ = ["ERRNOS", "WRITE_SIDE", "CrashWalker", "FaultRule", "FaultWalker", "LedgerView", "Reads", "SimulatedDatastore", "mount"]
