# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ``datastore_check``, and the output of ``datastore_info`` for the same datastore."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    DependencyNotFound,
    InvalidInput,
    TimedOut,
    UnsupportedAction,
)
from refusal import require_failure

HUNG_MOUNT = str(Path(__file__).parents[2] / "hung_mount.py")
SIZE = 3 << 20


def command(*arguments: object) -> str:
    return subprocess.run([str(one) for one in arguments], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def store(front_end) -> Path:
    """Return the directory of the image datastore ``default``, on a front-end with its own datastores."""
    location = front_end.directory / "datastores"
    location.mkdir()
    assert not front_end.run(
        "datastore", name="fs", ds_driver="virtiofs", tm_driver="virtiofs", datastore_location=str(location)
    )["failed"]
    (location / "1").mkdir()
    return location / "1"


def add(front_end, number: int, path: Path, image_format: str, size_mb: int, persistent: bool = False) -> None:
    with contextlib.closing(sqlite3.connect(front_end.catalog, isolation_level=None)) as connection:
        columns = "id, name, datastore_id, type, path, format, size_mb, persistent, read_only"
        values = (number, f"x{number}", str(path), image_format, size_mb, persistent)
        connection.execute(f"INSERT INTO image ({columns}) VALUES (?, ?, 1, 'os', ?, ?, ?, ?, 0)", values)


def test_find_and_repair(front_end, store: Path) -> None:
    raw, qcow2, lost, orphan = (store / (digit * 32) for digit in "abcd")
    raw.write_bytes(b"x" * SIZE)
    command("qemu-img", "create", "-q", "-f", "qcow2", qcow2, "7M")
    add(front_end, 0, raw, "raw", 1)
    add(front_end, 1, qcow2, "qcow2", 7, persistent=True)
    add(front_end, 2, lost, "raw", 1)
    orphan.write_bytes(b"x" * 5000)
    (store / f".{'e' * 32}.part").write_bytes(b"x" * 5000)
    # File names with special characters must not cause errors.
    (store / "a\nb").write_bytes(b"")
    Path(os.fsdecode(bytes(store) + b"/\xff")).symlink_to("/etc/passwd")
    os.mkfifo(store / ("f" * 32))
    files, rows = sorted(os.listdir(bytes(store))), front_end.dump()

    checked = front_end.run("datastore_check", checksums=True)
    assert (checked["changed"], checked["actions"], checked["diff"], checked["consistent"]) == (False, [], [], False)
    default, other = checked["datastores"]
    assert (default["name"], default["consistent"], other["name"], other["consistent"]) == (
        "default",
        False,
        "files",
        True,
    )
    taken = {
        path: int(command("stat", "--format=%b", path)) * 512
        for path in (raw, qcow2, orphan, store / f".{'e' * 32}.part")
    }
    assert default["orphans"] == [{"path": str(orphan), "allocated_bytes": taken[orphan], "repaired": False}]
    assert default["missing"] == [{"id": 2, "name": "x2", "path": str(lost), "repaired": False}]
    assert [(one["name"], one["attribute"], one["recorded"], one["found"]) for one in default["drift"]] == [
        ("x0", "size_mb", 1, 3)
    ]
    assert [one["path"] for one in default["leftovers"]] == [str(store / f".{'e' * 32}.part")]
    assert sorted(default["unknown"]) == sorted(["a\nb", "\\xff", "f" * 32])
    assert (sorted(os.listdir(bytes(store))), front_end.dump()) == (files, rows)

    results = front_end.four("datastore_check", name="default", checksums=True, repair=True)
    assert [one["name"] for one in results[0]["actions"]] == ["correct image", "remove leftovers"]
    checksum = "sha256:" + command("sha256sum", raw).split()[0]
    assert results[0]["diff"][0]["after"] == {"size_mb": 3, "checksum": checksum}
    assert [result["consistent"] for result in results] == [False] * 4
    assert front_end.query("SELECT name, size_mb, checksum FROM image ORDER BY id") == [
        ("x0", 3, checksum),
        ("x1", 7, None),
        ("x2", 1, None),
    ]
    assert not (store / f".{'e' * 32}.part").exists()
    assert orphan.exists()

    results = front_end.four("datastore_check", name="default", repair=True, remove=[str(orphan), "x2"])
    assert [(one["name"], one["subject"]) for one in results[1]["actions"]] == [
        ("forget image", "x2"),
        ("remove data without image", str(orphan)),
    ]
    assert [result["consistent"] for result in results] == [True] * 4
    assert front_end.query("SELECT name FROM image ORDER BY id") == [("x0",), ("x1",)]
    assert not orphan.exists()
    assert sorted(os.listdir(bytes(store))) == sorted([b"a" * 32, b"b" * 32, b"a\nb", b"\xff", b"f" * 32])

    raw.write_bytes(b"y" * SIZE)
    damaged = front_end.run("datastore_check", repair=True, checksums=True)
    (drift,) = damaged["datastores"][0]["drift"]
    assert (damaged["changed"], drift["attribute"], drift["recorded"], drift["repaired"]) == (
        False,
        "checksum",
        checksum,
        False,
    )
    assert drift["found"] == "sha256:" + command("sha256sum", raw).split()[0]


def test_info_says_what_is_in_a_datastore(front_end, store: Path) -> None:
    raw, qcow2, orphan = (store / (digit * 32) for digit in "abc")
    command("truncate", "-s", "1G", raw)
    command("qemu-img", "create", "-q", "-f", "qcow2", qcow2, "7G")
    (store / f"{qcow2.name}.snap").mkdir()
    snapshot = store / f"{qcow2.name}.snap" / "0"
    for path in (snapshot, orphan):
        path.write_bytes(b"x" * 9000)
    add(front_end, 0, raw, "raw", 1024)
    add(front_end, 1, qcow2, "qcow2", 7168)
    taken = {path: int(command("stat", "--format=%b", path)) * 512 for path in (raw, qcow2, snapshot, orphan)}
    (found,) = front_end.run("datastore_info", name="default")["datastores"]
    assert found["images"] == [
        {
            "id": 0,
            "name": "x0",
            "path": str(raw),
            "format": "raw",
            "allocated_bytes": taken[raw],
            "virtual_bytes": 1 << 30,
            "snapshots": [],
        },
        {
            **{
                "id": 1,
                "name": "x1",
                "path": str(qcow2),
                "format": "qcow2",
                "allocated_bytes": taken[qcow2],
                "virtual_bytes": 7 << 30,
            },
            "snapshots": [{"id": 0, "allocated_bytes": taken[snapshot]}],
        },
    ]
    assert found["orphans"] == [{"path": str(orphan), "allocated_bytes": taken[orphan]}]
    assert found["monitor_error"] is None


def test_a_dead_file_server_keeps_no_one_waiting(front_end, store: Path) -> None:
    add(front_end, 0, store / ("a" * 32), "raw", 1)
    front_end.enter = (sys.executable, HUNG_MOUNT, str(store), "fuse.sshfs")
    rows = front_end.dump()
    why = f"Reading the directory {store} did not end within 1 seconds and was stopped."
    everything = front_end.run("datastore_check", repair=True, timeout=1)
    assert (everything["failed"], everything["changed"], everything["consistent"]) == (False, False, False)
    assert [one["error"] for one in everything["datastores"]] == [why, None]
    (result,) = front_end.failures(("datastore_check", {"name": "default", "timeout": 1}))
    require_failure(result, TimedOut, names=[store])
    assert front_end.dump() == rows


def test_errors(front_end, store: Path) -> None:
    path = store / ("a" * 32)
    path.write_bytes(b"data")
    add(front_end, 0, path, "raw", 1)
    results = front_end.failures(
        ("datastore_check", {"remove": ["x0"]}),
        ("datastore_check", {"repair": True, "remove": ["x0"]}),
        ("datastore_check", {"repair": True, "remove": ["/etc/passwd"]}),
        ("datastore_check", {"name": "fs"}),
        ("datastore_check", {"name": "none"}),
        ("datastore_check", {"timeout": 0}),
        ("datastore_check", {"catalog": f"{store}/none.sqlite"}),
    )
    require_failure(results[0], InvalidInput, option="remove", names=["['x0']"])
    require_failure(results[1], Conflict, names=["remove", "'x0'"])
    require_failure(results[2], InvalidInput, option="remove", names=["'/etc/passwd'"])
    require_failure(results[3], UnsupportedAction, names=["inventory", "virtiofs"])
    require_failure(results[4], DependencyNotFound, names=["'none'", front_end.catalog])
    require_failure(results[5], InvalidInput, option="timeout", names=["0"])
    require_failure(results[6], DependencyNotFound, names=[f"{store}/none.sqlite"])
    assert path.read_bytes() == b"data"
