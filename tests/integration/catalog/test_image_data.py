# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules ``image_snapshot`` and ``image_export``. The tests read the content of images with qemu-img."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import subprocess
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    DependencyNotFound,
    InvalidInput,
    NotFound,
    PathNotAllowed,
)
from refusal import require_failure

NAME = "a" * 32
COLUMNS = "id, name, datastore_id, type, path, format, size_mb, persistent, read_only, checksum"
ROW = f"INSERT INTO image ({COLUMNS}) VALUES (?, ?, 100, 'datablock', ?, ?, 4, 1, 0, ?)"


def qemu(program: str, *argv: object) -> str:
    return subprocess.run([program, *map(str, argv)], check=True, stdout=subprocess.PIPE, text=True).stdout


def same(one: Path, other: Path, image_format: str = "qcow2") -> bool:
    return (
        subprocess.run(
            ["qemu-img", "compare", "-q", "-f", image_format, "-F", image_format, one, other], check=False
        ).returncode
        == 0
    )


def insert(front_end, statement: str, values: tuple = ()) -> None:
    with contextlib.closing(sqlite3.connect(front_end.catalog, isolation_level=None)) as connection:
        connection.execute(statement, values)


@pytest.fixture
def filled(front_end):
    """Create the image ``disk``, a link to the last of four overlays.

    Return whole copies of its content at the snapshots 0 to 2 and at present.
    """
    store = front_end.directory / "datastores" / "100"
    store.mkdir(parents=True)
    assert (
        front_end.run("datastore", name="ds", ds_driver="fs", tm_driver="ssh", base_path=str(store))["datastore"]["id"]
        == 100
    )
    snapshots = store / f"{NAME}.snap"
    snapshots.mkdir()
    (snapshots / snapshots.name).symlink_to(".")
    for number in range(4):
        base = ["-u", "-F", "qcow2", "-b", f"{snapshots.name}/{number - 1}"] if number else []
        qemu("qemu-img", "create", "-q", "-f", "qcow2", *base, snapshots / str(number), "4M")
        qemu("qemu-io", "-f", "qcow2", "-c", f"write -q -P {number + 1} {number}M 1M", snapshots / str(number))
        qemu("qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", snapshots / str(number), front_end.data / str(number))
    (store / NAME).symlink_to(f"{snapshots.name}/3")
    insert(front_end, ROW, (0, "disk", str(store / NAME), "qcow2", "md5:0"))
    front_end.image, front_end.snapshots = store / NAME, snapshots
    return front_end


def attach(front_end) -> None:
    insert(
        front_end,
        "INSERT INTO vm_disk (image_id, host, domain, mount_tag, mount_point, read_only) VALUES (0, 'h1', 'web', 't', "
        "'/x', 0)",
    )


def test_delete_revert_flatten(filled) -> None:
    results = filled.four("image_snapshot", image="disk", snapshot=1, state="absent")
    assert [result["snapshots"] for result in results] == [[0, 2]] * 4
    assert sorted(os.listdir(filled.snapshots)) == ["0", "2", "3", f"{NAME}.snap"]
    assert same(filled.image, filled.data / "3")
    assert results[0]["diff"] == results[1]["diff"] != []

    results = filled.four("image_snapshot", image="0", snapshot=2, state="reverted")
    assert same(filled.image, filled.data / "2")
    assert filled.query("SELECT size_mb, checksum FROM image") == [(4, None)]
    qemu("qemu-img", "check", "-q", "-f", "qcow2", filled.image)

    results = filled.four("image_snapshot", image="disk", snapshot=0, state="flattened", force=True)
    assert [result["snapshots"] for result in results] == [[]] * 4
    assert results[1]["image"]["datastore"] == "ds"
    assert os.listdir(filled.image.parent) == [NAME]
    assert not filled.image.is_symlink()
    assert same(filled.image, filled.data / "0")


def test_errors_of_snapshots(filled) -> None:
    given = {"image": "disk", "snapshot": 1, "state": "flattened"}
    (lost,) = filled.failures(("image_snapshot", given))
    attach(filled)
    before = sorted(os.listdir(filled.snapshots))
    results = filled.failures(
        ("image_snapshot", {**given, "snapshot": 7}),
        ("image_snapshot", {**given, "snapshot": -1}),
        ("image_snapshot", {**given, "image": "none"}),
        ("image_snapshot", {**given, "state": "reverted"}),
        ("image_snapshot", {**given, "state": "reverted", "check": True}),
        ("image_snapshot", {**given, "state": "absent"}),
    )
    require_failure(lost, Conflict, names=["'disk'", "0, 2"])
    require_failure(results[0], NotFound, names=["snapshot", "'disk'", "7", "0, 1, 2"])
    require_failure(results[1], InvalidInput, option="snapshot", names=["-1"])
    require_failure(results[2], DependencyNotFound, names=["'none'", filled.catalog])
    require_failure(
        results[3],
        Conflict,
        says="The image 'disk' can't be reverted without force while it is used by the domain 'web' on the host 'h1'.",
    )
    for result in results[4:]:
        require_failure(result, Conflict, names=["'disk'", "'web'", "'h1'"])
    assert sorted(os.listdir(filled.snapshots)) == before
    assert same(filled.image, filled.data / "3")
    filled.four("image_snapshot", **{**given, "state": "reverted", "force": True})
    assert same(filled.image, filled.data / "1")


def test_export(filled) -> None:
    dest = filled.directory / 'it\'s "$(touch injected)"'
    results = filled.four("image_export", image="disk", dest=str(dest))
    assert same(dest, filled.data / "3")
    assert "backing-filename" not in json.loads(qemu("qemu-img", "info", "--output=json", dest))
    assert results[1]["checksum"] == results[2]["checksum"] == f"sha256:{hashlib.sha256(dest.read_bytes()).hexdigest()}"
    assert results[0]["checksum"] is None
    assert qemu("stat", "-c", "%a %s", dest) == f"600 {results[1]['size']}\n"

    filled.four("image_export", image="disk", dest=str(dest), snapshot=1, format="raw", force=True)
    qemu("qemu-img", "compare", "-f", "raw", "-F", "qcow2", dest, filled.data / "1")
    assert not [path for path in filled.directory.rglob("*") if path.name.endswith(".part") or path.name == "injected"]


def test_errors_of_an_export(filled) -> None:
    (filled.data / "link").symlink_to("/etc/passwd")
    store = filled.image.parent
    other = (filled.data / "0").read_bytes()
    results = filled.failures(
        ("image_export", {"image": "disk", "dest": str(filled.data / "0")}),
        ("image_export", {"image": "disk", "dest": str(filled.data / "link"), "force": True}),
        ("image_export", {"image": "disk", "dest": str(store / "x"), "force": True}),
        ("image_export", {"image": "disk", "dest": str(filled.catalog), "force": True}),
        ("image_export", {"image": "disk", "dest": str(filled.data / "x"), "snapshot": 3}),
    )
    require_failure(results[0], Conflict, names=["dest", f"'{filled.data}/0'", "'disk'"])
    require_failure(results[1], InvalidInput, option="dest", names=[f"'{filled.data}/link'"])
    require_failure(results[2], PathNotAllowed, option="dest", names=[f"'{store}/x'"])
    require_failure(results[3], PathNotAllowed, option="dest", names=[f"'{filled.catalog}'"])
    require_failure(results[4], NotFound, names=["snapshot", "'disk'", "3"])
    assert (filled.data / "0").read_bytes() == other
    attach(filled)
    result = filled.run("image_export", image="disk", dest=str(filled.data / "y"))
    assert "is used by the domain 'web' on the host 'h1'" in result["warnings"][0]
