# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""mount(8), umount(8) and fstab(5) with exported datastores, in a mount namespace with copies of /sbin and fstab."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HARNESS = Path(__file__).resolve().parents[3]


class Host:
    """A mount namespace of its own, without the machine's own helpers of NFS. *root* is a tmpfs with the mount point
    *mnt* and with *backing*; *up* has the changes in /sbin.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mnt = root / "mnt"
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(HARNESS),
            "SIMULATED_DATASTORE_RUNTIME": str(root / "run"),
            "LC_ALL": "C",
        }
        sbin = os.path.realpath("/sbin")
        setup = f"""set -e
            mount -t tmpfs none {root}
            mkdir {root}/up {root}/work {root}/run {root}/mnt {root}/other {root}/backing
            mount -t overlay overlay -o lowerdir={sbin},upperdir={root}/up,workdir={root}/work {sbin}
            rm -f {sbin}/mount.nfs* {sbin}/umount.nfs*
            : > {root}/fstab
            mount --bind {root}/fstab /etc/fstab
            echo ready
            read end"""
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--propagation=private", "sh", "-c", setup],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.enter = ["nsenter", f"--mount=/proc/{self._process.pid}/ns/mnt"]
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def __call__(self, *words: object, code: int = 0, deadline: float = 60) -> str:
        """Run a command in the namespace, and return its output."""
        done = subprocess.run(
            [*self.enter, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            timeout=deadline,
            env=self.environment,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def program(self, *words: object, code: int = 0) -> str:
        return self(sys.executable, "-m", "simulated_datastore", *words, code=code)

    def status(self) -> dict[str, Any]:
        return json.loads(self.program("status", "--json"))

    def findmnt(self, column: str) -> str:
        return self("findmnt", "-no", column, self.mnt).strip()

    def export(self, *words: str) -> None:
        self.program(
            "export",
            self.root / "backing",
            "nfs1:/images",
            "--name",
            "images",
            "--squash",
            "none",
            "--log",
            self.root / "log",
            *words,
        )

    def end(self) -> None:
        for name in self.status():
            self.program("umount", "-d", name)
        self._process.communicate("end\n")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    if shutil.which("nsenter") is None:
        pytest.fail("nsenter is missing: install util-linux.")
    host = Host(tmp_path)
    yield host
    host.end()


def test_a_role_mounts_as_it_is(host: Host) -> None:
    host.export()
    host.program("helpers", "install", "sim", "nfs")
    assert json.loads(host.program("helpers", "install", "--json", "nfs"))["changed"] == []
    host.program("set", "size=1M")
    host(
        "mount",
        "-t",
        "nfs",
        "-o",
        "vers=4.2,hard,timeo=600,retrans=2,_netdev,noatime,x-systemd.automount",
        "nfs1:/images",
        host.mnt,
    )
    assert host.findmnt("SOURCE,FSTYPE") == "nfs1:/images fuse.nfs4"
    assert "noatime" in host.findmnt("OPTIONS").split(",")
    assert "No space left" in host(
        "dd", "if=/dev/zero", f"of={host.mnt}/full", "bs=64k", "count=100", "conv=fsync", code=1
    )
    host("rm", f"{host.mnt}/full")
    assert "busy" in host("mount", "-t", "nfs", "nfs1:/images", host.mnt, code=32)
    host("mount", "-o", "remount,ro", host.mnt)
    assert "Read-only" in host("touch", f"{host.mnt}/file", code=1)
    host("mount", "-o", "remount,rw,nosuid", host.mnt)
    host("touch", f"{host.mnt}/file")
    assert "nosuid" in host.findmnt("OPTIONS").split(",")
    host("umount", host.mnt)
    # The datastore still runs, with its settings and files.
    assert host.status()["images"]["clients"] == {}
    host("sh", "-c", f"echo 'nfs1:/images {host.mnt} nfs rw,nfsvers=3,nofail,_netdev 0 0' >> /etc/fstab")
    host("mount", host.mnt)
    host("mount", "-a")
    assert host.findmnt("SOURCE,FSTYPE") == "nfs1:/images fuse.nfs"
    (client,) = host.status()["images"]["clients"].values()
    assert (client["profile"], client["source"], client["by_helper"]) == ("nfs3", "nfs1:/images", True)
    assert host("ls", host.mnt) == "file\n"
    host("mount", "-t", "sim", "nfs1:/images/", host.root / "other")
    assert set(host.status()["images"]["clients"]) == {"host1", "host1-2"}
    host("umount", host.root / "other")
    host.program("helpers", "remove")
    assert host("find", host.root / "up", "-mindepth", "1", "!", "-type", "c") == ""
    host("umount", host.mnt)
    host.program("unexport", "nfs1:/images")
    assert host.status() == {}


def test_what_is_refused(host: Host) -> None:
    host.export()
    host.program("helpers", "install", "nfs")
    assert "Failed to resolve server nfs2" in host("mount", "-t", "nfs", "nfs2:/images", host.mnt, code=32)
    assert "No such file" in host("mount", "-t", "nfs4", "nfs1:/other", host.mnt, code=32)
    assert "access denied by server" in host("mount", "-t", "nfs", "-o", "vers=3", "nfs1:/other", host.mnt, code=32)
    assert "incorrect mount option" in host(
        "mount", "-t", "nfs", "-o", "timeo=5,sfot", "nfs1:/images", host.mnt, code=32
    )
    assert "incorrect mount option" in host(
        "mount", "-t", "nfs", "-o", "soft,timeo=x", "nfs1:/images", host.mnt, code=32
    )
    assert "not supported" in host("mount", "-t", "nfs", "-o", "vers=5", "nfs1:/images", host.mnt, code=32)
    # The error is from mount(8) or from the helper.
    assert "does not exist" in host("mount", "-t", "nfs", "nfs1:/images", f"{host.root}/nothing", code=32)
    host("/sbin/mount.nfs", "nfs1:/images", host.mnt, "-f")
    host("/sbin/mount.nfs", "nfs1:/images", code=1)
    host("/sbin/mount.nfs", "nfs1:/images", host.mnt, "-N", "/proc/1/ns/mnt", code=1)
    host("findmnt", host.mnt, code=1)
    host("/sbin/mount.nfs", "nfs1:/images", host.mnt, "-sno", "rw,unheard-of")
    assert host.findmnt("SOURCE") == "nfs1:/images"


def test_a_dead_server(host: Host) -> None:
    host.export()
    host.program("helpers", "install", "nfs")
    host.program("set", "state=hung")
    assert "Connection timed out" in host("mount", "-t", "nfs", "-o", "retry=0", "nfs1:/images", host.mnt, code=32)
    host.program("set", "state=down")
    assert "Connection refused" in host("mount", "-t", "nfs", "-o", "retry=0", "nfs1:/images", host.mnt, code=32)
    # The mount in the background succeeds when the server is up.
    host("mount", "-t", "nfs", "-o", "bg", "nfs1:/images", host.mnt)
    host("findmnt", host.mnt, code=1)
    host.program("set", "state=up")
    deadline = time.monotonic() + 60
    while not host.status()["images"]["clients"]:
        assert time.monotonic() < deadline
    host("umount", host.mnt)
    # A soft mount gives up. A hard mount waits, and ends with the unmount.
    host("mount", "-t", "nfs", "-o", "soft,timeo=5,retrans=1", "nfs1:/images", host.mnt)
    host.program("set", "state=hung")
    assert "Input/output error" in host("stat", f"{host.mnt}/new", code=1)
    host("umount", "-l", host.mnt)
    host.program("set", "state=up")
    host("mount", "-t", "nfs", "nfs1:/images", host.mnt)
    host.program("set", "state=hung")
    hanging = subprocess.Popen([*host.enter, "stat", f"{host.mnt}/new"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not host.status()["images"]["parked"]:
        assert time.monotonic() < deadline
    host("umount", "-f", "-l", host.mnt)
    assert hanging.wait(60) == 1


def test_a_mount_doesnt_wait_for_a_datastore_that_has_ended(host: Host) -> None:
    host.export()
    host.program("helpers", "install", "nfs")
    host.program("set", "state=hung")
    waiting = subprocess.Popen(
        [*host.enter, "/sbin/mount.nfs", "nfs1:/images", str(host.mnt), "-o", "retry=1000"],
        stderr=subprocess.PIPE,
        text=True,
        env=host.environment,
    )
    host.program("umount", "-d", "images")
    # The mount may have succeeded already.
    assert waiting.communicate(timeout=60)[1].startswith(
        ("mount.nfs: Connection refused", "mount.nfs: Failed to resolve")
    )
    assert waiting.returncode == 32


def test_the_systems_own_helper_is_kept(host: Host) -> None:
    host("sh", "-c", "printf '#!/bin/sh\\necho the real one: ${0##*/} \"$@\"\\n' > /sbin/mount.nfs")
    host("sh", "-c", "chmod 755 /sbin/mount.nfs; ln -s mount.nfs /sbin/umount.nfs")
    # Character devices are the marks of removed files.
    look = f"find {host.root}/up ! -type c -printf '%f %M %l %s\\n' | sort; cat /sbin/mount.nfs"
    before = host("sh", "-c", look)
    host.export()
    assert "--replace keeps it" in host.program("helpers", "install", "nfs", code=1)
    assert host("sh", "-c", look) == before
    host.program("helpers", "install", "nfs", "--replace")
    host.program("helpers", "install", "nfs", "--replace")
    host("mount", "-t", "nfs", "nfs1:/images", host.mnt)
    assert host.findmnt("SOURCE") == "nfs1:/images"
    host("umount", host.mnt)
    # An unknown server is for the system's own helper.
    assert "the real one" in host("mount", "-t", "nfs", "-o", "vers=3", "elsewhere:/images", host.mnt)
    assert "the real one" in host("/sbin/umount.nfs", host.mnt)
    host.program("helpers", "remove")
    assert host("sh", "-c", look) == before
