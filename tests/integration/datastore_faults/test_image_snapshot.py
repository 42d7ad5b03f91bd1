# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module image_snapshot, killed at each step in a datastore and repeated: the repeat leaves no unwanted files."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import DATASTORES
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.images import IMAGES
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._model.image import Image
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.snapshot import ImageSnapshotService
from simulated_datastore.testing import KillWalker

NAME = "a" * 32
MIB = 2**20

#: Final content of the image and of its snapshots, by the desired state of snapshot 0.
ENDS = {"absent": (3, [1]), "flattened": (1, []), "reverted": (1, [0, 1])}


@pytest.fixture(params=["raw", "qcow2"])
def image_format(request: pytest.FixtureRequest) -> str:
    return request.param


@functools.cache
def template(image_format: str) -> tempfile.TemporaryDirectory[str]:
    """Create an image whose only MiB was 1, 2 and then 3, with a snapshot before each change."""
    directory = tempfile.TemporaryDirectory()
    image = Path(directory.name, NAME)
    (snapshots := Path(f"{image}.snap")).mkdir()
    if image_format == "qcow2":
        (snapshots / snapshots.name).symlink_to(".")
        image.symlink_to(f"{NAME}.snap/2")
    for number in range(3):
        path = image if image_format == "raw" and number == 2 else snapshots / str(number)
        backing = ["-F", "qcow2", "-b", f"{NAME}.snap/{number - 1}", "-u"] if image_format == "qcow2" and number else []
        subprocess.run(["qemu-img", "create", "-q", "-f", image_format, *backing, path, "1M"], check=True)
        subprocess.run(["qemu-io", "-f", image_format, "-c", f"write -q -P {number + 1} 0 1M", path], check=True)
    return directory


@pytest.fixture
def prepare(image_format: str, tmp_path: Path) -> Callable[[Path], None]:
    """Return a function that creates the image in a directory, and a catalog with the image."""

    def make(directory: Path) -> None:
        shutil.copytree(template(image_format).name, directory, symlinks=True, dirs_exist_ok=True)
        for old in tmp_path.glob("catalog*"):
            old.unlink()
        with open_catalog(f"{tmp_path}/catalog", create=True) as catalog, catalog.transaction():
            DATASTORES.insert(catalog, Datastore(100, "ds", "image", "fs", "ssh", str(directory)))
            IMAGES.insert(
                catalog, Image(0, "x", 100, "datablock", f"{directory}/{NAME}", 1, True, False, format=image_format)
            )

    return make


@pytest.mark.parametrize("wanted", ENDS)
def test_a_kill_at_each_step(
    wanted: str, image_format: str, prepare: Callable[[Path], None], walk_kills: KillWalker, tmp_path: Path
) -> None:
    def run(_directory: Path) -> Plan:
        options = {"catalog": f"{tmp_path}/catalog", "image": "x", "snapshot": 0, "state": wanted, "force": True}
        return ImageSnapshotService(options).converge()

    content, snapshots = ENDS[wanted]

    def check(directory: Path) -> None:
        assert run(directory).result["snapshots"] == snapshots
        kept = {name for name in os.listdir(directory) if not name.startswith(NAME)}
        assert kept == set()
        assert (directory / f"{NAME}.snap").exists() == bool(snapshots)
        subprocess.run(
            ["qemu-img", "convert", "-f", image_format, "-O", "raw", directory / NAME, tmp_path / "content"], check=True
        )
        assert (tmp_path / "content").read_bytes() == bytes([content]) * MIB
        assert not run(directory).changed

    assert walk_kills(run, check, prepare=prepare) > 1
