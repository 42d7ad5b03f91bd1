# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mount tables of virtiofsd 1.13. tests/integration/test_virtiofs_export.py has the real one."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._host.virtiofsd.submounts import unknown_submounts

HOST = """538 500 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
600 538 0:50 / /srv rw - xfs /dev/vdb rw
601 600 0:60 / /srv/x/early rw - tmpfs early rw
602 600 0:61 / /srv/x/late rw - tmpfs late rw
603 600 0:62 / /srv/xylophone rw - tmpfs other rw
"""
#: Mount table of the daemon. The shared directory is the root of the daemon's namespace.
DAEMON = """694 482 0:50 /x / rw,relatime master:2 - xfs /dev/vdb rw
695 694 0:60 / /early rw master:3 - tmpfs early rw
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    for process, command, table in (
        ("self", "python3", HOST),
        ("71", "virtiofsd", DAEMON),
        ("72", "virtiofsd", DAEMON),
        ("73", "bash", ""),
    ):
        (tmp_path / process).mkdir()
        (tmp_path / process / "comm").write_text(f"{command}\n")
        (tmp_path / process / "mountinfo").write_text(table)
    return tmp_path


def unknown(proc: Path, source: str = "/srv/x") -> list[str]:
    return [mount.mount_point for mount in unknown_submounts(source, str(proc))]


def test_a_mount_that_came_after_the_daemon(proc):
    assert unknown(proc) == ["/srv/x/late"]


def test_a_mount_that_the_daemon_got_from_the_host(proc):
    for process in ("71", "72"):
        (proc / process / "mountinfo").write_text(DAEMON + "696 694 0:61 / /late rw master:4 - tmpfs late rw\n")
    assert unknown(proc) == []


def test_another_file_system_at_the_place_that_the_daemon_knows(proc):
    (proc / "self/mountinfo").write_text(HOST.replace("0:60", "0:70"))
    assert unknown(proc) == ["/srv/x/early", "/srv/x/late"]


def test_a_directory_that_no_daemon_shares(proc):
    assert unknown(proc, "/srv") == unknown(proc, "/srv/xy") == []


def test_a_mount_that_is_hidden_itself(proc):
    (proc / "self/mountinfo").write_text(
        HOST + "604 600 0:63 / /srv/x/late rw - tmpfs over rw\n605 600 0:64 / /srv/x rw - tmpfs above rw\n"
    )
    assert unknown(proc) == []


def test_a_daemon_that_ends_meanwhile(proc):
    (proc / "74").mkdir()
    (proc / "74/comm").mkdir()
    assert unknown(proc) == ["/srv/x/late"]
