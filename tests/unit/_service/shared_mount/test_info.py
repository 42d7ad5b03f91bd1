# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module shared_mount_info: recorded tables of mounts, and real mounts of the simulated datastore."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput, LibvirtFailed
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices import disk_files
from ansible_collections.granary.vmstore.plugins.module_utils._service.mount import shared_mount_info as module
from ansible_collections.granary.vmstore.plugins.module_utils._service.mount.shared_mount_info import shared_mount_info
from refusal import refused

from .conftest import SUPER

MARKER = "0d0a3a9c-40a4-4c80-a35c-fd3b5b5b1c2e"


@pytest.fixture(autouse=True)
def no_libvirt(monkeypatch) -> None:
    monkeypatch.setattr(disk_files, "SOCKETS", ())


def read(fake_host=None, **options: Any) -> list[dict[str, Any]]:
    """Return the mounts. There is no warning."""
    given = {"path": None, "user": "games", "timeout": 60, **options}
    places = (str(fake_host.base / "etc"), str(fake_host.base / "proc")) if fake_host else ()
    found = shared_mount_info(given, *places)
    assert found["warnings"] == []
    return found["mounts"]


def read_one(path: Path, **options: Any) -> dict[str, Any]:
    (mount,) = read(path=str(path), **options)
    return mount


def table(fake_host, *datastores) -> None:
    """Let the fake table of mounts have the real mounts of datastores."""
    paths = {str(path) for datastore in datastores for path in datastore._mount_points.values()}
    lines = Path("/proc/self/mountinfo").read_text().splitlines(keepends=True)
    mounts = [line for line in lines if line.split()[4] in paths or line.split()[4] == "/"]
    (fake_host.base / "proc/self/mountinfo").write_text("".join(mounts))


# Recorded tables


def test_no_shared_mounts(fake_host) -> None:
    fake_host.live(f"{fake_host.point} rw - tmpfs one rw", f"{fake_host.base} rw - ext4 /dev/sdb rw")
    fake_host.fstab.write_text("/dev/sda1 / ext4 defaults 0 1\ntmpfs /tmp tmpfs defaults 0 0\n")
    assert read(fake_host) == []


def test_a_mount_with_its_entry(fake_host) -> None:
    fake_host.live(fake_host.nfs())
    fake_host.fstab.write_text(fake_host.entry("ro"))
    (found,) = read(fake_host)
    assert found == {
        "path": str(fake_host.point),
        "source": "nas:/srv",
        "fstype": "nfs4",
        "live": found["live"],
        "fstab": ["ro"],
        "state": "ok",
        "reason": None,
        "total_bytes": found["total_bytes"],
        "free_bytes": found["free_bytes"],
        "owner": "root",
        "group": "root",
        "mode": f"{fake_host.point.stat().st_mode & 0o7777:04o}",
        "marker": None,
        "access": found["access"],
        "version": "4.2",
        "protocol": "tcp",
        "processes": [],
        "domains": [],
    }
    assert {"rw", "relatime", "nconnect=4"} <= set(found["live"])
    assert found["total_bytes"] > found["free_bytes"] > 0


def test_each_state(fake_host) -> None:
    base = fake_host.base
    (base / "proc/self/mountinfo").write_text(
        "24 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
        f"31 24 0:31 / {base}/mnt rw - nfs4 nas:/one {SUPER}\n"
        f"32 24 0:32 / {base}/deep/hidden rw - nfs4 nas:/hidden {SUPER}\n"
        f"33 24 0:33 / {base}/deep rw - ceph mon:/over rw\n"
        f"34 24 0:34 / {base}/stack rw - nfs4 nas:/below {SUPER}\n"
        f"35 34 0:35 / {base}/stack rw - nfs4 nas:/above {SUPER}\n"
        f"36 24 0:36 / {base}/local rw - tmpfs local rw\n"
    )
    (base / "deep").mkdir()
    fake_host.fstab.write_text(
        f"nas:/one {base}/mnt nfs ro 0 0\nnas:/boot {base}/boot nfs4 ro 0 0\nmon:/a {base}/b ceph\n/dev/sda1 /x ext4\n"
    )
    assert [(one["source"], one["state"], one["fstab"]) for one in read(fake_host)] == [
        ("nas:/one", "ok", ["ro"]),
        ("nas:/hidden", "hidden", None),
        ("mon:/over", "ok", None),
        ("nas:/below", "hidden", None),
        ("nas:/above", "stacked", None),
        ("nas:/boot", "missing", ["ro"]),
        ("mon:/a", "missing", ["defaults"]),
    ]


def test_a_path_of_any_type(fake_host) -> None:
    fake_host.live(f"{fake_host.point} rw,nosuid - tmpfs one rw,size=64k", fake_host.nfs().replace("mnt", "other"))
    (found,) = read(fake_host, path=f"{fake_host.point}/")
    assert (found["fstype"], found["source"], found["state"]) == ("tmpfs", "one", "ok")
    fake_host.fstab.write_text(f"/dev/sdb {fake_host.base}/disk ext4 ro 0 0\n")
    (found,) = read(fake_host, path=f"{fake_host.base}/disk")
    assert (found["fstype"], found["state"]) == ("ext4", "missing")
    assert read(fake_host, path="/nowhere") == []


@pytest.mark.parametrize(
    "fstype", ["fuse.a\\040b", "fuse.", "fuse.$(ls)", "fuse.\\012x", "fuse.é", "fuse." + "x" * 300]
)
def test_a_mount_of_another_user_with_any_type_and_source(fstype, fake_host) -> None:
    """fusermount(1) takes both from the user."""
    fake_host.live(f"{fake_host.point} rw,nosuid,nodev - {fstype} \\012\\033[2J rw,user_id=1000", fake_host.nfs())
    assert [one["source"] for one in read(fake_host)] == ["\n\x1b[2J", "nas:/srv"]


