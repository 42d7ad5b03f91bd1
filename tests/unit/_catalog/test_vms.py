# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables of VMs and their disks, and what uses an image or a datastore."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import Catalog, open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import DATASTORES
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.images import IMAGES
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.vms import DISK_SNAPSHOTS, DISKS, VMS, disks_of
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CatalogFailed,
    Conflict,
)
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._model.declared_vm import (
    DeclaredDisk,
    DeclaredSnapshot,
    DeclaredVm,
)
from ansible_collections.granary.vmstore.plugins.module_utils._model.image import Image
from ansible_collections.granary.vmstore.plugins.module_utils._service.datastore.desired import (
    DATASTORE_SPEC,
    DatastoreService,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.images import IMAGE_SPEC, ImageService
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.info import image_info
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.snapshot import (
    IMAGE_SNAPSHOT_SPEC,
    ImageSnapshotService,
)
from refusal import refused

VM = DeclaredVm(0, "web", "web-domain", "host1", 100)
LINKED = DeclaredDisk(0, 0, "file", "qcow2", 10, image_id=0, linked=True, target="vda", bus="virtio")
FULL = DeclaredDisk(0, 1, "file", "qcow2", 20, image_id=1)
SWAP = DeclaredDisk(0, 2, "swap", "raw", 5, read_only=True)
USER = "the disk 0 of the VM 'web' on the host 'host1'"


def create_qcow2(path: Path, size: str = "1M") -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), size], check=True)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Create a catalog with the images 0 (base) and 1 (copied), of which the VM 'web' has disks."""
    name = str(tmp_path / "catalog.sqlite")
    with open_catalog(name, create=True, datastore_location=str(tmp_path)) as catalog, catalog.transaction():
        DATASTORES.insert(catalog, Datastore(100, "hosts", "system", None, "shared", str(tmp_path / "100")))
        (tmp_path / "1").mkdir()
        for number, image in enumerate(("base", "copied")):
            file = tmp_path / "1" / f"{number:032x}"
            create_qcow2(file)
            IMAGES.insert(catalog, Image(number, image, 1, "os", str(file), 1, False, False, format="qcow2"))
        VMS.insert(catalog, VM)
        for disk in (LINKED, FULL, SWAP):
            DISKS.insert(catalog, disk)
    return name


@pytest.fixture
def catalog(path: str) -> Iterator[Catalog]:
    with open_catalog(path, create=False) as opened:
        yield opened


def change_image(path: str, **options: object) -> None:
    defaults = {name: option.get("default") for name, option in IMAGE_SPEC.argument_spec.items()}
    ImageService({**defaults, "catalog": path, **options}).converge()


def test_rows_are_read_as_they_were_written(catalog: Catalog, path: str) -> None:
    snapshot = DeclaredSnapshot(0, 1, 3, "before", True)
    DISK_SNAPSHOTS.insert(catalog, snapshot)
    assert (VMS.rows(catalog), DISKS.rows(catalog)) == ([VM], [LINKED, FULL, SWAP])
    assert DISK_SNAPSHOTS.rows(catalog) == [snapshot]
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT vm_id, disk_id, type, linked, target, state FROM disk").fetchall()
    assert rows == [
        (0, 0, "file", 1, "vda", "ready"),
        (0, 1, "file", 0, None, "ready"),
        (0, 2, "swap", 0, None, "ready"),
    ]


def test_the_snapshots_of_a_disk_go_with_it(catalog: Catalog) -> None:
    DISK_SNAPSHOTS.insert(catalog, DeclaredSnapshot(0, 1, 3, "before", True))
    DISKS.update(catalog, FULL)
    assert len(DISK_SNAPSHOTS.rows(catalog)) == 1
    DISKS.delete(catalog, 0, 1)
    assert DISK_SNAPSHOTS.rows(catalog) == []


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO vm VALUES (1, 'other', 'web-domain', 'host1', 100, 'ready')",
        "INSERT INTO disk SELECT 0, 9, 'file', 'raw', 1, 7, 0, 0, NULL, NULL, NULL, 0, 0, 'ready'",
        "INSERT INTO disk SELECT 0, 9, 'fs', 'raw', 1, 1, 0, 0, NULL, NULL, NULL, 0, 0, 'ready'",
        "UPDATE disk SET persistent = 1, image_id = 1 WHERE disk_id < 2",
        "UPDATE disk SET target = NULL WHERE disk_id = 0",
        "UPDATE disk SET state = 'lost'",
        "DELETE FROM image WHERE id = 1",
        "DELETE FROM vm",
    ],
)
def test_the_tables_refuse_a_broken_reference(catalog: Catalog, statement: str) -> None:
    with pytest.raises(CatalogFailed):
        catalog.execute(statement)


@pytest.mark.parametrize("change", ["host = '-oProxyCommand=x'", "name = '7'", "domain = 'a/b'"])
def test_a_row_that_was_never_written_so_is_refused(catalog: Catalog, change: str) -> None:
    catalog.execute(f"UPDATE vm SET {change}")
    with pytest.raises(CatalogFailed):
        VMS.rows(catalog)


def test_a_disk_names_its_vm(catalog: Catalog) -> None:
    assert [(one.image_id, str(one)) for one in disks_of(catalog)] == [
        (0, USER),
        (1, "the disk 1 of the VM 'web' on the host 'host1'"),
    ]
    assert [one.disk for one in disks_of(catalog, 1)] == [FULL]


def test_the_info_of_an_image_has_its_disks(path: str) -> None:
    found: Any = image_info({"catalog": path, "name": None, "datastore": None})
    assert [image["disks"] for image in found["images"]] == [
        [{"vm": "web", "host": "host1", "disk": 0, "clone": "linked"}],
        [{"vm": "web", "host": "host1", "disk": 1, "clone": "full"}],
    ]


@pytest.mark.parametrize("force", [False, True])
def test_the_image_of_a_disk_is_not_removed(path: str, catalog: Catalog, force: bool) -> None:
    for name in ("base", "copied"):
        with refused(Conflict, names=[name, "the VM 'web' on the host 'host1'"]):
            change_image(path, name=name, state="absent", force=force)
    assert len(IMAGES.rows(catalog)) == 2


def test_the_data_of_a_linked_clone_is_not_replaced(path: str) -> None:
    with refused(
        Conflict,
        says=f"The image 'base' can't be replaced while it is used by {USER}: remove the disk with the module vm_disk "
        "first.",
    ):
        change_image(path, name="base", size="2M", format="raw", force=True)


def test_the_data_of_a_full_clone_can_be_replaced(path: str, catalog: Catalog) -> None:
    change_image(path, name="copied", size="2M", format="raw", force=True)
    found = IMAGES.find(catalog, "copied")
    assert found is not None
    assert (found.size_mb, Path(found.path).stat().st_size) == (2, 2 << 20)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("state", ["absent", "flattened", "reverted"])
def test_the_snapshots_of_the_image_of_a_linked_clone_stay(path: str, tmp_path: Path, state: str, force: bool) -> None:
    snapshots = tmp_path / "1" / f"{0:032x}.snap"
    snapshots.mkdir()
    create_qcow2(snapshots / "1", "2M")
    options: dict[str, Any] = {"catalog": path, "image": "base", "snapshot": 1, "state": state, "force": force}
    assert set(options) == set(IMAGE_SNAPSHOT_SPEC.argument_spec)
    with refused(Conflict, names=["'base'", USER]):
        ImageSnapshotService(options).converge()


def test_the_datastore_of_a_vm_is_not_removed(path: str) -> None:
    options = {name: option.get("default") for name, option in DATASTORE_SPEC.argument_spec.items()}
    with refused(
        Conflict,
        says="The datastore 'hosts' can't be removed: it has the disks of the VM 'web' on the host 'host1'.",
    ):
        DatastoreService({**options, "catalog": path, "name": "hosts", "state": "absent"}).converge()
