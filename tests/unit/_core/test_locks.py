# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import FileAccessFailed, LockTimeout
from ansible_collections.granary.vmstore.plugins.module_utils._core.locks import locked
from refusal import refused


def test_the_lock_excludes_another_program(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with locked(path):
        assert subprocess.run(["flock", "-n", path, "true"], check=False).returncode == 1
    assert subprocess.run(["flock", "-n", path, "true"], check=False).returncode == 0


@pytest.mark.parametrize("style", [fcntl.flock, fcntl.lockf])
def test_a_held_lock_is_an_error_at_the_deadline(tmp_path: Path, style) -> None:
    path = str(tmp_path / "lock")
    held, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with locked(path, style=style):
            os.write(tell, b"held")
            signal.pause()
    assert os.read(held, 4) == b"held"
    try:
        with (
            refused(LockTimeout, says=f"The lock {path} was not free within 0.1 seconds; another program holds it."),
            locked(path, deadline=0.1, style=style),
        ):
            pass
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    with locked(path, deadline=0, style=style):
        pass  # free after the end of its holder


def test_a_lock_file_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    with (
        refused(
            FileAccessFailed, says=f"Could not open the lock file {tmp_path}/none/lock: No such file or directory."
        ),
        locked(str(tmp_path / "none" / "lock")),
    ):
        pass


def test_a_link_makes_no_file_elsewhere(tmp_path: Path) -> None:
    (path := tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with (
        refused(FileAccessFailed, says=f"Could not open the lock file {path}: Too many levels of symbolic links."),
        locked(str(path)),
    ):
        pass
    assert not (tmp_path / "elsewhere").exists()
