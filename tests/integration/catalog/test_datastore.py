# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules ``datastore`` and ``datastore_info``."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CatalogFailed,
    Conflict,
    DependencyNotFound,
    InvalidInput,
    NoSpace,
)
from refusal import require_failure

VIRTIOFS = {"ds_driver": "virtiofs", "tm_driver": "virtiofs"}
HUNG_MOUNT = str(Path(__file__).parents[2] / "hung_mount.py")


def test_create_update_remove(front_end) -> None:
    front_end.four("datastore", name="fs", **VIRTIOFS)
    row = "SELECT id, name, type, ds_driver, tm_driver, base_path, bridge_list FROM datastore WHERE id > 2"
    assert front_end.query(row) == [(100, "fs", "image", "virtiofs", "virtiofs", "/var/lib/one/datastores/100", "[]")]
    status = os.stat(front_end.catalog)
    assert oct(status.st_mode) == "0o100640"

    updated = front_end.four("datastore", name="fs", bridge_list=["h1"])
    assert [(one["before"]["bridge_list"], one["after"]["bridge_list"]) for one in updated[0]["diff"]] == [([], ["h1"])]
    assert front_end.query(row)[0][6] == '["h1"]'

    front_end.four("datastore", id=100, name="renamed")
    assert front_end.query("SELECT name FROM datastore WHERE id = 100") == [("renamed",)]

    front_end.four("datastore", name="renamed", state="absent")
    assert front_end.query("SELECT id FROM datastore ORDER BY id") == [(0,), (1,), (2,)]
    assert front_end.run("datastore", name="fs", **VIRTIOFS)["datastore"]["id"] == 101


def test_check_mode_makes_no_catalog(front_end) -> None:
    assert front_end.run("datastore", check=True, name="fs", **VIRTIOFS)["changed"]
    assert os.listdir(front_end.catalog.parent) == []


def test_info_monitors_what_answers_and_says_what_does_not(front_end) -> None:
    location = front_end.directory / "datastores"
    for name in ("0", "1"):
        (location / name).mkdir(parents=True)
    front_end.run("datastore", name="fs", datastore_location=str(location), **VIRTIOFS)
    front_end.enter = (sys.executable, HUNG_MOUNT, str(location / "0"), "fuse.sshfs")
    system, default, files, virtiofs = front_end.run("datastore_info", timeout=1)["datastores"]
    assert system["monitor_error"] == (f"The file system of {location}/0 is away: it did not respond within 1 seconds.")
    size = subprocess.run(
        ["df", "-B1", "--output=size", location / "1"], capture_output=True, text=True, check=True
    ).stdout.split()[-1]
    assert (default["total_mb"], default["monitor_error"]) == (int(size) // 2**20, None)
    assert "No such file or directory" in files["monitor_error"]
    assert (virtiofs["used_mb"], virtiofs["free_mb"], virtiofs["total_mb"]) == (0, 0, 0)
    assert not any(virtiofs["supports"].values())


def test_errors(virtiofs) -> None:
    changed, default, name, attribute, missing = virtiofs.failures(
        ("datastore", {"name": "fs", "tm_driver": "ssh"}),
        ("datastore", {"name": "default", "state": "absent"}),
        ("datastore", {"name": "a\tb", **VIRTIOFS}),
        ("datastore", {"name": "x", **VIRTIOFS, "attributes": {"safe_dir": "/x"}}),
        ("datastore_info", {"name": "none"}),
    )
    require_failure(changed, Conflict, names=["tm_driver", "'fs'", "'virtiofs'", "'ssh'"])
    require_failure(default, Conflict, names=["'default'"])
    require_failure(name, InvalidInput, option="name", names=["'a\\tb'"])
    require_failure(
        attribute,
        InvalidInput,
        option="attributes",
        says=(
            "attributes: 'safe_dir' is not accepted: the virtiofs driver has no further attributes; the nearest option "
            "of the module is 'safe_dirs'."
        ),
    )
    require_failure(missing, DependencyNotFound, names=["'none'", virtiofs.catalog])


def test_a_catalog_from_a_newer_version(virtiofs) -> None:
    with contextlib.closing(sqlite3.connect(virtiofs.catalog)) as connection:
        connection.execute("PRAGMA user_version = 99")
    wish = {"name": "x", **VIRTIOFS}
    for result in virtiofs.failures(
        ("datastore", wish), ("datastore", {**wish, "check": True}), ("datastore_info", {}), ("image_info", {})
    ):
        require_failure(result, CatalogFailed, names=[virtiofs.catalog, 99])


FULL = """
mount -t tmpfs -o size=128k tmpfs "$1"
cp "$2" "$1/catalog.sqlite"
head -c 1M /dev/zero > "$1/filler" 2> /dev/null || true
shift 2
"$@"
"""


def test_a_full_disk(virtiofs) -> None:
    full = virtiofs.directory / "full"
    full.mkdir()
    virtiofs.enter = ("unshare", "-m", "sh", "-ec", FULL, "sh", str(full), str(virtiofs.catalog))
    path = f"{full}/catalog.sqlite"
    wish = {"name": "x", **VIRTIOFS, "catalog": path}
    (result,) = virtiofs.failures(("datastore", wish))
    require_failure(result, NoSpace, names=[path])


def test_a_catalog_on_a_network_file_system(virtiofs) -> None:
    remote = virtiofs.directory / "remote"
    remote.mkdir()
    virtiofs.enter = (sys.executable, HUNG_MOUNT, str(remote), "fuse.glusterfs")
    (result,) = virtiofs.failures(("datastore", {"name": "x", **VIRTIOFS, "catalog": f"{remote}/catalog.sqlite"}))
    require_failure(result, CatalogFailed, names=[remote, "'fuse.glusterfs'"])
