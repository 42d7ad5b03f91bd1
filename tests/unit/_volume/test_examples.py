# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples of KubeVirt's guide (examples/*.json, spec: kubevirt-disks-and-volumes): the devices of each.

Each disk is written as ``name device/bus target format cache``, and then its other properties.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidDeclaration, InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.volume_disk import VolumeDisk
from ansible_collections.granary.vmstore.plugins.module_utils._volume.conversion import DomainDevices, convert
from ansible_collections.granary.vmstore.plugins.module_utils._volume.manifest import read_manifest
from kubevirt_cases import Case
from refusal import refused

EXAMPLES = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "examples").glob("*.json")}

#: Blocks of the guide whose claim is a block device, because a lun needs one.
ON_BLOCK = {"lun", "claim", "cloud-init-config-drive", "cloud-init-no-cloud", "shareable"}

#: The properties that every disk of these examples has.
USUAL = {"error_policy": "stop", "discard": "unmap"}
#: The properties that the description begins with, or that follow from it.
DESCRIBED = ("name", "device", "bus", "target", "layer", "cache", "backing", "model", "scsi_address", "tray")

CONTAINER = "containerdisk disk/virtio vda qcow2 none"
CLOUD_INIT = "cloudinitdisk disk/virtio vdb raw none"
AUTOMATIC = "cloudinitdisk disk/sata sda raw none"
THREADS = {
    "shared": (3, (1, 2, 3, 1, 1, 1, 1)),
    "auto": (4, (1, 3, 4, 2, 1, 2, 1)),
}

EXPECTED: dict[str, list[str]] = {
    "cache-writethrough": ["pvcdisk disk/virtio vda raw writethrough"],
    "cdrom": ["mypvcdisk cdrom/sata sda raw none read_only=False"],
    "claim": ["mypvcdisk lun/scsi sda raw none io=native"],
    "claim-filesystem": [CONTAINER, CLOUD_INIT, "filesystem virtiofs-disk"],
    "cloud-init-config-drive": [
        "mybootdisk lun/scsi sda raw none io=native",
        "myconfigdrivedisk disk/sata sdb raw none",
    ],
    "cloud-init-no-cloud": ["mybootdisk lun/scsi sda raw none io=native", "mynoclouddisk disk/sata sdb raw none"],
    "config-map-disk": [CONTAINER, CLOUD_INIT, "app-config-disk disk/sata sda raw none serial=CVLY623300HK240D"],
    "config-map-filesystem": [CONTAINER, AUTOMATIC, "filesystem config-fs"],
    "container-disk": ["containerdisk disk/sata sda qcow2 none"],
    "container-disk-path": ["containerdisk disk/sata sda qcow2 none"],
    "data-volume": ["disk1 disk/virtio vda raw none"],
    "data-volume-of-a-vm": ["datavolumedisk1 disk/virtio vda raw none"],
    "disk": ["mypvcdisk disk/sata sda raw none"],
    "disk-bus": ["mypvcdisk disk/virtio vda raw none"],
    "downward-metrics-disk": [CONTAINER, "metrics disk/virtio vdb raw none discard=None read_only=True"],
    "downward-metrics-port": [CONTAINER, "port"],
    "empty-disk": [CONTAINER, "emptydisk disk/virtio vdb qcow2 none"],
    "host-disk": ["host-disk disk/virtio vda raw none"],
    "lun": ["mypvcdisk lun/scsi sda raw none io=native"],
    "multi-queue": ["mypvcdisk disk/virtio vda raw none queues=4"],
    "node-directory": [CONTAINER, CLOUD_INIT, "filesystem vm-hostpath"],
    "secret-disk": [CONTAINER, CLOUD_INIT, "app-secret-disk disk/sata sda raw none serial=D23YZ9W6WA5DJ487"],
    "secret-filesystem": [CONTAINER, AUTOMATIC, "filesystem app-secret-fs"],
    "service-account-disk": ["containerdisk disk/sata sda qcow2 none", "serviceaccountdisk disk/sata sdb raw none"],
    "service-account-filesystem": [CONTAINER, AUTOMATIC, "filesystem serviceaccount-fs"],
    "shareable": [CONTAINER, CLOUD_INIT, "block-disk disk/virtio vdc raw none io=native shareable=True"],
}
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
