# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Real mounts over a directory of a tmpfs of their own."""
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "harness"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from simulated_datastore.client import Control, Running, start  # noqa: E402


class Mounted:
    """A datastore of a test: *path* is its mount, *backing* the directory beneath, *beside* a directory of the same file system."""

    def __init__(self, name: str, root: Path, mounts: list[dict[str, Any]] | None = None, **options: Any) -> None:
        self.backing = root / "backing"
        self.beside = root / "beside"
        self.path = root / "mount"
        for directory in (self.backing, self.beside, self.path):
            directory.mkdir()
        for mount in mounts or ():
            Path(mount.setdefault("mount_point", str(root / mount["client"]))).mkdir(exist_ok=True)
        self.running: Running = start(name, self.backing, mounts or [{"mount_point": str(self.path)}], parent=os.getpid(), **options)
        self.control: Control = self.running.control()

    def call(self, method: str, **params: Any) -> Any:
        return self.control.call(method, **params)

    def end(self) -> None:
        log = self.running.log.read_text(encoding="utf-8")
        self.control.close()
        self.running.end()
        assert " ERROR simulated_datastore" not in log, log


@pytest.fixture(scope="session")
def tmpfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.fail("The integration tests of the simulated datastore mount file systems: run them as root.")
    path = tmp_path_factory.mktemp("tmpfs")
    path.chmod(0o755)
    for parent in path.parents:
        # Tests that act as another user must get here.
        if parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o011)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4g", "tests", str(path)], check=True)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def mounted(tmpfs: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Mounted]]:
    """Makes datastores; they end with the test, and the test fails when one has logged an error."""
    made: list[Mounted] = []

    def make(mounts: list[dict[str, Any]] | None = None, **options: Any) -> Mounted:
        root = tmpfs / f"{abs(hash(request.node.nodeid)):x}-{len(made)}"
        root.mkdir()
        made.append(Mounted(f"test-{os.getpid()}-{len(made)}", root, mounts, **options))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture
def ds(mounted: Callable[..., Mounted]) -> Mounted:
    return mounted()
