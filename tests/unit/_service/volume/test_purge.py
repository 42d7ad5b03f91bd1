# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The removal of images that go with a domain, on libvirt's own test driver, while QEMU's locks keep an image."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import Conflict, PartlyDone
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._service import host_lock
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.images import IMAGE_SPEC, ImageService
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.info import image_info
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.options import DOMAIN_VOLUMES_SPEC
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.volumes import DomainVolumesService
from refusal import refused

URI = "test:///default"
DOMAIN = (
    "<domain type='test'><name>web</name><memory unit='MiB'>64</memory><os><type arch='i686'>hvm</type></os>"
    "<devices/></domain>"
)


@pytest.fixture
def domain() -> Iterator[libvirt.virDomain]:
    libvirt.registerErrorHandler(lambda *unused: None, None)
    connection = libvirt.open(URI)
    defined = connection.defineXML(DOMAIN)
    yield defined
    defined.undefine()
    connection.close()


@pytest.fixture
def service(
    domain: libvirt.virDomain, catalog: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., DomainVolumesService]:
    """Return a function that returns the service for the data volumes ``names``, with ``purge``."""
    monkeypatch.setattr(host_lock, "DIRECTORY", str(tmp_path / "lock"))

    def bind(*names: str) -> DomainVolumesService:
        storage = {"resources": {"requests": {"storage": "1Mi"}}, "storageClassName": "more"}
        options: dict[str, Any] = {
            "domain": "web",
            "uri": URI,
            "catalog": catalog,
            "directory": str(tmp_path / "volumes"),
            "cache": str(tmp_path / "cache"),
            "disable_hotplug": True,
            "purge": True,
            "disks": [{"name": name, "disk": {"bus": "virtio"}} for name in names],
            "volumes": [{"name": name, "dataVolume": {"name": name}} for name in names],
            "data_volume_templates": [
                {"metadata": {"name": name}, "spec": {"source": {"blank": {}}, "storage": storage}} for name in names
            ],
        }
        defaults = {name: option.get("default") for name, option in DOMAIN_VOLUMES_SPEC.argument_spec.items()}
        return DomainVolumesService({**defaults, **options})

    return bind


def images(catalog: str) -> dict[str, str]:
    found = image_info({"name": None, "datastore": None, "catalog": catalog})["images"]
    assert isinstance(found, list)
    return {one["name"]: one["path"] for one in found}


def names_of(plan: Plan) -> list[str]:
    return [action.name for action in plan.actions]


def test_a_failed_removal_is_repeated(
    service: Callable[..., DomainVolumesService], domain: libvirt.virDomain, catalog: str
) -> None:
    assert names_of(service("kept", "free").converge()) == ["create image"] * 2 + ["change definition"]
    kept = images(catalog)["kept"]
    foreseen = service().dry_run()
    assert names_of(foreseen) == ["change definition"] + ["remove image"] * 2
    program = ["qemu-io", "-f", "raw", kept]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        process.stdin.write(b"read 0 512\n")
        process.stdin.flush()
        assert b"read 512/512" in process.stdout.readline()
        with refused(PartlyDone, names=["'kept'"]) as caught:
            service().converge()
        # One image keeps no other one.
        assert names_of(caught.value.plan) == ["change definition", "remove image"]
        assert set(images(catalog)) == {"kept"} and Path(kept).exists()
        with refused(Conflict, names=["'kept'"]):
            service().converge()
    assert names_of(service().dry_run()) == ["remove image"]
    done = service().converge()
    assert (names_of(done), [action.subject for action in done.actions]) == (["remove image"], ["kept"])
    assert images(catalog) == {} and not Path(kept).exists()
    assert "granary" not in domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    assert not service().converge().changed


def test_an_image_that_somebody_else_removed_is_forgotten(
    service: Callable[..., DomainVolumesService], domain: libvirt.virDomain, catalog: str
) -> None:
    """Otherwise a later image of this name would be removed."""
    service("gone").converge()
    remove = {"name": "gone", "state": "absent", "force": True}
    blank = {name: option.get("default") for name, option in IMAGE_SPEC.argument_spec.items()}
    ImageService({**blank, **remove, "catalog": catalog}).converge()
    assert names_of(service().converge()) == ["change definition"]
    assert "granary" not in domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
