# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import LockTimeout
from ansible_collections.granary.vmstore.plugins.module_utils._host.ids.shadow_lock import shadow_lock
from refusal import refused


def test_usermod_cannot_write_while_we_hold_the_lock(shadow_files: Path) -> None:
    """``usermod --prefix`` takes the lock file of subuid, which is the part of the protocol without the
    system's /etc.
    """
    usermod = ["usermod", "--prefix", str(shadow_files.parent), "--add-subuids", "200000-200009", "alice"]
    with shadow_lock(str(shadow_files / "subuid"), str(shadow_files / "subgid")):
        failed = subprocess.run(usermod, capture_output=True, text=True, check=False)
    assert failed.returncode != 0
    assert "cannot lock" in failed.stderr
    subprocess.run(usermod, check=True)
    assert (shadow_files / "subuid").read_text() == "alice:200000:10\n"


def test_we_wait_for_a_lock_of_a_living_process_and_then_give_up(tmp_path: Path) -> None:
    (tmp_path / "subuid.lock").write_bytes(b"%d\0" % os.getpid())
    with refused(LockTimeout, names=[tmp_path / "subuid.lock"]), shadow_lock(str(tmp_path / "subuid"), deadline=0.1):
        pass
    assert sorted(os.listdir(tmp_path)) == [".pwd.lock", "subuid.lock"]


def test_the_lock_of_a_process_that_is_gone_is_taken_over(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / "subuid.lock").write_bytes(b"%d\0" % gone.pid)
    with shadow_lock(str(tmp_path / "subuid"), deadline=1):
        assert (tmp_path / "subuid.lock").read_bytes() == b"%d\0" % os.getpid()
    assert os.listdir(tmp_path) == [".pwd.lock"]


@pytest.mark.parametrize("content", [b"", b"editor\n", b"0\0"])
def test_a_lock_that_is_not_the_shadow_suites_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "subuid.lock").write_bytes(content)
    with contextlib.suppress(LockTimeout), shadow_lock(str(tmp_path / "subuid"), deadline=0.1):
        pytest.fail("the lock was taken")
    assert (tmp_path / "subuid.lock").read_bytes() == content


def test_locks_are_free_after_an_error(tmp_path: Path) -> None:
    with contextlib.suppress(RuntimeError), shadow_lock(str(tmp_path / "subuid"), str(tmp_path / "subgid")):
        raise RuntimeError
    assert os.listdir(tmp_path) == [".pwd.lock"]


def test_lckpwdf_waits(tmp_path):
    """lckpwdf(3) takes a record lock, which is independent of flock(2)."""
    code = "import fcntl, sys\nfcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    argv = [sys.executable, "-c", code, str(tmp_path / ".pwd.lock")]
    with shadow_lock(str(tmp_path / "subuid")):
        assert "BlockingIOError" in subprocess.run(argv, capture_output=True, text=True, check=False).stderr
    assert subprocess.run(argv, check=False).returncode == 0
