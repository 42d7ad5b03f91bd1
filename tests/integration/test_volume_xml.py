# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Devices for KubeVirt's volumes, given to the libvirt of Debian 13 and of Debian 12.

libvirt must accept each definition by its own schema and return every device as declared.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._core.records import replace
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt import domain_xml
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.filesystem import filesystems
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.volume_disk import volume_disks
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.difference import first_difference
from ansible_collections.granary.vmstore.plugins.module_utils._volume.conversion import DomainDevices, convert
from kubevirt_cases import Case, domain_of

FIXTURES = Path(__file__).resolve().parents[1] / "unit" / "_volume"
#: Facts about the libvirt of each machine: 11.3 and 9.0. One of them runs the helper for reservations itself.
MACHINES: Mapping[str, Mapping[str, Any]] = {
    "hv1": {"has_disk_io_threads": True, "has_discard_granularity": True, "reservation_socket": None},
    "old": {"has_disk_io_threads": False, "has_discard_granularity": False},
}
BASE = """
<domain type='qemu'>
  <name>volumes</name>
  <vcpu>4</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
</domain>
"""
#: Defines each document of the standard input, and prints the definitions that libvirt keeps.
DEFINE = """
set -e
while IFS= read -r document; do
    printf '%s' "$document" > /tmp/volumes.xml
    virsh --quiet define --validate /tmp/volumes.xml > /dev/null
    virsh domxml-to-native qemu-argv /tmp/volumes.xml > /dev/null
    virsh dumpxml --inactive volumes
    echo
    echo -- end --
    virsh --quiet undefine volumes
done
"""

#: A declaration with one of everything.
EVERYTHING: Mapping[str, Any] = {
    "spec": {
        "domain": {
            "ioThreadsPolicy": "auto",
            "cpu": {"cores": 4},
            "devices": {
                "blockMultiQueue": True,
                "downwardMetrics": {},
                "disks": [
                    {
                        "name": "root",
                        "disk": {"bus": "virtio"},
                        "bootOrder": 1,
                        "serial": "ROOT-1",
                        "dedicatedIOThread": True,
                    },
                    {
                        "name": "shared",
                        "disk": {"bus": "virtio", "pciAddress": "0000:09:00.0"},
                        "shareable": True,
                        "errorPolicy": "report",
                    },
                    {"name": "lun", "lun": {"reservation": True}},
                    {"name": "slow", "disk": {"bus": "sata"}, "cache": "writethrough", "io": "threads"},
                    {"name": "stick", "disk": {"bus": "usb", "readonly": True}, "serial": "USB_1"},
                    {
                        "name": "big",
                        "disk": {"bus": "scsi"},
                        "blockSize": {"custom": {"logical": 4096, "physical": 4096}},
                    },
                    {"name": "iso", "cdrom": {"bus": "sata", "tray": "open"}, "bootOrder": 2},
                    {"name": "none", "cdrom": {"bus": "scsi"}},
                    {"name": "metrics", "disk": {"bus": "virtio"}},
                ],
                "filesystems": [{"name": "home", "virtiofs": {}}],
            },
        },
        "volumes": [
            {"name": "root", "containerDisk": {"image": "registry.example/guest:1"}},
            {"name": "shared", "persistentVolumeClaim": {"claimName": "s"}},
            {"name": "lun", "persistentVolumeClaim": {"claimName": "l"}},
            {"name": "slow", "hostDisk": {"path": "/data/a.img", "type": "Disk"}},
            {"name": "stick", "cloudInitNoCloud": {"userData": "x"}},
            {"name": "big", "emptyDisk": {"capacity": "1Gi"}},
            {"name": "iso", "configMap": {"name": "m"}},
            {"name": "metrics", "downwardMetrics": {}},
            {"name": "home", "dataVolume": {"name": "home"}},
        ],
        "x-context": {"block_volumes": ["lun", "shared"], "o_direct": {"slow": False}},
    },
    "expect": {},
}
#: Declarations for a new libvirt.
NEW: Mapping[str, Any] = {
    "spec": {
        "domain": {
            "ioThreadsPolicy": "supplementalPool",
            "ioThreads": {"supplementalPoolThreadCount": 2},
            "devices": {
                "disks": [
                    {
                        "name": "a",
                        "disk": {"bus": "virtio"},
                        "blockSize": {"custom": {"logical": 512, "physical": 4096, "discardGranularity": 4096}},
                    }
                ]
            },
        },
        "volumes": [{"name": "a", "emptyDisk": {"capacity": "1Gi"}}],
    },
    "expect": {},
}


def read_cases() -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "everything", EVERYTHING
    yield "new", NEW
    for path in sorted((FIXTURES / "cases").glob("*.json")):
        case = json.loads(path.read_text())
        if "domain" in case["spec"] and "arch" not in case["spec"].get("x-context", {}):
            yield path.stem, case
    for path in sorted((FIXTURES / "examples").glob("*.json")):
        for document in json.loads(path.read_text()):
            spec = document["spec"].get("template", document)["spec"]
            blocks = [one["name"] for one in spec.get("volumes", []) if "persistentVolumeClaim" in one]
            yield path.stem, {"spec": {**spec, "x-context": {"block_volumes": blocks}}, "expect": {}}


def convert_case(data: Mapping[str, Any], support: Mapping[str, Any]) -> tuple[DomainDevices, ET.Element] | None:
    """Return the devices and the domain of a case; ``None`` for a case that is refused."""
    case = Case(data)
    case.facts = replace(case.facts, **support)
    try:
        spec = case.declaration()
        devices = convert(spec, case.facts, case.volumes(spec), {one.name: "/srv" for one in spec.filesystems})
    except VmstoreError:
        return None
    root = domain_xml.parse(BASE)
    root.extend(domain_of(devices, case.facts))
    root.find("memory").text = "262144"
    return devices, root


@pytest.mark.parametrize("machine", MACHINES)
def test_libvirt_takes_the_devices_as_they_are_declared(execute: Callable[..., str], machine: str) -> None:
    converted = {
        f"{name} {place}": found
        for place, (name, data) in enumerate(read_cases())
        if (found := convert_case(data, MACHINES[machine])) is not None
    }
    assert len(converted) > 40
    lines = [domain_xml.to_text(root).replace("\n", " ") for _devices, root in converted.values()]
    output = execute(machine, "bash", "-c", DEFINE, stdin="\n".join(lines) + "\n", deadline=600)
    printed = [domain_xml.parse(text) for text in output.split("-- end --") if text.strip()]
    assert len(printed) == len(converted)
    for (name, (devices, root)), back in zip(converted.items(), printed, strict=True):
        check_domain(name, devices, root, back)


def check_domain(name: str, devices: DomainDevices, root: ET.Element, back: ET.Element) -> None:
    """Require that libvirt's definition ``back`` has the devices, and their elements as they were written."""
    found = {disk.name: disk for _element, disk in volume_disks(back)}
    assert found.keys() == {disk.name for disk in devices.disks}, name
    assert [disk.differences(found[disk.name]) for disk in devices.disks] == [[]] * len(found), name
    assert tuple(filesystem for _element, filesystem in filesystems(back)) == devices.filesystems, name
    written = domain_xml.devices(root)
    assert first_difference(written, domain_xml.devices(back), frozenset([written, *written])) is None, name
    for tag in ("iothreads", "cputune", "memoryBacking"):
        element, kept = root.find(tag), back.find(tag)
        assert (element is None) == (kept is None), name
        assert element is None or first_difference(element, kept) is None, name
