# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The actions of transfer drivers when a datastore of the front-end or of a host fails, on one host.

Each writing operation fails once. The process is killed before each one, and the power fails before each one.
Afterwards there is the old state or the new one, and a repeated action leads to the new state and removes all temporary
files. The tests of a run take samples; ``TRANSFER_STRIDE=1`` walks all steps.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import vm_transfers
from ansible_collections.granary.vmstore.plugins.module_utils._core.deadline import run_with_deadline
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import VmstoreError
from simulated_datastore.testing import CrashWalker, FaultWalker, KillWalker, SimulatedDatastore
from vm_transfers import Action, Files

STRIDE = int(os.environ.get("TRANSFER_STRIDE", "41"))
ACTIONS = vm_transfers.actions("localhost", "localhost")

#: uid and gid of a user without rights of root.
SERVICE_USER = 999


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

    # Each of the four errors fails other steps.
    stride = STRIDE if STRIDE == 1 else 4 * STRIDE
    injected = walk_faults(walk.work, check, prepare=walk.prepare, stride=stride)
    assert injected
    report(f"{injected} faults")


@pytest.mark.parametrize("name", ["clone, ssh raw", "clone, local", "mv, ssh raw", "mv, local"])
def test_each_write_of_a_service_user_fails_once(name: str, walk_faults: FaultWalker) -> None:
    walk = Walk(ACTIONS[name])

    def prepare(mount: Path) -> None:
        walk.prepare(mount)
        for path in (mount, *mount.rglob("*")):
            os.lchown(path, SERVICE_USER, SERVICE_USER)

    def work(mount: Path) -> None:
        def run() -> None:
            os.setgroups([])
            os.setgid(SERVICE_USER)
            os.setuid(SERVICE_USER)
            walk.work(mount)

        run_with_deadline(120, f"The action {name}", run)

    def check(mount: Path, raised: BaseException | None) -> None:
        end = walk.check(mount)
        assert end == "new" if raised is None else isinstance(raised, VmstoreError), repr(raised)
        work(mount)
        walk.action.require_done(vm_transfers.files(mount))
        assert {path.lstat().st_uid for path in mount.rglob("*")} == {SERVICE_USER}

    assert walk_faults(work, check, prepare=prepare, stride=STRIDE if STRIDE == 1 else 4 * STRIDE)


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

    limit = 4 if STRIDE == 1 else 1
    crashes = walk_crashes(walk.work, check, prepare=walk.prepare, names="strict", limit=limit, stride=STRIDE)
    assert crashes
    report(f"{crashes} crashes")


def test_a_finished_action_is_durable(walk: Walk, datastore_factory: Callable[..., SimulatedDatastore]) -> None:
    datastore = datastore_factory()
    mount = datastore.renew(walk.prepare)
    datastore.set(crash_tracking=True)
    walk.work(mount)
    datastore.crash(state=0, names="strict")  # without any unsynced change
    assert walk.check(mount) == "new"


@pytest.mark.parametrize("name", ["clone, ssh raw", "clone, local", "resize, local"])
@pytest.mark.parametrize("path", ["*/.disks.lock", "*.part/lock", "*.part/data/disk.0*", "*/disk.0*"])
def test_an_error_of_close_is_no_failure(name: str, path: str, datastore: SimulatedDatastore) -> None:
    walk = Walk(ACTIONS[name])
    mount = datastore.renew(walk.prepare)
    with datastore.fault("close", errno.ENOSPC, path=path), contextlib.suppress(VmstoreError):
        walk.work(mount)
    walk.again(mount)


@pytest.mark.parametrize("name", ["mvds, ssh raw", "mv, ssh raw"])
def test_a_repeated_action_removes_what_a_killed_one_has_left(name: str, tmp_path: Path) -> None:
    walk = Walk(ACTIONS[name])
    walk.prepare(tmp_path)
    walk.work(tmp_path)
    if name.startswith("mvds"):
        (tmp_path / "host/0/5/disk.0.snap").mkdir()
        (tmp_path / "host/0/5/disk.0.snap/0").touch()
        (tmp_path / f"frontend/1/.{'a' * 32}.part").mkdir(0o700)
        (tmp_path / f"frontend/1/.{'a' * 32}.part/lock").touch(0o600)
    else:
        (tmp_path / "host/0/.5.removed").mkdir()
        (tmp_path / "host/0/.5.removed/disk.0").touch()
    walk.again(tmp_path)
