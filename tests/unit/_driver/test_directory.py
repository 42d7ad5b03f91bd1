# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.command import Completed
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import CommandFailed, NotFound
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.base import Capacity
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.directory import read_capacity
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.fs import FsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from refusal import refused


def test_blocks_free_to_users_are_what_is_free() -> None:
    # Size 1000 MiB in blocks of 4 KiB, 400 MiB free, 350 MiB available to users.
    assert read_capacity("/ds", Completed(0, "4096 256000 102400 89600\n", "")) == Capacity(
        used_mb=600, free_mb=350, total_mb=1000
    )


def test_a_directory_that_is_missing_is_told_apart() -> None:
    with refused(
        NotFound,
        says="The capacity of /ds could not be read: stat: cannot read file system information for "
        "'/ds': No such file or directory",
    ):
        read_capacity(
            "/ds", Completed(1, "", "stat: cannot read file system information for '/ds': No such file or directory")
        )


@pytest.mark.parametrize(
    "completed",
    [
        Completed(1, "", "stat: cannot read file system information for '/ds': Stale file handle"),
        Completed(0, "4096 1\n", ""),
    ],
)
def test_anything_else_is_an_error(completed: Completed) -> None:
    with refused(CommandFailed, says="The capacity of /ds could not be read: *"):
        read_capacity("/ds", completed)


MONITOR = """
import json, sys, time
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.fs import FsDriver
try:
    FsDriver(Datastore(1, "default", "image", "fs", "local", sys.argv[1]), timeout=0.5).monitor()
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


def test_a_dead_file_server_keeps_no_one_waiting(tmp_path: Path) -> None:
    hung = Path(__file__).parents[2] / "hung_mount.py"
    done = subprocess.run(
        [sys.executable, hung, tmp_path, "fuse", sys.executable, "-c", MONITOR, tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [
        "TimedOut",
        "The command 'stat' did not end within 0.5 seconds and was stopped.",
    ]


def test_a_new_datastore_is_open_to_others_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        FsDriver(Datastore(1, "default", "image", "fs", "local", str(tmp_path / "1"))).mkfs(1, "raw", None)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "1").stat().st_mode) == 0o755


def test_what_root_makes_is_the_service_users(tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 1235)
    driver = FsDriver(Datastore(1, "default", "image", "fs", "local", str(tmp_path / "1")))
    image = driver.mkfs(1, "raw", None)
    for _time in range(2):
        driver.prepare()
    for path in (tmp_path / "1", Path(image)):
        found = path.stat()
        assert (found.st_uid, found.st_gid) == (1234, 1235)
    assert (oct((tmp_path / "1").stat().st_mode), oct(Path(image).stat().st_mode)) == ("0o40755", "0o100640")
