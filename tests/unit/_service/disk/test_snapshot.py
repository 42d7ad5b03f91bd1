# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots of disks of VMs that are off, on the front-end as the host."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    DependencyNotFound,
    InvalidInput,
    NotFound,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._service.disk.snapshot import (
    VM_DISK_SNAPSHOT_SPEC,
    VmDiskSnapshotService,
)
from refusal import refused
from vm_site import Site, complete, content, states, used


class Snapshots:
    """The module, for the disk 0 of the VM ``web``."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def run(self, *, check: bool = False, **options: Any) -> Plan:
        given = {"catalog": self.site.catalog, "vm": "web", **options}
        service = VmDiskSnapshotService(complete(given, VM_DISK_SNAPSHOT_SPEC.argument_spec))
        return service.dry_run() if check else service.converge()

    def four(self, **options: Any) -> list[str]:
        """Run in check mode, twice for real, and in check mode again. Return the names of the snapshots."""
        foreseen = self.run(check=True, **options)
        done = self.run(**options)
        assert [states(one) for one in foreseen.actions] == [states(one) for one in done.actions] != []
        assert foreseen.result == done.result
        for again in (self.run(**options), self.run(check=True, **options)):
            assert again.actions == [] and again.result == done.result
        return [one["name"] for one in done.result["snapshots"]]


#: Disks by driver and format: the options of the disk, and the system datastore.
DISKS = {
    "local raw": ({"image": "raw"}, 0),
    "local qcow2": ({"image": "qcow2"}, 0),
    "shared raw": ({"image": "shared-raw", "datastore": "shared-system"}, 100),
    "shared qcow2": ({"image": "shared-qcow2", "datastore": "shared-system"}, 100),
    "shared persistent qcow2": ({"image": "shared-mine", "datastore": "shared-system"}, 100),
    "empty qcow2": ({"size": "2M", "format": "qcow2"}, 0),
}


def write(path: Path, image_format: str, text: str) -> None:
    with open(path.parent / "text", "wb") as file:
        file.write(text.encode().ljust(512, b"\0"))
    command = ["qemu-io", "-f", image_format, "-c", f"write -q -s {file.name} 0 512", str(path)]
    subprocess.run(command, capture_output=True, check=True)
    os.unlink(file.name)


@pytest.fixture(params=DISKS)
def disk(request: pytest.FixtureRequest, site: Site) -> tuple[Path, str]:
    """Return the path and the format of a disk with the content ``first``."""
    options, datastore = DISKS[request.param]
    done = site.run(vm="web", **options)
    path = site.disk(datastore=datastore)
    image_format = done.result["disks"][0]["format"]
    write(path, image_format, "first")
    return path, image_format


def test_the_life_of_snapshots(site: Site, disk: tuple[Path, str]) -> None:
    path, image_format = disk
    snapshots = Snapshots(site)
    assert snapshots.four(name="one") == ["one"]
    write(path, image_format, "second")
    assert snapshots.four(name="two") == ["one", "two"]
    write(path, image_format, "third")
    assert snapshots.four(name="one", state="reverted") == ["one", "two"]
    assert content(path, image_format) == b"first"
    assert site.query("SELECT name, is_active FROM disk_snapshot ORDER BY id") == [("one", 1), ("two", 0)]
    assert snapshots.four(name="two", state="reverted") == ["one", "two"]
    assert content(path, image_format) == b"second"
    assert snapshots.four(name="one", state="absent") == ["two"]
    write(path, image_format, "fourth")
    assert snapshots.four(name="two", state="reverted") == ["two"]
    assert content(path, image_format) == b"second"
    assert snapshots.four(name="two", state="absent") == []
    assert content(path, image_format) == b"second"
    if image_format == "qcow2":
        subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], check=True)


def test_refusals(site: Site) -> None:
    snapshots = Snapshots(site)
    with refused(DependencyNotFound, says=f"vm: there is no VM 'web' in the catalog {site.catalog}."):
        snapshots.run(name="one")
    site.run(vm="web", image="raw")
    with refused(DependencyNotFound, says="disk: the VM 'web' has no disk 3."):
        snapshots.run(name="one", disk=3)
    with refused(InvalidInput, option="name", value="7"):
        snapshots.run(name="7")
    with refused(NotFound, says="name: the disk 0 of VM 'web' has no snapshot 'one' (known: none)."):
        snapshots.run(name="one", state="reverted")
    assert snapshots.run(name="one", state="absent").actions == []
    snapshots.run(name="one")
    os.unlink(f"{site.disk()}.snap/0")
    for state in ("present", "reverted"):
        with refused(NotFound, names=["'one'", f"{site.disk()}.snap/0"]):
            snapshots.run(name="one", state=state)
    snapshots.run(name="one", state="absent")
    os.unlink(site.disk())
    with refused(NotFound, says=f"The disk 0 of VM 'web' is not at {os.uname().nodename}:{site.disk()}."):
        snapshots.run(name="one")


def test_a_disk_in_use(site: Site) -> None:
    """Another program than QEMU of the domain uses the disk."""
    site.run(vm="web", image="raw")
    snapshots = Snapshots(site)
    snapshots.run(name="one")
    with used(site.disk()):
        with refused(Conflict, says="The disk 0 of VM 'web' can't be reverted while the VM runs: shut it down first."):
            snapshots.run(name="one", state="reverted")
    assert site.query("SELECT name FROM disk_snapshot") == [("one",)]


def test_snapshots_go_with_their_disk(site: Site) -> None:
    site.run(vm="web", image="raw")
    Snapshots(site).run(name="one")
    site.run(vm="web", state="absent")
    assert site.query("SELECT name FROM disk_snapshot") == []
    assert not site.disk().parent.exists()
