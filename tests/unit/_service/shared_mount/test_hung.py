# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mounts of the simulated datastore whose server hangs, is down or has lost the store. Nothing hangs with them."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.deadline import run_with_deadline
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import Conflict, TimedOut
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.other_types import OtherType
from ansible_collections.granary.vmstore.plugins.module_utils._service.mount import shared_mount
from refusal import refused

from .conftest import DEFAULTS

Answer = TypeVar("Answer")

#: Seconds in which everything here ends. No test reaches them.
LONG = 100


class Mounted:
    """A mount of the simulated datastore, and an fstab beside."""

    def __init__(self, datastore, etc: Path) -> None:
        self.datastore = datastore
        self.point = datastore.path()
        self.etc = etc
        self.fstab = etc / "fstab"
        self.fstab.write_text("# fstab\n")

    def ended(self, function: Callable[[], Answer]) -> Answer:
        """Call ``function`` in another process, so that a test that hangs fails."""
        start = time.monotonic()
        try:
            return run_with_deadline(LONG, "The test", function)
        finally:
            assert time.monotonic() - start < LONG

    def run(self, *, dry: bool = False, **options: Any) -> list[str]:
        given = {
            **DEFAULTS,
            "fstype": "fuse.host1",
            "source": "simulated-datastore",
            "path": str(self.point),
            "timeout": 1,
        }

        def run() -> list[str]:
            service = shared_mount.build_shared_mount({**given, **options}, str(self.etc))
            return [action.name for action in (service.dry_run() if dry else service.converge()).actions]

        return self.ended(run)


@pytest.fixture
def mounted(datastore, tmp_path: Path) -> Iterator[Mounted]:
    yield Mounted(datastore, tmp_path)
    datastore.set(state="up")


def entry(mounted: Mounted, words: str = "_netdev,nofail") -> str:
    return f"simulated-datastore {mounted.point} fuse.host1 {words} 0 0\n"


def test_a_server_that_works(mounted) -> None:
    assert mounted.run(marker="create", timeout=60) == ["add fstab entry", "create marker"]
    assert mounted.run(marker="create", timeout=60) == []
    assert len((mounted.datastore.backing / ".granary-store").read_text()) == 37


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"options": ["noexec"]},
        {"source": "other", "remount": "unmount"},
        {"owner": "61001"},
        {"marker": "create"},
        {"verify": {"user": "games", "actions": ["create"]}},
        {"state": "unmounted"},
        {"state": "absent"},
        {"state": "absent", "source": None},
        {"boot": False},
    ],
)
def test_a_server_that_hangs_is_an_error_in_time(options, dry, mounted) -> None:
    mounted.datastore.set(state="hung")
    with refused(TimedOut, names=[str(mounted.point)]):
        mounted.run(dry=dry, **options)
    assert mounted.fstab.read_text() == "# fstab\n"


def test_present_needs_no_server(mounted) -> None:
    mounted.datastore.set(state="hung")
    assert mounted.run(state="present") == ["add fstab entry"]
    assert mounted.run(state="present") == []
    assert mounted.run(state="present", nofail=False) == ["replace fstab entry"]
    assert mounted.fstab.read_text() == f"# fstab\n{entry(mounted, '_netdev')}"


def test_a_server_that_hangs_and_comes_back(mounted) -> None:
    mounted.datastore.set(state="hung")
    with pytest.raises(TimedOut):
        mounted.run(mode="0700")
    mounted.datastore.set(state="up")
    assert mounted.run(mode="0700", timeout=60) == ["add fstab entry", "change root directory"]
    assert oct(mounted.datastore.backing.stat().st_mode & 0o7777) == "0o700"


@pytest.mark.parametrize("error", ["ESTALE", "ENOTCONN", "EIO", "EHOSTDOWN"])
def test_a_dead_mount_is_replaced_only_where_that_is_allowed(error, mounted) -> None:
    with mounted.datastore.fault("statfs", error):
        for remount in ("never", "live"):
            with refused(Conflict, names=["remount=unmount"]):
                mounted.run(remount=remount, timeout=60)
        assert mounted.run(remount="unmount", dry=True, timeout=60)[1:] == ["unmount", "mount"]
        assert mounted.run(state="absent", dry=True, timeout=60) == ["unmount"]


def test_a_hung_mount_is_detached_only_where_that_is_asked_for(mounted, namespace) -> None:
    """The mount is detached in another mount namespace only."""
    mounted.datastore.set(state="hung")
    code = """
mine = {"fstype": "fuse.host1", "source": "simulated-datastore", "timeout": 2}
told += [run(state="absent", **mine)[0], len(live())]
told += [run(state="absent", lazy=True, dry=True, **mine), len(live())]
told += [run(lazy=True, **mine)[0], len(live())]
told += [run(state="absent", lazy=True, **{**mine, "timeout": 5}), len(live())]
told += [run(state="absent", lazy=True, **mine)]
"""
    assert namespace(code, mounted.point) == [
        *("TimedOut", 1),
        *(["detach"], 1),
        *("Conflict", 1),
        *(["detach"], 0),
        [],
    ]


def test_a_mount_point_in_a_directory_that_hangs(mounted) -> None:
    mounted.datastore.set(state="hung")
    for path in ("new", "new/deeper"):
        for state in ("mounted", "present", "absent"):
            with pytest.raises(TimedOut):
                mounted.run(path=str(mounted.point / path), state=state)
    assert mounted.fstab.read_text() == "# fstab\n"


def wait_until_it_hangs(path: Path) -> None:
    """Wait until the kernel has no attributes of a directory in its cache any more."""
    end = time.monotonic() + LONG
    with contextlib.suppress(TimedOut):
        while time.monotonic() < end:
            run_with_deadline(0.5, "The look", functools.partial(os.lstat, path))
        pytest.fail("the mount doesn't hang")


def test_a_mount_on_a_mount_that_hangs(datastore_factory, tmp_path, monkeypatch) -> None:
    """The table of mounts has the mount point, so only its parent directory hangs."""
    monkeypatch.setattr(shared_mount, "file_system_type", lambda option, name: OtherType(name))
    mounted = Mounted(datastore_factory({"host1": {"profile": "nfs4.2", "squash": "none"}}), tmp_path)
    inner = mounted.point / "inner"
    inner.mkdir()
    mine = {"path": str(inner), "fstype": "tmpfs", "source": "one"}
    subprocess.run(["mount", "-t", "tmpfs", "one", inner], check=True)
    try:
        mounted.datastore.set(state="hung")
        wait_until_it_hangs(mounted.point)
        for options in ({}, {"state": "present"}, {"state": "absent"}, {"state": "absent", "lazy": True}):
            with pytest.raises(TimedOut):
                mounted.run(**mine, **options)
        assert mounted.fstab.read_text() == "# fstab\n"
    finally:
        mounted.datastore.set(state="up")
        subprocess.run(["umount", inner], check=True)


def test_no_process_is_left_that_a_living_server_would_not_release(mounted) -> None:
    mounted.datastore.set(state="hung")
    before = set(os.listdir("/proc"))
    with pytest.raises(TimedOut):
        mounted.run()
    mounted.datastore.set(state="up")
    end = time.monotonic() + LONG
    while left := [one for one in children_of(os.getpid()) if one not in before]:
        assert time.monotonic() < end, left


def children_of(process: int) -> list[str]:
    done = subprocess.run(
        ["ps", "--ppid", str(process), "-o", "pid=,stat=,comm="], capture_output=True, text=True, check=False
    )
    return [
        line.split()[0] for line in done.stdout.splitlines() if line.split()[2] != "ps" and line.split()[1][0] == "D"
    ]
