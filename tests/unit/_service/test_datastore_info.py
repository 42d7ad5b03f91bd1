# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import DATASTORES
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.images import IMAGES
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    DependencyNotFound,
    InvalidInput,
)
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._model.image import Image
from ansible_collections.granary.vmstore.plugins.module_utils._service.datastore.info import datastore_info
from refusal import refused


@pytest.fixture
def catalog(tmp_path: Path) -> str:
    """Create a catalog with all datastores in one directory, and the virtiofs datastore 100 (fs).

    Of the default datastores, only the image datastore has a directory.
    """
    path = str(tmp_path / "catalog.sqlite")
    with open_catalog(path, create=True, datastore_location=str(tmp_path)) as made, made.transaction():
        DATASTORES.insert(
            made, Datastore(made.take_id("datastore"), "fs", "image", "virtiofs", "virtiofs", f"{tmp_path}/100")
        )
    (tmp_path / "1").mkdir()
    return path


@pytest.fixture
def add(catalog: str, tmp_path: Path) -> Callable[..., Path]:
    """Add an image without data to the catalog, and return the path for its data."""

    def add_image(number: int, image_format: str = "raw", size_mb: int = 1) -> Path:
        path = tmp_path / "1" / f"{number:032x}"
        with open_catalog(catalog, create=False) as made, made.transaction():
            IMAGES.insert(
                made, Image(number, f"image{number}", 1, "os", str(path), size_mb, False, False, format=image_format)
            )
        return path

    return add_image


@pytest.fixture
def info(catalog: str) -> Callable[..., list]:
    return lambda **given: datastore_info({"catalog": catalog, "name": None, "timeout": 30, "vms": False, **given})[
        "datastores"
    ]


def test_capacities(info: Callable[..., list], tmp_path: Path) -> None:
    system, default, _files, virtiofs = info()
    assert "No such file or directory" in system["monitor_error"]
    assert (system["total_mb"], system["images"], system["orphans"]) == (None, [], [])
    found = os.statvfs(tmp_path)
    assert default["total_mb"] == found.f_frsize * found.f_blocks // 2**20
    assert default["monitor_error"] is None
    assert (
        virtiofs["used_mb"],
        virtiofs["free_mb"],
        virtiofs["total_mb"],
        virtiofs["images"],
        virtiofs["monitor_error"],
    ) == (0, 0, 0, [], None)
    assert set(virtiofs["supports"].values()) == {False}


def test_one_datastore(info: Callable[..., list]) -> None:
    assert [one["id"] for one in info(name="100")] == [100]
    assert [one["id"] for one in info(name="fs")] == [100]
    for unknown in ("none", "77", str(10**30)):
        with refused(DependencyNotFound, names=[f"'{unknown}'"]):
            info(name=unknown)


def test_without_a_catalog(info: Callable[..., list], tmp_path: Path) -> None:
    with refused(DependencyNotFound, names=[tmp_path / "other.sqlite"]):
        info(catalog=str(tmp_path / "other.sqlite"))


def test_a_timeout_that_makes_no_sense(info: Callable[..., list]) -> None:
    with refused(InvalidInput, says="timeout: 0 is not accepted: 1 to * seconds are expected."):
        info(timeout=0)


def du(*paths: Path) -> int:
    """Return the allocated bytes on disk."""
    done = subprocess.run(["du", "-B1", "-s", "--total", *paths], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1].split()[0])


def test_images_with_what_they_take(info: Callable[..., list], add: Callable[..., Path]) -> None:
    raw, qcow2, lost, other = add(0), add(1, "qcow2"), add(2), add(3, "qcow2")
    with raw.open("wb") as file:
        file.write(b"x" * 5000)
        file.truncate(1 << 30)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", qcow2, "7G"], check=True)
    snapshot = Path(f"{qcow2}.snap") / "3"
    snapshot.parent.mkdir()
    snapshot.write_bytes(b"x" * 9000)
    other.write_bytes(b"no qcow2")
    told = json.loads(
        subprocess.run(["qemu-img", "info", "--output=json", qcow2], capture_output=True, check=True).stdout
    )
    assert info(name="1")[0]["images"] == [
        {
            "id": 0,
            "name": "image0",
            "path": str(raw),
            "format": "raw",
            "allocated_bytes": du(raw),
            "virtual_bytes": 1 << 30,
            "snapshots": [],
        },
        {
            **{
                "id": 1,
                "name": "image1",
                "path": str(qcow2),
                "format": "qcow2",
                "allocated_bytes": du(qcow2),
                "virtual_bytes": told["virtual-size"],
            },
            "snapshots": [{"id": 3, "allocated_bytes": du(snapshot)}],
        },
        {
            "id": 2,
            "name": "image2",
            "path": str(lost),
            "format": "raw",
            "allocated_bytes": None,
            "virtual_bytes": None,
            "snapshots": [],
        },
        {
            "id": 3,
            "name": "image3",
            "path": str(other),
            "format": "qcow2",
            "allocated_bytes": du(other),
            "virtual_bytes": None,
            "snapshots": [],
        },
    ]
    assert info(name="1")[0]["orphans"] == []


def test_orphans(info: Callable[..., list], add: Callable[..., Path], tmp_path: Path) -> None:
    known, lost = add(0), add(1)
    known.write_bytes(b"data")
    for image in (known, lost):
        Path(f"{image}.snap").mkdir()
    directory = tmp_path / "1"
    image, stray = directory / ("a" * 32), directory / f"{'b' * 32}.md5sum"
    image.write_bytes(b"x" * 5000)
    (directory / f"{'a' * 32}.snap").mkdir()
    snapshot = directory / f"{'a' * 32}.snap" / "0"
    snapshot.write_bytes(b"x" * 9000)
    stray.write_bytes(b"sum")
    (directory / f".{'c' * 32}.part").write_bytes(b"x")
    (directory / "notes").write_bytes(b"x")
    assert info(name="1")[0]["orphans"] == [
        {"path": str(image), "allocated_bytes": du(image, snapshot)},
        {"path": str(stray), "allocated_bytes": du(stray)},
    ]


def test_a_directory_that_is_missing_loses_no_image_from_the_answer(
    info: Callable[..., list], add: Callable[..., Path], tmp_path: Path
) -> None:
    add(0)
    (tmp_path / "1").rmdir()
    found = info(name="1")[0]
    assert "No such file or directory" in found["monitor_error"]
    assert [(one["name"], one["allocated_bytes"]) for one in found["images"]] == [("image0", None)]
