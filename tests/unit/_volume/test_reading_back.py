# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Devices of a domain as a declaration, which gives the same devices again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidDeclaration, VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._core.problems import Problem
from ansible_collections.granary.vmstore.plugins.module_utils._core.records import replace
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt import domain_xml
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.filesystem import VirtioFs
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.volume_disk import (
    DiskLayer,
    VolumeDisk,
    volume_disks,
)
from ansible_collections.granary.vmstore.plugins.module_utils._model.domain_volumes import DomainVolumes
from ansible_collections.granary.vmstore.plugins.module_utils._model.idmap import IdMap
from ansible_collections.granary.vmstore.plugins.module_utils._volume.admission.declaration import accept_declaration
from ansible_collections.granary.vmstore.plugins.module_utils._volume.conversion import DomainDevices, convert
from ansible_collections.granary.vmstore.plugins.module_utils._volume.facts import DomainFacts, VolumeFacts
from ansible_collections.granary.vmstore.plugins.module_utils._volume.io_threads import IoThreads
from ansible_collections.granary.vmstore.plugins.module_utils._volume.reading.readers import camel_case
from ansible_collections.granary.vmstore.plugins.module_utils._volume.reading_back.declaration import (
    FoundDomain,
    read_back,
    refused_names,
)
from ansible_collections.granary.vmstore.plugins.module_utils._volume.reading_back.disks import FoundVolume
from hypothesis import assume, example, given
from hypothesis import strategies as st
from kubevirt_cases import Case, domain_of
from kubevirt_declarations import FILE, SOURCES, declarations, is_claim

CASES = {path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "cases").glob("*.json"))}
OPTIONS = ("config_maps", "secrets", "service_accounts")
KEYS = {camel_case(name): name for name in SOURCES}


def require_same_devices(
    spec: DomainVolumes, options: Mapping[str, Any], facts: DomainFacts, volumes: Mapping[str, VolumeFacts]
) -> dict[str, Any]:
    """Require that a declaration is read back from its devices, and gives the same devices again.

    :arg options: the declaration as plain data, whose sources are those that a service finds.
    """
    directories = {one.name: f"/srv/{one.name}" for one in spec.filesystems}
    devices = convert(spec, facts, volumes, directories)
    root = domain_xml.parse(domain_xml.to_text(domain_of(devices, facts)))
    found = replace(devices, disks=tuple(disk for _element, disk in volume_disks(root)))
    facts = replace(facts, targets={disk.name: disk.target for disk in found.disks})
    sources = {
        volume["name"]: {KEYS.get(key, key): one for key, one in volume.items() if key not in ("name", "thick")}
        for volume in options["volumes"]
    }
    data = {name: FoundVolume(source, volumes.get(name)) for name, source in sources.items()}
    tags = {disk.name: disk.tag for disk in spec.disks if disk.tag is not None}
    declaration = read_back(FoundDomain(found, data, facts, tags))
    content = {option: options[option] for option in OPTIONS if option in options}
    again = accept_declaration({**declaration, **content}, facts)
    changed = convert(again, facts, volumes, directories)
    assert [disk.differences(one) for disk, one in zip(changed.disks, found.disks, strict=True)] == [
        [] for _disk in found.disks
    ]
    assert changed.filesystems == devices.filesystems
    # Threads that no disk has stay without a policy.
    assert changed.io_threads in (devices.io_threads, *([] if devices.io_threads.threads else [IoThreads()]))
    others = ("scsi_model", "needs_shared_memory", "has_metrics_port")
    assert [getattr(changed, name) for name in others] == [getattr(devices, name) for name in others]
    assert [disk.tag for disk in again.disks][: len(spec.disks)] == [disk.tag for disk in spec.disks]
    # The declaration of these devices is the same again.
    assert read_back(FoundDomain(replace(changed, disks=found.disks), data, facts, tags)) == declaration
    return declaration


DATA = st.builds(
    lambda has_direct_io, is_thick, is_allocated: {
        "has_direct_io": has_direct_io,
        "is_thick": is_thick,
        "is_allocated": is_allocated,
    },
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


@given(declarations(), st.booleans(), DATA)
def test_a_declaration_is_read_back_from_the_devices(
    options: Mapping[str, Any], is_block: bool, data: Mapping[str, bool]
) -> None:
    facts = DomainFacts(vcpus=2)
    spec = accept_declaration(options, facts)
    volumes = {
        volume["name"]: VolumeFacts(
            DiskLayer(f"/dev/{volume['name']}", True) if is_block or is_claim(volume) else FILE, **data
        )
        for volume in options["volumes"]
    }
    try:
        convert(spec, facts, volumes, dict.fromkeys(volumes, "/srv"))
    except InvalidDeclaration:  # the cache without direct input and output
        assume(False)
    require_same_devices(spec, options, facts, volumes)


def convert_case(data: Mapping[str, Any]) -> tuple[Case, DomainVolumes] | None:
    """Return a case with its declaration; ``None`` for a case that is refused, or that is about something else."""
    case = Case(data)
    if "request" in case.context:
        return None
    try:
        spec = case.declaration()
        convert(spec, case.facts, case.volumes(spec), {one.name: "/srv" for one in spec.filesystems})
    except VmstoreError:
        return None
    return case, spec


CONVERTED = {name: found for name, data in CASES.items() if (found := convert_case(data)) is not None}


@pytest.mark.parametrize("name", CONVERTED)
def test_a_case_is_read_back(name: str) -> None:
    case, spec = CONVERTED[name]
    content = {"data": {"unattend.xml": "", "userdata": "x", "networkdata": "x", "token": ""}}
    options: dict[str, Any] = {"volumes": case.manifest.get("volumes") or []}
    for option in OPTIONS:
        options[option] = dict.fromkeys(getattr(spec, option), content)
    require_same_devices(spec, options, case.facts, case.volumes(spec))


def test_no_case_is_left_out() -> None:
    refused = {name for name, case in CASES.items() if "reject" in case["expect"]}
    requests = {name for name, case in CASES.items() if "request" in (case["spec"].get("x-context") or {})}
    # The declaration of one refused case is right. Its host lacks the space.
    assert CASES.keys() - CONVERTED.keys() == (refused - {"KX-008"}) | requests
