# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The volumes of a domain on libvirt's own test driver, while other programs change the host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidDeclaration
from ansible_collections.granary.vmstore.plugins.module_utils._core.problems import MOST_PROBLEMS
from ansible_collections.granary.vmstore.plugins.module_utils._service import host_lock
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.container_disks import PullOptions
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.host import VolumesHost
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.one_domain import OneDomain
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.options import (
    DOMAIN_OPTIONS,
    DOMAIN_VOLUMES_SPEC,
    VolumesOptions,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.volumes import DomainVolumesService

URI = "test:///default"
DOMAIN = (
    "<domain type='test'><name>{}</name><memory unit='MiB'>64</memory><os><type arch='i686'>hvm</type></os>"
    "<devices>{}</devices></domain>"
)
DISK = "<disk type='file' device='disk'><source file='{}'/><target dev='vda' bus='virtio'/></disk>"


@pytest.fixture
def connection() -> Iterator[libvirt.virConnect]:
    libvirt.registerErrorHandler(lambda *unused: None, None)
    opened = libvirt.open(URI)
    yield opened
    for domain in opened.listAllDomains():
        if domain.name() in ("web", "other"):
            domain.undefine()
    opened.close()


def test_a_writer_that_came_before_the_lock_was_taken(
    connection: libvirt.virConnect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with many domains takes the lock for each of them, and other runs have their turn between."""
    monkeypatch.setattr(host_lock, "DIRECTORY", str(tmp_path / "lock"))
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    connection.defineXML(DOMAIN.format("web", ""))
    host = VolumesHost(URI)
    assert str(image) not in host.writers
    connection.defineXML(DOMAIN.format("other", DISK.format(image)))
    declaration = {
        "disks": [{"name": "data", "disk": {"bus": "virtio"}}],
        "volumes": [{"name": "data", "hostDisk": {"path": str(image), "type": "Disk"}}],
        "disable_hotplug": True,
    }
    options = VolumesOptions(
        domain="web",
        declaration=declaration,
        claims=None,
        purge=False,
        directory=str(tmp_path / "volumes"),
        pull=PullOptions(),
        cache=str(tmp_path / "cache"),
        uri=URI,
        catalog=str(tmp_path / "catalog"),
        restart="never",
        restart_timeout=1,
    )
    with pytest.raises(InvalidDeclaration) as caught:
        OneDomain(options, host).converge()
    assert [one.rule for one in caught.value.problems] == ["volume_in_use"]
    assert "<disk" not in connection.lookupByName("web").XMLDesc()


def invalid_domains(
    connection: libvirt.virConnect, directory: Path, volumes: list[dict[str, Any]]
) -> DomainVolumesService:
    """Return the service for two domains with the same volumes."""
    names = ("web", "other")
    for name in names:
        connection.defineXML(DOMAIN.format(name, ""))
    blank = {name: option.get("default") for name, option in DOMAIN_VOLUMES_SPEC.argument_spec.items()}
    one = {name: option.get("default") for name, option in DOMAIN_OPTIONS.items()}
    domains = [{**one, "domain": name, "volumes": volumes} for name in names]
    return DomainVolumesService({**blank, "uri": URI, "directory": str(directory), "domains": domains})


def test_the_problems_of_all_domains(connection: libvirt.virConnect, tmp_path: Path) -> None:
    with pytest.raises(InvalidDeclaration) as caught:
        invalid_domains(connection, tmp_path, [{"name": "a"}]).dry_run()
    assert [one.path for one in caught.value.problems] == ["domains[0].volumes[0]", "domains[1].volumes[0]"]


def test_the_problems_of_all_domains_are_bounded(connection: libvirt.virConnect, tmp_path: Path) -> None:
    volumes = [{"name": f"a{number}"} for number in range(MOST_PROBLEMS - 1)]
    with pytest.raises(InvalidDeclaration) as caught:
        invalid_domains(connection, tmp_path, volumes).dry_run()
    assert len(caught.value.problems) == MOST_PROBLEMS
