# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declarations of every form: untrusted data is read or refused, and declared disks stand in the XML as declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidDeclaration, InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._core.problems import Problems
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt import domain_xml
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.filesystem import filesystems
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.volume_disk import (
    DiskLayer,
    volume_disks,
)
from ansible_collections.granary.vmstore.plugins.module_utils._volume.admission.declaration import accept_declaration
from ansible_collections.granary.vmstore.plugins.module_utils._volume.conversion import convert
from ansible_collections.granary.vmstore.plugins.module_utils._volume.facts import DomainFacts, VolumeFacts
from ansible_collections.granary.vmstore.plugins.module_utils._volume.manifest import read_manifest
from ansible_collections.granary.vmstore.plugins.module_utils._volume.reading.declaration import read_declaration
from hypothesis import given
from hypothesis import strategies as st
from kubevirt_cases import domain_of
from kubevirt_declarations import FILE, declarations, is_claim

#: Keys that a declaration can have somewhere, and texts that are wrong everywhere.
KEYS = st.sampled_from(
    """name disks filesystems volumes disk lun cdrom bus serial bootOrder cache io blockSize custom logical physical
    matchVolume persistentVolumeClaim claimName dataVolume emptyDisk capacity hostDisk path type cloudInitNoCloud
    userData userDataBase64 secretRef configMap secret secretName virtiofs uid_map target data_volume_templates x
    metadata spec source http url pvc storage resources requests labels io_threads config_maps secrets data kind
    binary_data template domain devices downwardAPI fields fieldRef fieldPath""".split()
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["virtio", "1Gi", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=4),
    max_leaves=25,
)


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_any_data_is_read_or_refused(options: dict[str, Any]) -> None:
    problems = Problems()
    spec = read_declaration(problems, options)
    assert isinstance(spec.disks, tuple)
    try:
        accept_declaration(options, DomainFacts())
    except InvalidDeclaration as error:
        assert error.problems and all(one.path and one.accepted and one.rule for one in error.problems)


@given(VALUES)
def test_any_manifest_is_read_or_refused(value: Any) -> None:
    for machine in (
        {"kind": "VirtualMachine", "spec": value},
        {"kind": "VirtualMachineInstance", "spec": {"domain": value}},
    ):
        try:
            read_manifest([machine, {"kind": "ConfigMap", "metadata": value, "data": value}])
        except (InvalidDeclaration, InvalidInput):
            pass


@given(declarations(), st.booleans())
def test_a_declaration_is_read_back_from_the_domain(options: Mapping[str, Any], is_block: bool) -> None:
    facts = DomainFacts(vcpus=2)
    spec = accept_declaration(options, facts)
    layers = {
        volume["name"]: VolumeFacts(DiskLayer(f"/dev/{volume['name']}", True) if is_block or is_claim(volume) else FILE)
        for volume in options["volumes"]
    }
    devices = convert(spec, facts, layers, {one["name"]: f"/srv/{one['name']}" for one in options["filesystems"]})
    root = domain_xml.parse(domain_xml.to_text(domain_of(devices, facts)))
    assert tuple(disk for _element, disk in volume_disks(root)) == devices.disks
    assert tuple(filesystem for _element, filesystem in filesystems(root)) == devices.filesystems
    assert len({disk.target for disk in devices.disks}) == len(devices.disks)
    # The same declaration for the domain as it is now changes nothing.
    again = DomainFacts(vcpus=2, targets={disk.name: disk.target for disk in devices.disks})
    assert convert(spec, again, layers, dict.fromkeys(layers, "/srv")).disks == devices.disks
