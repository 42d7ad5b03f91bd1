# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that are made of the disks of VMs, on the front-end as the host."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import DATASTORES
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    DependencyNotFound,
    InvalidInput,
    NotFound,
    UnsupportedAction,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._service.disk.snapshot import (
    VM_DISK_SNAPSHOT_SPEC,
    VmDiskSnapshotService,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.images import IMAGE_SPEC, ImageService
from refusal import refused
from vm_site import Site, complete, content, describe, states

from .test_snapshot import DISKS, write


def save(site: Site, *, check: bool = False, **options: Any) -> Plan:
    given = {"catalog": site.catalog, "name": "saved", "datastore": "default", "type": "os", **options}
    service = ImageService(complete(given, IMAGE_SPEC.argument_spec))
    return service.dry_run() if check else service.converge()


def four(site: Site, **options: Any) -> Path:
    """Run in check mode, twice for real, and in check mode again. Return the path of the image."""
    foreseen, done = save(site, check=True, **options), save(site, **options)
    assert [one.name for one in foreseen.actions] == [one.name for one in done.actions] == ["create image"]
    assert foreseen.result["image"]["size_mb"] == done.result["image"]["size_mb"]
    for check in (False, True):
        assert states_of(save(site, check=check, **options)) == []
    return site.image(options.get("name", "saved"))


def states_of(plan: Plan) -> list[Any]:
    return [states(action) for action in plan.actions]


@pytest.mark.parametrize("name", DISKS)
def test_an_image_of_a_disk_and_of_its_snapshot(site: Site, name: str) -> None:
    options, datastore = DISKS[name]
    image_format = site.run(vm="web", **options).result["disks"][0]["format"]
    path = site.disk(datastore=datastore)
    write(path, image_format, "first")
    snapshot = {"catalog": site.catalog, "vm": "web", "name": "one"}
    VmDiskSnapshotService(complete(snapshot, VM_DISK_SNAPSHOT_SPEC.argument_spec)).converge()
    write(path, image_format, "second")
    for saved, source, text in (
        ("saved", {"vm": "web"}, b"second"),
        ("earlier", {"vm": "0", "disk": 0, "snapshot": "one"}, b"first"),
    ):
        made = four(site, name=saved, from_disk=source)
        assert content(made, image_format) == text
        described = describe(made, "-f", image_format)
        assert described["virtual-size"] == 2 << 20 and "backing-filename" not in described
        assert oct(made.stat().st_mode) == "0o100640"
    assert content(path, image_format) == b"second"
    assert site.query("SELECT origin FROM image WHERE name IN ('saved', 'earlier') ORDER BY name") == [
        ("disk:web:0:one",),
        ("disk:web:0",),
    ]


def test_an_image_stays_when_its_vm_goes(site: Site) -> None:
    site.run(vm="web", image="raw")
    save(site, from_disk={"vm": "web"})
    site.run(vm="web", state="absent")
    assert states_of(save(site, from_disk={"vm": "web"})) == []
    with refused(Conflict, names=["'saved'", "disk:web:0", "disk:web:1"]):
        save(site, from_disk={"vm": "web", "disk": 1})


def test_refusals(site: Site) -> None:
    with refused(DependencyNotFound, names=["from_disk.vm", "'web'", site.catalog]):
        save(site, from_disk={"vm": "web"})
    site.run(vm="web", image="raw")
    with refused(DependencyNotFound, says="from_disk.disk: the VM 'web' has no disk 1."):
        save(site, from_disk={"vm": "web", "disk": 1})
    with refused(DependencyNotFound, says="from_disk.snapshot: the disk 0 of VM 'web' has no snapshot 'one'."):
        save(site, from_disk={"vm": "web", "snapshot": "one"})
    with refused(InvalidInput, option="from_disk"):
        save(site, from_disk={"vm": "web"}, path="/var/tmp/x")
    with refused(InvalidInput, option="fs", value="ext4"):
        save(site, from_disk={"vm": "web"}, fs="ext4")
    os.unlink(site.disk())
    for check in (True, False):
        with refused(NotFound, names=["disk 0 of VM 'web'", site.disk()]):
            save(site, check=check, from_disk={"vm": "web"})
    assert site.query("SELECT name FROM image WHERE name = 'saved'") == []
    recorded = {Path(path).name for (path,) in site.query("SELECT path FROM image WHERE datastore_id = 1")}
    assert {path.name for path in (site.path / "1").iterdir()} == recorded


def test_a_datastore_on_bridges_is_refused(site: Site) -> None:
    site.run(vm="web", image="raw")
    with open_catalog(site.catalog, create=False) as catalog, catalog.transaction():
        bridged = Datastore(103, "bridged", "image", "fs", "ssh", str(site.path / "103"), bridge_list=("h1",))
        DATASTORES.insert(catalog, bridged)
    with refused(UnsupportedAction, names=["'bridged'"]):
        save(site, datastore="bridged", from_disk={"vm": "web"})