@pytest.mark.parametrize(("option", "value"), [("path", "mnt"), ("path", "/a/../b"), ("timeout", 0), ("timeout", 3601)])
def test_values_that_are_refused(option, value, fake_host) -> None:
    with refused(InvalidInput, option=option):
        read(fake_host, **{option: value})


# Real mounts


def test_a_mount_with_marker_and_access(datastore) -> None:
    datastore.set(size="10M")
    (datastore.backing / ".granary-store").write_text(f"{MARKER}\n")
    os.chown(datastore.backing, 61001, 61002)
    datastore.backing.chmod(0o751)
    found = read_one(datastore.path())
    assert (found["owner"], found["group"], found["mode"], found["marker"]) == ("61001", "61002", "0751", MARKER)
    assert found["access"] == {"read": False, "write": False, "search": True}
    assert read_one(datastore.path(), user="nobody-here")["access"] is None
    listed = subprocess.run(
        ["stat", "--file-system", "--format=%b %a %S", datastore.path()], capture_output=True, text=True, check=True
    )
    blocks, free, size = map(int, listed.stdout.split())
    assert (found["total_bytes"], found["free_bytes"]) == (blocks * size, free * size)


def test_a_damaged_marker_is_the_reason(datastore) -> None:
    (datastore.backing / ".granary-store").write_text("damaged")
    found = read_one(datastore.path())
    assert (found["state"], found["marker"], found["owner"]) == ("ok", None, None)
    assert str(datastore.path()) in found["reason"]
    assert found["total_bytes"] > 0


def test_the_processes_on_a_mount(datastore) -> None:
    (datastore.backing / "disk").touch()
    assert read_one(datastore.path())["processes"] == []
    with open(datastore.path() / "disk"):
        (process,) = read_one(datastore.path())["processes"]
    assert process.endswith(f" ({os.getpid()})")
    waiting = [sys.executable, "-c", "print('here', flush=True); input()"]
    with subprocess.Popen(waiting, cwd=datastore.path(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"here\n"
        assert read_one(datastore.path())["processes"][0].endswith(f" ({child.pid})")
        child.communicate(b"\n")


def test_the_domains_with_a_disk_on_a_mount(datastore, tmp_path, monkeypatch) -> None:
    """The path of a domain isn't resolved, because it may be on a dead server."""
    node = "".join(
        f"<domain type='test'><name>{name}</name><uuid>{uuid.uuid4()}</uuid><memory>65536</memory>"
        f"<os><type>hvm</type></os><devices><disk type='file'><source file='{path}'/><target dev='vda'/></disk>"
        "</devices></domain>"
        for name, path in (("web 1", f"{datastore.path()}//a/../disk"), ("db", f"{datastore.path()}-2/disk"))
    )
    (tmp_path / "node.xml").write_text(f"<node>{node}</node>")
    uri = f"test://{tmp_path}/node.xml"
    monkeypatch.setattr(module, "files_of_local_domains", lambda resolve: disk_files.files_of_domains(uri, resolve))
    datastore.set(state="hung")
    found = read_one(datastore.path(), timeout=1)
    assert (found["state"], found["domains"]) == ("stale", ["web 1"])
    datastore.set(state="up")


def test_libvirt_that_fails_is_a_warning(datastore, monkeypatch) -> None:
    def refuse(resolve: object) -> None:
        raise LibvirtFailed("libvirt is away.")

    monkeypatch.setattr(module, "files_of_local_domains", refuse)
    found = shared_mount_info({"path": str(datastore.path()), "user": "games", "timeout": 60})
    assert len(found["warnings"]) == 1
    assert [one["domains"] for one in found["mounts"]] == [[]]


@pytest.mark.parametrize("error", ["ESTALE", "ENOTCONN", "ETIMEDOUT"])
def test_a_store_that_its_server_has_lost(error, datastore) -> None:
    with datastore.fault("statfs", error):
        found = read_one(datastore.path())
    assert (found["state"], found["owner"], found["total_bytes"]) == ("stale", None, None)
    assert found["reason"]


def test_many_that_hang_take_the_time_once(datastore_factory, fake_host) -> None:
    datastore = datastore_factory({f"host{number}": {} for number in range(12)})
    (datastore.backing / ".granary-store").write_text(f"{MARKER}\n")
    table(fake_host, datastore)
    datastore.set(state="hung")
    datastore.set(state="up", client="host11")
    start = time.monotonic()
    found = {one["fstype"]: one for one in read(fake_host, timeout=3)}
    assert time.monotonic() - start < 30  # one by one they take 36 seconds
    assert {name: one["state"] for name, one in found.items()} == {
        **{f"fuse.host{number}": "stale" for number in range(11)},
        "fuse.host11": "ok",
    }
    assert found["fuse.host11"]["marker"] == MARKER
    assert all(one["reason"] for name, one in found.items() if one["state"] == "stale")
    datastore.set(state="up")


def test_a_server_that_hangs_after_the_first_answer(datastore) -> None:
    """The capacity comes, and the marker doesn't."""
    with datastore.fault("lookup", "EIO", path="/.granary-store") as rule:
        assert read_one(datastore.path())["state"] == "ok"
    assert rule.hits == 1
    rule_id = datastore.control.call("rule.add", ops=["lookup"], path="/.granary-store", action="hang")["id"]
    found = read_one(datastore.path(), timeout=1)
    datastore.control.call("rule.del", id=rule_id)
    assert (found["state"], found["marker"]) == ("stale", None)
    assert found["reason"] and found["total_bytes"] > 0
