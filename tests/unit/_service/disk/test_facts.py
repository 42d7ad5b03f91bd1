# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts that transfer drivers get from the catalog."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import DATASTORES
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.images import IMAGES
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.vms import DISK_SNAPSHOTS, DISKS, VMS
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import NotFound
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._model.declared_vm import (
    DeclaredDisk,
    DeclaredSnapshot,
    DeclaredVm,
)
from ansible_collections.granary.vmstore.plugins.module_utils._model.image import Image
from ansible_collections.granary.vmstore.plugins.module_utils._model.vm import VmSnapshot
from ansible_collections.granary.vmstore.plugins.module_utils._service.disk.facts import CatalogFacts
from ansible_collections.granary.vmstore.plugins.module_utils._service.disk.known import KnownVms
from refusal import refused


@pytest.fixture
def known(tmp_path: Path) -> KnownVms:
    with open_catalog(str(tmp_path / "catalog.sqlite"), create=True) as catalog:
        DATASTORES.insert(catalog, Datastore(100, "images", "image", "fs", "qcow2", "/ds/100"))
        IMAGES.insert(catalog, Image(4, "base", 100, "os", "/ds/100/ab", 10, False, False, format="qcow2"))
        VMS.insert(catalog, DeclaredVm(7, "web", "web-domain", "host1", 0))
        DISKS.insert(
            catalog, DeclaredDisk(7, 0, "file", "qcow2", 20, image_id=4, linked=True, target="vda", bus="virtio")
        )
        DISKS.insert(catalog, DeclaredDisk(7, 2, "fs", "raw", 5, fs="ext4"))
        DISK_SNAPSHOTS.insert(catalog, DeclaredSnapshot(7, 0, 3, "a", True))
        return KnownVms(catalog)


def test_a_vm_has_its_place_and_its_disks(known: KnownVms) -> None:
    vm = CatalogFacts(known).vm(7)
    assert (vm.id, vm.name, vm.host, vm.system_datastore_id, vm.tm_mad, vm.deploy_id, vm.is_host_gone) == (
        7,
        "web",
        "host1",
        0,
        "local",
        "web-domain",
        False,
    )
    linked, empty = vm.disks
    assert (linked.image_id, linked.datastore_id, linked.tm_mad, linked.source) == (4, 100, "qcow2", "/ds/100/ab")
    assert (linked.size_mb, linked.original_size_mb, linked.is_standalone, linked.is_persistent) == (
        20,
        10,
        False,
        False,
    )
    assert linked.snapshots == (VmSnapshot(3, True),)
    assert (empty.disk_id, empty.type, empty.fs, empty.datastore_id, empty.tm_mad) == (2, "fs", "ext4", 0, "local")


def test_a_planned_disk_counts(known: KnownVms) -> None:
    known.put_disk(DeclaredDisk(7, 1, "swap", "raw", 9))
    assert CatalogFacts(known).vm(7).disk(1).size_mb == 9


def test_a_datastore_and_a_missing_vm(known: KnownVms) -> None:
    facts = CatalogFacts(known)
    assert facts.datastore(100).name == "images"
    assert facts.host("host1").name == "host1"
    with refused(NotFound, says=f"There is no VM 8 in the catalog {known.path}."):
        facts.vm(8)
