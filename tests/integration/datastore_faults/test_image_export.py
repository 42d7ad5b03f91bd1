# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""An export when its target fails: each writing operation fails once, and a crash precedes each of them."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import DATASTORES
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.images import IMAGES
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._model.image import Image
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.export import ImageExportService
from simulated_datastore.testing import CrashWalker, FaultWalker

OLD = b"what was there before"
#: Injected errors by format. qcow2 has only one, because qemu-img is slow and queries each block.
ERRNOS = {"raw": (errno.ENOSPC, errno.EIO, errno.EDQUOT), "qcow2": (errno.ENOSPC,)}
PART = r"\.[0-9a-f]{32}\.part"


@pytest.fixture(params=["raw", "qcow2"])
def export(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Path], bool]:
    """Write an image to ``disk`` in a directory, replacing the existing file, and return whether a write was needed."""
    store = tmp_path / "store"
    store.mkdir()
    image, catalog_path = store / ("a" * 32), str(tmp_path / "catalog.sqlite")
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", image, "256k"], check=True)
    subprocess.run(["qemu-io", "-f", "raw", "-c", "write -q -P 7 64k 64k", image], check=True)
    with open_catalog(catalog_path, create=True) as catalog, catalog.transaction():
        DATASTORES.insert(catalog, Datastore(100, "ds", "image", "fs", "ssh", str(store)))
        IMAGES.insert(catalog, Image(0, "x", 100, "datablock", str(image), 1, True, False, format="raw"))

    def run(directory: Path) -> bool:
        options = {
            "catalog": catalog_path,
            "image": "x",
            "dest": f"{directory}/disk",
            "format": request.param,
            "snapshot": None,
            "force": True,
        }
        return ImageExportService(options).converge().changed

    def whole(directory: Path) -> bool:
        """Require the old file or the image, and no other files but parts. Return whether the file is the image."""
        assert [name for name in os.listdir(directory) if not re.fullmatch(PART, name)] == ["disk"]
        if (directory / "disk").read_bytes() == OLD:
            return False
        subprocess.run(
            ["qemu-img", "compare", "-q", "-f", "raw", "-F", request.param, image, directory / "disk"], check=True
        )
        return True

    run.whole, run.format = whole, request.param
    return run


def prepare(directory: Path) -> None:
    (directory / "disk").write_bytes(OLD)


def parts(directory: Path) -> list[str]:
    return [name for name in os.listdir(directory) if re.fullmatch(PART, name)]


def repeat_export(export: Callable[[Path], bool], directory: Path, done: bool) -> None:
    assert export(directory) != done
    assert export.whole(directory)
    assert parts(directory) == []


def test_each_write_fails_once(
    export, walk_faults: FaultWalker, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = {"unaffected": 0, "old": 0, "new": 0}

    def check(directory: Path, raised: BaseException | None) -> None:
        done = export.whole(directory)
        assert raised is None or isinstance(raised, VmstoreError), repr(raised)
        assert done or raised is not None
        assert parts(directory) == []
        ends["unaffected" if raised is None else "new" if done else "old"] += 1
        repeat_export(export, directory, done)

    injected = walk_faults(export, check, prepare=prepare, errnos=ERRNOS[export.format])
    assert injected > 10
    with capsys.disabled():
        print(f"\n{request.node.callspec.id}: {injected} faults; {ends}")


def test_a_crash_at_each_step(
    export, walk_crashes: CrashWalker, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = {"old": 0, "new": 0}

    def check(directory: Path) -> None:
        done = export.whole(directory)
        ends["new" if done else "old"] += 1
        repeat_export(export, directory, done)

    crashes = walk_crashes(export, check, prepare=prepare, names="strict", limit=1 if export.format == "qcow2" else 8)
    assert crashes > 5
    with capsys.disabled():
        print(f"\n{request.node.callspec.id}: {crashes} crashes; {ends}")
