# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Real mounts over a directory of a tmpfs of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from sd_mounted import Mounted  # noqa: E402
from simulated_datastore.system import mounts  # noqa: E402


@pytest.fixture(scope="session")
def tmpfs() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.fail("The integration tests of the simulated datastore mount file systems: run them as root.")
    for mount in mounts():
        # Of a session that was killed.
        if mount.source.startswith("tests-of-") and not Path("/proc", mount.source.removeprefix("tests-of-")).exists():
            subprocess.run(["umount", "--lazy", mount.path], check=True)
            os.rmdir(mount.path)
    # pytest closes its own directory to other users, and tests act as such.
    path = Path(tempfile.mkdtemp(prefix="simulated-datastore-tests-"))
    path.chmod(0o755)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4g,mode=755", f"tests-of-{os.getpid()}", str(path)], check=True)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)
    path.rmdir()


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
