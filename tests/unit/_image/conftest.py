# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the tests of image files: separate file systems, and other tools' views of a file."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def xfs_mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("xfs")
    disk, point = directory / "disk", directory / "mount"
    point.mkdir()
    subprocess.run(["truncate", "-s", "400M", str(disk)], check=True)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(disk)], check=True)
    subprocess.run(["mount", "-o", "loop", str(disk), str(point)], check=True)
    yield point
    subprocess.run(["umount", str(point)], check=True)


@pytest.fixture
def xfs(xfs_mount: Path) -> Iterator[Path]:
    """Yield an empty directory of a file system with shared extents. The path is the same in each test."""
    yield xfs_mount
    subprocess.run(["find", str(xfs_mount), "-mindepth", "1", "-delete"], check=True)


@pytest.fixture(scope="session")
def tmpfs_point(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tmpfs")


@pytest.fixture
def tmpfs(tmpfs_point: Path) -> Iterator[Path]:
    """Yield an empty file system of 64 MiB without shared extents. The path is the same in each test."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tests", str(tmpfs_point)], check=True)
    yield tmpfs_point
    subprocess.run(["umount", str(tmpfs_point)], check=True)
