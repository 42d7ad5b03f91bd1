# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Concurrent runs with contradictory desired states: each run handles the changes of the others, and reports
no loss.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import StaleState
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.fs import FsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._service.datastore.desired import (
    DATASTORE_SPEC,
    DatastoreService,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.images import IMAGE_SPEC, ImageService
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.snapshot import (
    IMAGE_SNAPSHOT_SPEC,
    ImageSnapshotService,
)
from refusal import refused

#: Program that runs services in turn, as often as the first argument gives, and prints each error on a line.
PROGRAM = """
import json, os, sys
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._service.datastore.desired import DatastoreService
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.images import ImageService
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.snapshot import ImageSnapshotService
services = {"datastore": DatastoreService, "image": ImageService, "image_snapshot": ImageSnapshotService}
sys.stdin.readline()
for _time in range(int(sys.argv[1])):
    for name, options in json.loads(sys.argv[2]):
        try:
            plan = services[name](options).converge()
            if name == "image" and "snapshot" in sys.argv[2] and "image" in plan.result:
                path = plan.result["image"]["path"]
                os.makedirs(f"{path}.snap", exist_ok=True)
                with open(f"{path}.snap/0", "wb") as file:
                    file.write(bytes(1 << 20))
        except VmstoreError as error:
            print(type(error).__name__, error, flush=True)
"""
SPECS = {"datastore": DATASTORE_SPEC, "image": IMAGE_SPEC, "image_snapshot": IMAGE_SNAPSHOT_SPEC}
TIMES = 25

X: dict[str, object] = {"name": "x", "datastore": "default", "type": "datablock", "size": 1}
NO_X: dict[str, object] = {"name": "x", "state": "absent"}
D: dict[str, object] = {"name": "d", "ds_driver": "fs", "tm_driver": "shared"}
NO_D: dict[str, object] = {"name": "d", "state": "absent"}
IN_D: dict[str, object] = {**X, "datastore": "d"}

#: Messages that a run may return because of the others: a resource is missing, or in use.
USED = r"Conflict The image 'x' can't be (removed|changed without force) while its data is used by .*"
NO_IMAGE = r"DependencyNotFound image: there is no image 'x' in the catalog .*"
NO_DATASTORE = r"DependencyNotFound datastore: there is no datastore 'd' in the catalog .*"
HAS_IMAGE = r"Conflict The datastore 'd' can't be removed: it has the images 'x'\."
STALE = r"StaleState .* run it again\."

RACES: dict[str, tuple[Sequence[Sequence[tuple[str, Mapping[str, object]]]], str]] = {
    "image": ([[("image", X)], [("image", NO_X)]], f"{STALE}|{USED}"),
    "several": ([[("image", X), ("image", NO_X)]] * 3, f"{STALE}|{USED}"),
    "datastore": ([[("datastore", D)], [("datastore", NO_D)]], STALE),
    "datastore and image": (
        [[("datastore", D), ("datastore", NO_D)], [("image", IN_D), ("image", NO_X)]],
        f"{STALE}|{NO_DATASTORE}|{HAS_IMAGE}",
    ),
    "snapshot": (
        [[("image", X), ("image_snapshot", {"image": "x", "snapshot": 0, "state": "absent"})], [("image", NO_X)]],
        f"{STALE}|{NO_IMAGE}|{USED}",
    ),
}


@pytest.fixture
def catalog(tmp_path: Path) -> str:
    path = str(tmp_path / "catalog.sqlite")
    (tmp_path / "datastores").mkdir()
    with open_catalog(path, create=True, datastore_location=str(tmp_path / "datastores")):
        pass
    return path


def options(module: str, catalog: str, given: Mapping[str, object]) -> dict[str, object]:
    defaults = {name: option.get("default") for name, option in SPECS[module].argument_spec.items()}
    if module == "datastore":
        defaults["datastore_location"] = f"{Path(catalog).parent}/datastores"
    return {**defaults, "catalog": catalog, **given}


@pytest.mark.parametrize(("runs", "refused"), RACES.values(), ids=RACES)
def test_runs_that_undo_each_other(
    catalog: str, runs: Sequence[Sequence[tuple[str, Mapping[str, object]]]], refused: str
) -> None:
    processes = []
    for run in runs:
        calls = json.dumps([(module, options(module, catalog, given)) for module, given in run])
        command = [sys.executable, "-c", PROGRAM, str(TIMES), calls]
        processes.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    ended = [(*process.communicate(timeout=300), process.returncode) for process in processes]
    for said, trouble, status in ended:
        assert (status, trouble) == (0, "")
        assert [line for line in said.splitlines() if re.fullmatch(refused, line) is None] == []


def converge(catalog: str, module: str, given: Mapping[str, object]) -> Plan:
    service = {"datastore": DatastoreService, "image": ImageService, "image_snapshot": ImageSnapshotService}[module]
    return service(options(module, catalog, given)).converge()


def test_the_only_image_is_removed_while_it_is_looked_for(catalog: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data is missing, although the catalog that was read before still has the image."""
    converge(catalog, "image", X)
    stored = FsDriver.stored

    def meanwhile(driver: FsDriver) -> frozenset[str]:
        monkeypatch.setattr(FsDriver, "stored", stored)
        converge(catalog, "image", NO_X)
        return stored(driver)

    monkeypatch.setattr(FsDriver, "stored", meanwhile)
    plan = converge(catalog, "image", X)
    assert [action.name for action in plan.actions] == ["create image"]
    assert Path(plan.result["image"]["path"]).exists()


def test_a_datastore_is_made_anew_while_an_image_is_made_in_it(catalog: str, tmp_path: Path) -> None:
    converge(catalog, "datastore", D)
    service = ImageService(options("image", catalog, IN_D))
    recording = service.recording

    def meanwhile(plan: Plan) -> contextlib.AbstractContextManager[Plan]:
        converge(catalog, "datastore", NO_D)
        converge(catalog, "datastore", D)
        return recording(plan)

    service.recording = meanwhile
    with refused(StaleState, names=["catalog"]):
        service.converge()
    assert [path for path in (tmp_path / "datastores").rglob("*") if path.is_file()] == []
