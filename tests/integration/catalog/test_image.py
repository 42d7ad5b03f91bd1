# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules ``image`` and ``image_info``."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    InvalidInput,
    PartlyDone,
    PathNotAllowed,
    UnsupportedAction,
)
from refusal import require_failure


def test_create_update_remove(virtiofs) -> None:
    (virtiofs.data / "file").write_bytes(os.urandom(3 * 2**20))
    results = virtiofs.four("image", name="fs_data", datastore="fs", path=f"{virtiofs.data}/.", persistent=True)
    used = int(
        subprocess.run(["du", "-s", "-B1", virtiofs.data], capture_output=True, text=True, check=True).stdout.split()[0]
    )
    row = "SELECT id, name, datastore_id, path, size_mb, persistent, read_only, mount_tag, mount_point FROM image"
    assert virtiofs.query(row) == [
        (0, "fs_data", 100, str(virtiofs.data), -(-used // 2**20), 1, 0, "one-0", "/mnt/one-fs-0")
    ]
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
    results = virtiofs.run_all(
        *(("image", {"name": f"i{number}", "datastore": "fs", "path": path}) for number, path in enumerate(paths))
    )
    assert [result["image"]["path"] for result in results] == paths
    assert len(os.listdir(virtiofs.data)) == len(paths)


def test_errors_of_a_new_image(virtiofs) -> None:
    path = str(virtiofs.data)
    new = {"name": "x", "datastore": "fs", "path": path}
    results = virtiofs.failures(
        ("image", {**new, "path": "/etc"}),
        ("image", {**new, "path": "/"}),
        ("image", {**new, "path": f"{path}/none"}),
        ("image", {**new, "mount_tag": "a b"}),
        ("image", {"name": "x", "datastore": "fs", "size": 5}),
        ("image", {"name": "x", "datastore": "fs", "type": "filesystem", "clone_from": "y"}),
    )
    require_failure(results[0], PathNotAllowed, option="path", names=["'/etc'"])
    require_failure(results[1], PathNotAllowed, option="path", names=["'/'"])
    require_failure(results[2], InvalidInput, option="path", names=[f"'{path}/none'"])
    require_failure(results[3], InvalidInput, option="mount_tag", names=["'a b'"])
    require_failure(results[4], UnsupportedAction, names=["mkfs", "virtiofs"])
    require_failure(results[5], UnsupportedAction, names=["clone", "virtiofs"])


def test_errors_of_an_image_in_use(virtiofs) -> None:
    path = str(virtiofs.data)
    virtiofs.run_all(
        ("image", {"name": "one", "datastore": "fs", "path": path}),
        ("image_attachment", {"image": "one", "host": "h1", "domain": "web"}),
    )
    in_use = ["'one'", "'web'", "'h1'"]
    results = virtiofs.failures(
        ("image", {"name": "one", "size": 5}),
        ("image", {"name": "two", "datastore": "fs", "path": path, "mount_tag": "one-0"}),
        ("datastore", {"name": "fs", "state": "absent"}),
        ("image", {"name": "one", "persistent": True}),
        ("image", {"id": 0, "name": "renamed"}),
        ("image", {"name": "one", "state": "absent"}),
    )
    require_failure(results[0], UnsupportedAction, names=["resize", "virtiofs"])
    require_failure(results[1], Conflict, names=["mount_tag", "'one-0'", "'one'"])
    require_failure(results[2], Conflict, names=["'fs'", "'one'"])
    for result in results[3:]:
        require_failure(result, Conflict, names=in_use)
    assert virtiofs.run("image_info", datastore="fs")["images"][0]["attachments"][0]["domain"] == "web"


def info(path: str) -> dict:
    return json.loads(
        subprocess.run(["qemu-img", "info", "--output=json", path], check=True, stdout=subprocess.PIPE).stdout
    )


def test_images_that_hold_data(front_end, tmp_path) -> None:
    """Create, clone, replace and remove images, one and several at a time, in check mode and repeatedly."""
    source, other = tmp_path / "disk.img", tmp_path / "other.img"
    source.write_bytes(os.urandom(2**20) + bytes(2**20))
    other.write_bytes(os.urandom(2**20))
    datastore = tmp_path / "datastore"
    front_end.run("datastore", name="bulk", ds_driver="fs", tm_driver="ssh", base_path=str(datastore))
    one = {
        "name": "one",
        "datastore": "bulk",
        "type": "os",
        "path": str(source),
        "checksum": f"sha256:{hashlib.sha256(source.read_bytes()).hexdigest()}",
    }
    image = front_end.four("image", **one)[1]["image"]
    assert os.listdir(datastore) == [os.path.basename(image["path"])]
    assert Path(image["path"]).read_bytes() == source.read_bytes()
    assert (os.stat(image["path"]).st_mode & 0o777, os.stat(image["path"]).st_blocks * 512) == (0o640, 2**20)

    many = [
        {"name": "two", "datastore": "bulk", "clone_from": "one", "driver": "qcow2", "persistent": True},
        {"name": "three", "datastore": "bulk", "type": "datablock", "size": 64, "fs": "ext4", "format": "qcow2"},
    ]
    images = front_end.four("image", images=many)[1]["images"]
    assert [(found["format"], found["virtual-size"]) for found in (info(image["path"]) for image in images)] == [
        ("qcow2", 2**21),
        ("qcow2", 2**26),
    ]
    subprocess.run(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", images[0]["path"], source], check=True)

    (result,) = front_end.failures(("image", {"name": "one", "path": str(other)}))
    require_failure(result, Conflict, names=["path", "'one'", f"'{source}'", one["checksum"], f"'{other}'"])
    replaced = front_end.four("image", name="one", path=str(other), force=True)[1]["image"]
    assert Path(replaced["path"]).read_bytes() == other.read_bytes()
    assert not os.path.exists(image["path"])

    front_end.four("image", images=[{"name": name, "state": "absent"} for name in ("one", "two", "three")])
    assert os.listdir(datastore) == []
    assert front_end.query("SELECT * FROM image") == []


def test_errors_of_images_that_hold_data(front_end, tmp_path) -> None:
    source = tmp_path / "disk.img"
    source.write_bytes(b"data" * 1024)
    new = {"name": "x", "datastore": "default", "type": "os", "path": str(source)}
    front_end.run("datastore", name="bulk", ds_driver="fs", tm_driver="ssh", base_path=f"{tmp_path}/datastore")
    new["datastore"] = "bulk"
    results = front_end.failures(
        ("image", {**new, "path": "/etc/shadow"}),
        ("image", {**new, "checksum": f"md5:{'0' * 32}"}),
        ("image", {**new, "type": "kernel"}),
    )
    require_failure(results[0], PathNotAllowed, option="path", names=["'/etc/shadow'"])
    require_failure(results[1], InvalidInput, option="md5", names=["0" * 32, source])
    require_failure(results[2], UnsupportedAction, names=["datastore", "'kernel'", "'bulk'"])
    assert os.listdir(tmp_path / "datastore") == []


def test_a_run_that_fails_in_part_says_what_it_did(front_end, tmp_path) -> None:
    source = tmp_path / "disk.img"
    source.write_bytes(b"data" * 1024)
    front_end.run("datastore", name="bulk", ds_driver="fs", tm_driver="ssh", base_path=f"{tmp_path}/datastore")
    good = {"name": "good", "datastore": "bulk", "type": "os", "path": str(source)}
    result = front_end.run("image", images=[{**good, "name": "bad", "checksum": f"md5:{'0' * 32}"}, good])
    assert (result["failed"], result["changed"], [action["subject"] for action in result["actions"]]) == (
        True,
        True,
        ["good"],
    )
    require_failure(result, PartlyDone, names=["images[0] (bad): md5"])
    assert [image["name"] for image in result["images"]] == ["good"]
    assert front_end.query("SELECT name FROM image") == [("good",)]
    assert os.listdir(tmp_path / "datastore") == [os.path.basename(result["images"][0]["path"])]
