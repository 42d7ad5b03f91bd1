# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The pytest fixtures ``datastore``, ``datastore_factory``, ``walk_faults``, ``walk_crashes`` and ``walk_kills``.

The fixtures need root and /dev/fuse. Every datastore ends with its test, even with hanging requests. The test fails if
a daemon has logged a bug.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .errors import SimulatedDatastoreError
from .testing import CrashWalker, FaultWalker, KillWalker, SimulatedDatastore, mount

#: The property of a test with the result of a walk.
_WALK = "walk_crashes"
_numbers = itertools.count(1)


@pytest.fixture
def datastore_factory() -> Iterator[Callable[..., SimulatedDatastore]]:
    """Return a function that creates datastores.

    Example: ``datastore_factory({"host1": {}, "host2": {"profile": "nfs3"}}, size="10M")``.
    """
    # pytest's own directory is closed to other users, and clients may have any user.
    root = Path(tempfile.mkdtemp(prefix="simulated-datastore-"))
    root.chmod(0o755)
    made: list[SimulatedDatastore] = []

    def make(clients: dict[str, dict[str, Any]] | None = None, **options: Any) -> SimulatedDatastore:
        number = next(_numbers)
        try:
            made.append(mount(f"pytest-{os.getpid()}-{number}", root / str(number), clients, **options))
        except SimulatedDatastoreError as error:
            pytest.fail(str(error), pytrace=False)
        return made[-1]

    yield make
    problems = []
    for datastore in made:
        try:
            datastore.end()
        except AssertionError as error:
            problems.append(str(error))
    shutil.rmtree(root, ignore_errors=True)
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


@pytest.fixture
def datastore(datastore_factory: Callable[..., SimulatedDatastore]) -> SimulatedDatastore:
    """Return a datastore with one client, ``host1``."""
    return datastore_factory()


@pytest.fixture
def walk_faults(datastore_factory: Callable[..., SimulatedDatastore]) -> FaultWalker:
    """Return a walker that makes each write-side operation of a piece of code fail once with each errno."""
    return FaultWalker(datastore_factory)


@pytest.fixture
def walk_crashes(
    datastore_factory: Callable[..., SimulatedDatastore], request: pytest.FixtureRequest
) -> Iterator[CrashWalker]:
    """Return a walker that crashes at each change of a piece of code, into possible states of the disk.

    The numbers of tried and of possible states are in the summary of the run, and in a property of the test in the
    JUnit file.
    """
    walker = CrashWalker(datastore_factory)
    yield walker
    request.node.user_properties += [(_WALK, report) for report in walker.reports]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print for each walk the numbers of tried and of possible states."""
    lines = [
        f"{report.nodeid}: {value}"
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "teardown"
        for key, value in report.user_properties
        if key == _WALK
    ]
    if lines:
        terminalreporter.section("walks of crashes")
        terminalreporter.write("".join(f"{line}\n" for line in lines))


@pytest.fixture
def walk_kills(datastore_factory: Callable[..., SimulatedDatastore]) -> KillWalker:
    """Return a walker that kills a piece of code before each of its changes."""
    return KillWalker(datastore_factory)


__all__ = ["datastore", "datastore_factory", "pytest_terminal_summary", "walk_crashes", "walk_faults", "walk_kills"]
