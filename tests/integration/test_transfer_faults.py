# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Actions of transfer drivers between a front-end and real hosts, while the front-end, the host's program or ssh(1) is
killed, and while a datastore fails.

Front-end and hosts have one simulated datastore. The tests of a run take samples; ``TRANSFER_STRIDE=1`` walks all
steps.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import vm_transfers
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import VmstoreError
from simulated_datastore.testing import FaultWalker, SimulatedDatastore, mount
from vm_transfers import Action

STRIDE = int(os.environ.get("TRANSFER_STRIDE", "29"))
NAMES = ("clone, local", "mvds, ssh raw", "cpds, local", "mv, local", "premigrate, local", "postmigrate, ssh raw")
ACTIONS = vm_transfers.actions("h1", "h2")


class Kept:
    """The datastore of all tests of this file, which a :class:`FaultWalker` doesn't end."""

    def __init__(self, store: SimulatedDatastore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def end(self) -> None:
        """Keep the datastore."""


@pytest.fixture(scope="module")
def store() -> Iterator[SimulatedDatastore]:
    with tempfile.TemporaryDirectory(prefix="transfers-") as root:
        os.chmod(root, 0o755)
        found = mount(f"transfers-{os.getpid()}", Path(root))
        yield found
        found.end()


@pytest.fixture(scope="module")
def hosts(
    store: SimulatedDatastore, start_bridges: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """Run sshd(8), which sees the datastore."""
    with start_bridges(tmp_path_factory.mktemp("hosts") / "bridged") as found:
        yield found


class Walk:
    """An action between hosts, and the numbers of the states after its runs."""

    def __init__(self, action: Action) -> None:
        self.action = action
        self.ends: dict[str, int] = {}

    def work(self, mount: Path) -> None:
        vm_transfers.run(self.action, mount)

    def check(self, mount: Path, raised: BaseException | None) -> None:
        end = self.action.end(vm_transfers.files(mount))
        self.ends[end] = self.ends.get(end, 0) + 1
        if raised is None:
            assert end == "new"
        else:
            assert isinstance(raised, VmstoreError), repr(raised)
        self.work(mount)
        self.action.require_done(vm_transfers.files(mount))


@pytest.fixture(params=NAMES)
def walk(request: pytest.FixtureRequest, hosts: Any) -> Walk:
    return Walk(ACTIONS[request.param])


@pytest.fixture
def report(walk: Walk, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def print_counts(what: str) -> None:
        with capsys.disabled():
            print(f"\n{request.node.callspec.id}: {what}; {walk.ends}")

    return print_counts


def test_each_write_fails_once(walk: Walk, store: SimulatedDatastore, report: Callable[[str], None]) -> None:
    walker = FaultWalker(lambda: Kept(store))  # type: ignore[arg-type]
    errnos = (errno.EIO, errno.ENOSPC)
    injected = walker(walk.work, walk.check, prepare=walk.action.prepare, errnos=errnos, stride=STRIDE)
    assert injected
    report(f"{injected} faults")


def processes_of_host(hosts: Any) -> list[int]:
    """Return the ids of the python3 processes that run on a host: they have its environment."""
    return _processes(lambda path: f"HOME={hosts.root}/empty\0".encode() in (path / "environ").read_bytes(), "python3")


def processes_of_ssh(_hosts: Any) -> list[int]:
    """Return the ids of the front-end's ssh(1) processes."""
    return _processes(lambda path: int((path / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid(), "ssh")


def _processes(matches: Callable[[Path], bool], name: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (path / "comm").read_text() == f"{name}\n" and matches(path):
                found.append(int(path.name))
    return found


@pytest.mark.parametrize("victims", [processes_of_host, processes_of_ssh])
def test_a_process_is_killed_at_each_step(
    walk: Walk,
    store: SimulatedDatastore,
    hosts: Any,
    victims: Callable[[Any], list[int]],
    report: Callable[[str], None],
) -> None:
    """The killed process is the one of the host, or an ssh(1). The action goes on by a new connection, or fails."""
    kills = 0
    for step in itertools.count(1, STRIDE):
        path = store.renew(walk.action.prepare)
        raised, was_there, killed = run_until(store, partial(walk.work, path), step, partial(victims, hosts))
        wait_for_end(hosts)
        walk.check(path, raised)
        kills += bool(killed)
        if not was_there:
            break
    assert kills
    report(f"{kills} kills by {victims.__name__}")


class FrontEnd:
    """A process that runs an action."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self.processes: list[int] = []

    def run(self) -> None:
        """Run the action, and raise an error if the process is killed."""
        process = os.fork()
        if process == 0:
            with contextlib.suppress(BaseException):
                self._work()
                os._exit(0)
            os._exit(1)
        self.processes.append(process)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        self.processes.clear()
        if status == -signal.SIGKILL:
            raise VmstoreError("The process was killed.")
        assert status == 0


def test_the_front_end_is_killed_at_each_step(
    walk: Walk, store: SimulatedDatastore, hosts: Any, report: Callable[[str], None]
) -> None:
    """The program of the host ends by itself, and releases its locks."""
    kills = 0
    for step in itertools.count(1, STRIDE):
        path = store.renew(walk.action.prepare)
        front_end = FrontEnd(partial(walk.work, path))
        raised, was_there, killed = run_until(store, front_end.run, step, front_end.processes.copy)
        wait_for_end(hosts)
        walk.check(path, raised)
        kills += bool(killed)
        if not was_there:
            break
    assert kills
    report(f"{kills} kills of the front-end")


def run_until(
    store: SimulatedDatastore, work: Callable[[], object], step: int, victims: Callable[[], list[int]]
) -> tuple[BaseException | None, bool, list[int]]:
    """Run work, and kill processes while the change with the number ``step`` waits. Return the error of the work,
    whether there was such a change, and the killed processes.
    """
    errors: list[BaseException] = []
    reader, writer = os.pipe()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)
        finally:
            os.close(writer)

    rule = store.control.call("rule.add", ops=["change"], action="hang", nth=step)
    thread = threading.Thread(target=run)
    control = store.running.control()
    killed: list[int] = []
    try:
        control.ask("wait_for", predicate={"parked": 1}, timeout=60)
        thread.start()
        poll = select.poll()
        poll.register(control, select.POLLIN)
        poll.register(reader, select.POLLIN)
        is_parked = control.fileno() in [descriptor for descriptor, _event in poll.poll(60_000)]
        if is_parked:
            control.answer()
            killed = victims()
            for process in killed:
                os.kill(process, signal.SIGKILL)
        store.control.call("rule.del", id=rule["id"])
        thread.join(120)
        assert not thread.is_alive()
    finally:
        control.close()
        os.close(reader)
    return (errors[0] if errors else None), is_parked, killed


def wait_for_end(hosts: Any) -> None:
    """Wait until no process of an earlier connection runs on a host."""
    deadline = time.monotonic() + 30
    while any(processes_of_host(hosts)):
        assert time.monotonic() < deadline
        os.sched_yield()
