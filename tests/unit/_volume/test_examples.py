# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The conversion of the examples of KubeVirt's guide: the devices of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidDeclaration, InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.volume_disk import VolumeDisk
from ansible_collections.granary.vmstore.plugins.module_utils._volume.conversion import DomainDevices, convert
from ansible_collections.granary.vmstore.plugins.module_utils._volume.manifest import read_manifest
from kubevirt_cases import Case
from kubevirt_examples import EXAMPLES, EXPECTED, ON_BLOCK, THREADS
from refusal import refused

#: The properties that every disk of these examples has.
USUAL = {"error_policy": "stop", "discard": "unmap"}
#: The properties that the description begins with, or that follow from it.
DESCRIBED = ("name", "device", "bus", "target", "layer", "cache", "backing", "model", "scsi_address", "tray")

#: Examples that are refused, or whose result is a table of threads.
OTHERS = {"ephemeral", "filesystems-under-domain", "io-threads-auto", "io-threads-shared"}


def instance_of(document: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a manifest that a case has."""
    spec = document["spec"]
    if "template" not in spec:
        return spec
    templates = {"dataVolumeTemplates": spec["dataVolumeTemplates"]} if "dataVolumeTemplates" in spec else {}
    return {**spec["template"]["spec"], **templates}


def convert_instance(instance: dict[str, Any], *blocks: str) -> DomainDevices:
    case = Case({"spec": {**instance, "x-context": {"block_volumes": blocks}}, "expect": {}})
    spec = case.declaration()
    return convert(spec, case.facts, case.volumes(spec), {one.name: "/srv" for one in spec.filesystems})


def describe(disk: VolumeDisk) -> str:
    assert disk.layer is not None
    words = [disk.name, f"{disk.device}/{disk.bus}", disk.target, disk.layer.format, str(disk.cache)]
    default = VolumeDisk(disk.name, disk.target, disk.bus)
    for name, value in vars(disk).items():
        usual = disk.device == "cdrom" if name == "read_only" else USUAL.get(name, getattr(default, name))
        if name not in DESCRIBED and value != usual:
            words.append(f"{name}={value}")
    return " ".join(words)


def described(devices: DomainDevices) -> Iterator[str]:
    yield from map(describe, devices.disks)
    yield from (f"filesystem {one.tag}" for one in devices.filesystems)
    yield from ["port"] * devices.has_metrics_port


def test_every_example_has_a_result() -> None:
    assert EXPECTED.keys() | OTHERS == EXAMPLES.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_the_devices_of_an_example(name: str) -> None:
    for document in EXAMPLES[name]:
        instance = instance_of(document)
        blocks = [one["name"] for one in instance["volumes"] if "persistentVolumeClaim" in one and name in ON_BLOCK]
        assert list(described(convert_instance(instance, *blocks))) == EXPECTED[name]
        assert read_manifest([document]).options["metadata"]


@pytest.mark.parametrize("policy", THREADS)
def test_the_threads_of_an_example(policy: str) -> None:
    """The names with an underscore are none in Kubernetes either."""
    text = json.dumps(EXAMPLES[f"io-threads-{policy}"][0])
    devices = convert_instance(instance_of(json.loads(text.replace("vmi-shared_disk", "vmi-shared-disk"))))
    count, threads = THREADS[policy]
    assert devices.io_threads.count == count
    assert tuple(disk.io_thread for disk in devices.disks) == threads


def test_examples_that_kubevirt_refuses_too() -> None:
    with refused(InvalidDeclaration) as caught:
        convert_instance(instance_of(EXAMPLES["ephemeral"][0]))
    assert [(one.rule, one.path) for one in caught.value.problems] == [("lun_source", "disks[0].lun")]
    with refused(InvalidDeclaration) as caught:
        convert_instance(instance_of(EXAMPLES["io-threads-shared"][0]))
    assert [(one.rule, one.value) for one in caught.value.problems] == [("name", "vmi-shared_disk")] * 2
    with refused(InvalidInput, option="manifest"):
        read_manifest(EXAMPLES["filesystems-under-domain"])
