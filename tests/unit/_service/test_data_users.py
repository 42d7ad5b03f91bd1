# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that domains and processes use, although the catalog has no attachment of them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import Conflict
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices import disk_files
from ansible_collections.granary.vmstore.plugins.module_utils._service.datastore.check import (
    DATASTORE_CHECK_SPEC,
    DatastoreCheckService,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.images import IMAGE_SPEC, ImageService
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.snapshot import (
    IMAGE_SNAPSHOT_SPEC,
    ImageSnapshotService,
)
from refusal import refused

SERVICES = {
    "image": (IMAGE_SPEC, ImageService),
    "image_snapshot": (IMAGE_SNAPSHOT_SPEC, ImageSnapshotService),
    "datastore_check": (DATASTORE_CHECK_SPEC, DatastoreCheckService),
}
Run = Callable[..., Plan]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs a service on a catalog with the default datastores."""
    catalog = str(tmp_path / "catalog.sqlite")
    (tmp_path / "datastores").mkdir()
    with open_catalog(catalog, create=True, datastore_location=str(tmp_path / "datastores")):
        pass

    def run_service(module: str, check: bool = False, **given: object) -> Plan:
        spec, service_class = SERVICES[module]
        defaults = {name: option.get("default") for name, option in spec.argument_spec.items()}
        service = service_class({**defaults, "catalog": catalog, **given})
        return service.plan() if check else service.converge()

    return run_service


@pytest.fixture
def image(run: Run) -> Path:
    """Return the file of the image ``x``."""
    return Path(
        run("image", name="x", datastore="default", type="datablock", size=4, persistent=True).result["image"]["path"]
    )


@pytest.fixture
def domain(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Define a domain ``web`` on libvirt's test driver, which has the image as a disk and is off."""
    disk = f"<disk type='file' device='disk'><source file='{image}'/><target dev='vda'/></disk>"
    head, tail = "<domain type='test'><name>", "</name><memory>65536</memory><os><type>hvm</type></os>"
    xml = f"{head}web{tail}<devices>{disk}</devices></domain>"
    (tmp_path / "node.xml").write_text(f"<node>{head}other{tail}</domain>{xml}</node>")
    monkeypatch.setattr(disk_files, "DEFAULT_URI", f"test://{tmp_path}/node.xml")
    monkeypatch.setattr(disk_files, "SOCKETS", ("/",))


@pytest.mark.parametrize("check", [True, False])
def test_what_a_program_has_open_is_not_removed(
    run: Run, image: Path, opened_by_qemu: Callable[..., None], check: bool
) -> None:
    opened_by_qemu(image, "-f", "raw")
    with refused(
        Conflict,
        says="The image 'x' can't be removed while its data is used by the program qemu-io (process "
        "*): shut it down and take the image from it first, or give force: true to take its data "
        "from it.",
    ):
        run("image", check, name="x", state="absent")
    assert image.exists()


def test_with_force_it_is_removed(run: Run, image: Path, opened_by_qemu: Callable[..., None], domain: None) -> None:
    opened_by_qemu(image, "-f", "raw")
    assert run("image", name="x", state="absent", force=True).changed
    assert not image.exists()


def test_force_for_other_data_does_not_take_it_from_a_running_program(
    run: Run, image: Path, opened_by_qemu: Callable[..., None], domain: None
) -> None:
    opened_by_qemu(image, "-f", "raw")
    with refused(
        Conflict,
        says="The image 'x' can't be replaced while its data is used by the program qemu-io (process "
        "*): shut it down first.",
    ):
        run("image", name="x", size=2, force=True)
    assert image.exists()


def test_locks_count_where_the_program_is_not_seen(
    run: Run, image: Path, opened_by_qemu: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_by_qemu(image, "-r", "-f", "raw")
    monkeypatch.setattr("os.listdir", lambda path, listdir=os.listdir: [] if path == "/proc" else listdir(path))
    with refused(
        Conflict,
        says="The image 'x' can't be removed while its data is used by a program such as QEMU, "
        "perhaps on another host that shares it: shut it down and take the image from it first, "
        "or give force: true to take its data from it.",
    ):
        run("image", name="x", state="absent")


def test_a_domain_that_is_off_counts(run: Run, image: Path, domain: None) -> None:
    with refused(
        Conflict,
        says="The image 'x' can't be removed while its data is used by libvirt's domain 'web': shut "
        "it down and take the image from it first, or give force: true to take its data from it.",
    ):
        run("image", name="x", state="absent")
    # The domain would start with other data. The option force accepts this consequence.
    assert run("image", name="x", size=2, force=True).changed


def test_the_disk_of_a_domain_that_is_off_grows(run: Run, image: Path, domain: None) -> None:
    assert run("image", name="x", size=8).changed
    assert image.stat().st_size == 8 << 20


@pytest.mark.parametrize("state", ["absent", "reverted", "flattened"])
def test_snapshots_stay(run: Run, image: Path, opened_by_qemu: Callable[..., None], state: str) -> None:
    (snapshots := Path(f"{image}.snap")).mkdir()
    (snapshots / "0").write_bytes(b"x".ljust(image.stat().st_size, b"\0"))
    opened_by_qemu(image, "-f", "raw")
    with refused(
        Conflict,
        says="The image 'x' can't be changed without force while its data is used by the program qemu-io (process *).",
    ):
        run("image_snapshot", image="x", snapshot=0, state=state)
    assert os.listdir(snapshots) == ["0"]


def test_data_without_an_image_is_not_removed_from_a_program(
    run: Run, image: Path, opened_by_qemu: Callable[..., None]
) -> None:
    orphan = image.with_name("0" * 32)
    subprocess.run(["cp", image, orphan], check=True)
    opened_by_qemu(orphan, "-f", "raw")
    with refused(
        Conflict, says=f"remove: '{orphan}' can't be removed while it is used by the program qemu-io (process *)."
    ):
        run("datastore_check", repair=True, remove=[str(orphan)])
    assert orphan.exists()
