# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules ``image`` and ``image_info``."""

from __future__ import annotations

import os
import subprocess


def test_create_update_remove(virtiofs) -> None:
    (virtiofs.data / "file").write_bytes(os.urandom(3 * 2**20))
    results = virtiofs.four("image", name="fs_data", datastore="fs", path=f"{virtiofs.data}/.", persistent=True)
    used = int(subprocess.run(["du", "-s", "-B1", virtiofs.data], capture_output=True, text=True, check=True).stdout.split()[0])
    row = "SELECT id, name, datastore_id, path, size_mb, persistent, read_only, mount_tag, mount_point FROM image"
    assert virtiofs.query(row) == [(0, "fs_data", 100, str(virtiofs.data), -(-used // 2**20), 1, 0, "one-0", "/mnt/one-fs-0")]
    assert results[1]["image"]["size_mb"] == -(-used // 2**20)

    virtiofs.four("image", name="fs_data", mount_tag="one-tag", mount_point="/srv/data", gid_map=[{"target": 300000}])
    assert virtiofs.query("SELECT mount_tag, mount_point, persistent, gid_map FROM image") == [
        ("one-tag", "/srv/data", 1, '[{"start": 0, "target": 300000, "count": 65536}]')
    ]

    virtiofs.four("image", name="fs_data", state="absent")
    assert virtiofs.query(row) == []
    assert os.listdir(virtiofs.data) == ["file"]


def test_hostile_directory_names(virtiofs) -> None:
    paths = [f"{virtiofs.data}/{name}" for name in ("a b", "$(touch injected)", 'it\'s "quoted"', "$HOME", "-rf")]
    for path in paths:
        os.mkdir(path)
    results = virtiofs.run_all(*(("image", {"name": f"i{number}", "datastore": "fs", "path": path}) for number, path in enumerate(paths)))
    assert [result["image"]["path"] for result in results] == paths
    assert len(os.listdir(virtiofs.data)) == len(paths)


def test_errors_of_a_new_image(virtiofs) -> None:
    path = str(virtiofs.data)
    new = {"name": "x", "datastore": "fs", "path": path}
    messages = virtiofs.errors(
        ("image", {**new, "path": "/etc"}),
        ("image", {**new, "path": "/"}),
        ("image", {**new, "path": f"{path}/none"}),
        ("image", {**new, "mount_tag": "a b"}),
        ("image", {**new, "size": 5}),
        ("image", {**new, "clone_of": "y"}),
    )
    assert messages[0] == "path: '/etc' is not accepted: it is or contains the restricted directory /etc."
    assert messages[1].startswith("path: '/' is not accepted: it is or contains the restricted directory /")
    assert messages[2].startswith(f"path: '{path}/none' is not accepted: a directory on the front-end or on a host")
    assert messages[3].startswith("mount_tag: 'a b' is not accepted: 1 to 36 letters")
    assert messages[4:] == ["mkfs is not supported by the virtiofs driver.", "clone is not supported by the virtiofs driver."]


def test_errors_of_an_image_in_use(virtiofs) -> None:
    path = str(virtiofs.data)
    virtiofs.run_all(("image", {"name": "one", "datastore": "fs", "path": path}), ("image_attachment", {"image": "one", "host": "h1", "domain": "web"}))
    in_use = "while it is used by the domain 'web' on the host 'h1'."
    assert virtiofs.errors(
        ("image", {"name": "one", "size": 5}),
        ("image", {"name": "two", "datastore": "fs", "path": path, "mount_tag": "one-0"}),
        ("datastore", {"name": "fs", "state": "absent"}),
        ("image", {"name": "one", "persistent": True}),
        ("image", {"id": 0, "name": "renamed"}),
        ("image", {"name": "one", "state": "absent"}),
    ) == [
        "resize is not supported by the virtiofs driver.",
        "mount_tag: 'one-0' belongs to the image 'one', and two images can't have one mount tag.",
        "The datastore 'fs' can't be removed: it has the images 'one'.",
        f"The image 'one' can't be changed {in_use}",
        f"The image 'one' can't be changed {in_use}",
        f"The image 'one' can't be removed {in_use}",
    ]
    assert virtiofs.run("image_info", datastore="fs")["images"][0]["attachments"][0]["domain"] == "web"
