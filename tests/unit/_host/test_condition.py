# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The condition of real mounts of the simulated datastore, whose server works, hangs, is down or has lost the store."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.condition import (
    read_condition,
    read_conditions,
)

#: Timeout in seconds that a living server doesn't reach.
LONG = 60


def test_a_mount_that_works_has_its_capacity(datastore) -> None:
    datastore.set(size="10M")
    found = read_condition(str(datastore.path()), LONG)
    listed = subprocess.run(
        ["stat", "--file-system", "--format=%b %a %S", datastore.path()], capture_output=True, text=True, check=True
    )
    blocks, free, size = map(int, listed.stdout.split())
    assert (found.responds, found.is_ok) == (True, True)
    assert (found.total, found.free) == (blocks * size, free * size)


@pytest.mark.parametrize(
    ("state", "responds", "is_ok"),
    [
        ({"state": "hung"}, False, False),
        ({"state": "down"}, True, False),
        ({"state": "down", "error": "ETIMEDOUT"}, True, False),
        ({"state": "down", "error": "EACCES"}, True, True),
        ({"state": "read-only"}, True, True),
        ({"state": "up"}, True, True),
    ],
)
def test_the_states_of_a_server(state: dict[str, str], responds: bool, is_ok: bool, datastore) -> None:
    datastore.set(**state)
    found = read_condition(str(datastore.path()), LONG if responds else 0.5)
    assert (found.responds, found.is_ok) == (responds, is_ok)
    datastore.set(state="up")
    assert read_condition(str(datastore.path()), LONG).is_ok


def test_a_lost_store(datastore) -> None:
    with datastore.fault("statfs", errno.ESTALE):
        found = read_condition(str(datastore.path()), LONG)
    assert (found.responds, found.error, found.total) == (True, os.strerror(errno.ESTALE), None)


def test_twenty_that_hang_take_the_time_once(datastore_factory) -> None:
    datastore = datastore_factory({f"host{number}": {} for number in range(21)})
    datastore.set(state="hung")
    datastore.set(state="up", client="host20")
    paths = [str(datastore.path(f"host{number}")) for number in range(21)]
    start = time.monotonic()
    found = read_conditions(paths, 2)
    assert time.monotonic() - start < 20  # one by one they take 40 seconds
    assert list(found) == paths
    assert [one.responds for one in found.values()] == [False] * 20 + [True]
    datastore.set(state="up")


def test_a_path_that_is_no_mount(tmp_path: Path) -> None:
    assert read_condition(str(tmp_path), LONG).is_ok
    assert read_condition(str(tmp_path / "missing"), LONG).is_ok
    assert read_conditions([], LONG) == {}
