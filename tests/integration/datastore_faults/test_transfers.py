# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The actions of transfer drivers when a datastore of the front-end or of a host fails, on one host.

Each writing operation fails once. The process is killed before each one, and the power fails before each one.
Afterwards there is the old state or the new one, and a repeated action leads to the new state and removes all temporary
files. The tests of a run take samples; ``TRANSFER_STRIDE=1`` walks all steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import vm_transfers
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import VmstoreError
from simulated_datastore.testing import CrashWalker, FaultWalker, KillWalker
from vm_transfers import Action, Files

STRIDE = int(os.environ.get("TRANSFER_STRIDE", "17"))
ACTIONS = vm_transfers.actions("localhost", "localhost")


class Walk:
    """An action, and the numbers of the states after its runs."""

    def __init__(self, action: Action) -> None:
        self.action = action
        self.ends: dict[str, int] = {}
        self.before: Files = {}

    def prepare(self, mount: Path) -> None:
        self.action.prepare(mount)
        self.before = vm_transfers.files(mount)

    def work(self, mount: Path) -> None:
        vm_transfers.run(self.action, mount)

    def check(self, mount: Path) -> str:
        """Return the name of the state, and count it."""
        end = self.action.end(vm_transfers.files(mount))
        self.ends[end] = self.ends.get(end, 0) + 1
        return end

    def again(self, mount: Path) -> None:
        self.work(mount)
        self.action.require_done(vm_transfers.files(mount))


@pytest.fixture(params=ACTIONS)
def walk(request: pytest.FixtureRequest) -> Walk:
    return Walk(ACTIONS[request.param])


@pytest.fixture
def report(walk: Walk, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def print_counts(what: str) -> None:
        with capsys.disabled():
            print(f"\n{request.node.callspec.id}: {what}; {walk.ends}")

    return print_counts


def test_each_write_fails_once(walk: Walk, walk_faults: FaultWalker, report: Callable[[str], None]) -> None:
    def check(mount: Path, raised: BaseException | None) -> None:
        end = walk.check(mount)
        if raised is None:
            assert end == "new"
        else:
            assert isinstance(raised, VmstoreError), repr(raised)
        walk.again(mount)

    injected = walk_faults(walk.work, check, prepare=walk.prepare, stride=STRIDE)
    assert injected
    report(f"{injected} faults")


def test_a_kill_at_each_step(walk: Walk, walk_kills: KillWalker, report: Callable[[str], None]) -> None:
    def check(mount: Path) -> None:
        walk.check(mount)
        walk.again(mount)

    kills = walk_kills(walk.work, check, prepare=walk.prepare, stride=STRIDE)
    assert kills
    report(f"{kills} kills")


def test_a_crash_at_each_step(walk: Walk, walk_crashes: CrashWalker, report: Callable[[str], None]) -> None:
    def check(mount: Path) -> None:
        walk.check(mount)
        walk.again(mount)

    limit = 4 if STRIDE == 1 else 2
    crashes = walk_crashes(walk.work, check, prepare=walk.prepare, names="strict", limit=limit, stride=STRIDE)
    assert crashes
    report(f"{crashes} crashes")
