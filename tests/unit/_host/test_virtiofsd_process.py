# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The search for a daemon of libvirt. tests/integration/test_virtiofs_daemon.py has real daemons."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._host.virtiofsd.process import (
    DomainSockets,
    find_sockets,
    lock_holder,
    pid_file_name,
)

#: Lines of /proc/net/unix, recorded beside libvirt 11.3: a domain with one daemon of two, a domain with a long name,
#: and a domain of a user's own libvirt.
TABLE = """Num       RefCount Protocol Flags    Type St Inode Path
0000000046a5c7ab: 00000003 00000000 00000000 0001 03 61803 /var/lib/libvirt/qemu/domain-1-hot/fs0-fs.sock
00000000a95cecf4: 00000002 00000000 00010000 0001 01 84975 /var/lib/libvirt/qemu/domain-1-hot/fs1-fs.sock
00000000fe41782a: 00000003 00000000 00000000 0001 03 85061 /var/lib/libvirt/qemu/domain-1-hot/monitor.sock
0000000065668cc6: 00000002 00000000 00010000 0001 01 13759 /var/lib/libvirt/qemu/domain-5-wütig & "sehr" /monitor.sock
0000000095b509d0: 00000003 00000000 00000000 0001 03 13598 /var/lib/libvirt/qemu/domain-5-wütig & "sehr" /ua-fs0-fs.sock
00000000c7f2d4f9: 00000003 00000000 00000000 0001 03 13840 /home/u/.config/libvirt/qemu/lib/domain-1-mine/fs1-fs.sock
00000000c7f2d4fa: 00000003 00000000 00000000 0001 03 13841
00000000c7f2d4fb: 00000003 00000000 00000000 0001 03 13842 @/tmp/domain-1-hot/fs1-fs.sock
"""


@pytest.mark.parametrize(
    ("domain_id", "name", "found"),
    [
        (1, "hot", DomainSockets("hot", frozenset({"fs0-fs.sock", "monitor.sock"}))),
        (1, "mine", DomainSockets("mine", frozenset({"fs1-fs.sock"}))),
        (5, 'wütig & "sehr" langer Name', DomainSockets('wütig & "sehr" ', frozenset({"ua-fs0-fs.sock"}))),
        (2, "hot", None),
        (1, "other", None),
        (11, "hot", None),
    ],
)
def test_the_sockets_of_a_domain(domain_id: int, name: str, found: DomainSockets | None) -> None:
    assert find_sockets(TABLE, domain_id, name) == found


def test_the_pid_file_is_called_as_libvirt_calls_it() -> None:
    assert pid_file_name(5, 'wütig & "sehr" lang ', "fs0") == "5-wütig &amp; &quot;sehr&quot; lang -fs0-fs.pid"
    assert pid_file_name(7, "it's <a>", "fs1") == "7-it&apos;s &lt;a&gt;-fs1-fs.pid"


def test_only_a_lock_proves_that_a_daemon_lives(tmp_path: Path) -> None:
    path = tmp_path / "1-hot-fs0-fs.pid"
    assert lock_holder(str(path)) is None
    path.write_text(str(os.getpid()))  # this process is alive, and no virtiofsd
    assert lock_holder(str(path)) is None
    script = (
        f"import fcntl, sys; file = open({str(path)!r}, 'r+'); fcntl.lockf(file, fcntl.LOCK_EX); print(flush=True); "
        "sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert lock_holder(str(path)) == process.pid
        (tmp_path / "link").symlink_to(path)
        assert lock_holder(str(tmp_path / "link")) is None
        os.chown(path, 1, 1)
        assert lock_holder(str(path)) is None
        os.chown(path, 0, 0)
        process.kill()
        process.wait()
    assert lock_holder(str(path)) is None
    os.mkfifo(tmp_path / "fifo")
    assert lock_holder(str(tmp_path / "fifo")) is None
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another kind of lock
        assert lock_holder(str(path)) is None
