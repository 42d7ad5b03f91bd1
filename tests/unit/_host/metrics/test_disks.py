# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The open disks of all domains."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._host.metrics.disk import LONGEST, initial_disk
from ansible_collections.granary.vmstore.plugins.module_utils._host.metrics.disks import MetricsDisks
from ansible_collections.granary.vmstore.plugins.module_utils._model.metrics import RunningDomain, metrics_file
from metrics_reader import read_disk

FIRST, SECOND = (RunningDomain(f"00000000-0000-4000-8000-{number:012}", number) for number in (1, 2))


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def disks(tmp_path: Path, log: list[str]) -> MetricsDisks:
    """Return the disks of a directory with one file for each domain."""
    for domain in (FIRST, SECOND):
        path = Path(metrics_file(domain.uuid, str(tmp_path)))
        path.parent.mkdir()
        path.write_bytes(initial_disk())
    return MetricsDisks(str(tmp_path), log.append)


def read(directory: Path, domain: RunningDomain) -> bytes | None:
    return read_disk(metrics_file(domain.uuid, str(directory)))


def test_each_domain_has_its_document(disks: MetricsDisks, tmp_path: Path, log: list[str]) -> None:
    disks.keep([FIRST, SECOND])
    disks.update(FIRST, b"1")
    disks.update(SECOND, b"2")
    assert [read(tmp_path, one) for one in (FIRST, SECOND)] == [b"1", b"2"]
    disks.keep([SECOND])
    disks.update(FIRST, b"1 again")
    disks.update(SECOND, b"2 again")
    assert [read(tmp_path, one) for one in (FIRST, SECOND)] == [b"1", b"2 again"]
    before = len(os.listdir("/proc/self/fd"))
    disks.close()
    assert (len(os.listdir("/proc/self/fd")), log) == (before - 1, [])


def test_the_file_of_a_running_domain_stays_the_same(disks: MetricsDisks, tmp_path: Path) -> None:
    """QEMU has the older file open. The next start of the domain takes the new file."""
    path = Path(metrics_file(FIRST.uuid, str(tmp_path)))
    disks.keep([FIRST])
    path.rename(tmp_path / "older")
    path.write_bytes(initial_disk())
    disks.update(FIRST, b"1")
    assert (read(tmp_path, FIRST), read_disk(str(tmp_path / "older"))) == (b"<metrics></metrics>\n", b"1")
    again = RunningDomain(FIRST.uuid, FIRST.id + 1)
    disks.keep([again])
    disks.update(again, b"2")
    disks.close()
    assert (read(tmp_path, FIRST), read_disk(str(tmp_path / "older"))) == (b"2", b"1")


def test_a_disk_that_cant_be_used_is_logged_once(disks: MetricsDisks, tmp_path: Path, log: list[str]) -> None:
    Path(metrics_file(FIRST.uuid, str(tmp_path))).unlink()
    for _unused in range(3):
        disks.keep([FIRST, SECOND])
        disks.update(FIRST, b"1")
        disks.update(SECOND, b"x" * (LONGEST + 1))
    assert (len(log), FIRST.uuid in log[0], SECOND.uuid in log[1]) == (2, True, True)
    disks.close()
