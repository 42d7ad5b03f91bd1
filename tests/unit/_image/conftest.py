# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the tests of image files: separate file systems, and other tools' views of a file."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    """Return a directory of a file system with shared extents."""
    disk, point = tmp_path / "xfs.disk", tmp_path / "xfs"
    point.mkdir()
    subprocess.run(["truncate", "-s", "400M", str(disk)], check=True)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(disk)], check=True)
    subprocess.run(["mount", "-o", "loop", str(disk), str(point)], check=True)
    yield point
    subprocess.run(["umount", str(point)], check=True)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """Return a directory of a file system with 64 MiB, without shared extents."""
    point = tmp_path / "tmpfs"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tests", str(point)], check=True)
    yield point
    subprocess.run(["umount", str(point)], check=True)
