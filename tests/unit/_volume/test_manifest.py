# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Manifests of KubeVirt as options, in the engine. tests/unit/_face/test_vmi_volumes.py runs the filter."""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidDeclaration, InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._volume.admission.declaration import accept_declaration
from ansible_collections.granary.vmstore.plugins.module_utils._volume.facts import DomainFacts
from ansible_collections.granary.vmstore.plugins.module_utils._volume.manifest import read_manifest
from refusal import refused

DISKS = [
    {"name": "root", "disk": {"bus": "virtio"}, "bootOrder": 1, "changedBlockTracking": True},
    {"name": "data", "disk": {"bus": "scsi"}, "dedicatedIOThread": False},
    {"name": "config", "cdrom": {"readonly": True}},
]
VOLUMES = [
    {"name": "root", "dataVolume": {"name": "golden"}},
    {"name": "data", "persistentVolumeClaim": {"claimName": "web-data"}},
    {"name": "config", "configMap": {"name": "web"}},
    {"name": "keys", "secret": {"secretName": "keys"}},
    {"name": "account", "serviceAccount": {"serviceAccountName": "default"}},
    {"name": "dump", "memoryDump": {"claimName": "dump"}},
]
TEMPLATES = [
    {
        "metadata": {"name": "golden"},
        "spec": {"source": {"http": {"url": "https://example.org/a.qcow2"}}, "storage": {}},
    }
]
MACHINE = {
    "apiVersion": "kubevirt.io/v1",
    "kind": "VirtualMachine",
    "metadata": {"name": "web", "namespace": "team", "labels": {"outer": "1"}},
    "spec": {
        "runStrategy": "Always",
        "instancetype": {"name": "u1.small"},
        "dataVolumeTemplates": TEMPLATES,
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "hostname": "web1",
                "networks": [{"name": "default", "pod": {}}],
                "affinity": {},
                "domain": {
                    "resources": {"requests": {"memory": "1Gi"}},
                    "ioThreadsPolicy": "auto",
                    "devices": {
                        "blockMultiQueue": True,
                        "downwardMetrics": {},
                        "rng": {},
                        "interfaces": [{"name": "default"}],
                        "disks": DISKS,
                        "filesystems": [{"name": "keys", "virtiofs": {}}],
                    },
                },
                "volumes": VOLUMES,
            },
        },
    },
}
OBJECTS = [
    {"kind": "ConfigMap", "metadata": {"name": "web"}, "data": {"a.conf": "x"}, "binaryData": {"b": "AAE="}},
    {
        "kind": "Secret",
        "metadata": {"name": "keys"},
        "data": {"id": base64.b64encode(b"secret").decode()},
        "stringData": {"user": "me"},
    },
    {
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "web-data", "annotations": {"x/storage.thick-provisioned": "true", "x": 10**9999}},
    },
    {"kind": "PersistentVolumeClaim", "metadata": {"name": "golden"}},
    {"kind": "Service", "metadata": {"name": "web"}},
]


def test_a_virtual_machine_and_its_objects() -> None:
    documents = [*OBJECTS[:2], MACHINE, *OBJECTS[2:]]
    before = copy.deepcopy(documents)
    found = read_manifest(documents)
    assert documents == before
    assert found.options == {
        "domain": "web",
        "metadata": {"name": "web", "namespace": "team", "labels": {"app": "web"}, "hostname": "web1"},
        "disks": [{key: one for key, one in disk.items() if key != "changedBlockTracking"} for disk in DISKS],
        "filesystems": [{"name": "keys", "virtiofs": {}}],
        "volumes": [VOLUMES[0], {**VOLUMES[1], "thick": True}, *VOLUMES[2:5]],
        "data_volume_templates": TEMPLATES,
        "block_multi_queue": True,
        "downward_metrics": True,
        "io_threads_policy": "auto",
        "config_maps": {"web": {"data": {"a.conf": "x"}, "binary_data": {"b": "AAE="}}},
        "secrets": {"keys": {"data": {"user": "me"}, "binary_data": {"id": "c2VjcmV0"}}},
    }
    ignored = [warning.partition(" is ignored")[0] for warning in found.warnings if " is ignored" in warning]
    assert sorted(ignored) == [
        "The object 'web' of the kind Service",
        "The volume 'dump'",
        "changedBlockTracking of the disk 'root'",
        "spec.affinity",
        "spec.domain.devices.interfaces",
        "spec.domain.devices.rng",
        "spec.domain.resources",
        "spec.instancetype",
        "spec.networks",
    ]
    assert [one for one in found.warnings if " is ignored" not in one] == [
        "The volume 'account' needs 'default' in the option service_accounts: the manifest lacks its content."
    ]


def test_the_options_are_those_of_the_module() -> None:
    """The module has the option ``domain``, too."""
    options = read_manifest([MACHINE, *OBJECTS]).options
    del options["domain"]
    accounts = {"default": {"data": {"token": "x"}}}
    spec = accept_declaration({**options, "service_accounts": accounts}, DomainFacts())
    assert [disk.name for disk in spec.disks] == ["root", "data", "config"]
    assert spec.secrets["keys"].data == {"user": b"me", "id": b"secret"}
    assert [volume.thick for volume in spec.volumes] == [None, True, None, None, None]
    assert spec.downward_metrics


@pytest.mark.parametrize("documents", [[], OBJECTS, [MACHINE, MACHINE]])
def test_one_virtual_machine_is_expected(documents: list[Any]) -> None:
    with refused(InvalidInput, option="manifest"):
        read_manifest(documents)


@pytest.mark.parametrize(
    ("devices", "volumes", "rules"),
    [
        ({"disks": [{"name": "a", "disk": {"bus": "x"}}]}, VOLUMES, ["bus"]),
        ({"disks": {"name": "a"}, "filesystems": "a"}, VOLUMES, ["type", "type"]),
        ({"disks": ["a"]}, [{"name": 1}, "b"], ["type", "type", "type"]),
    ],
)
def test_what_the_module_cannot_read_is_refused(devices: Any, volumes: Any, rules: list[str]) -> None:
    with refused(InvalidDeclaration) as caught:
        read_manifest(
            [{"kind": "VirtualMachineInstance", "spec": {"domain": {"devices": devices}, "volumes": volumes}}]
        )
    assert sorted(one.rule for one in caught.value.problems) == rules


@pytest.mark.parametrize(
    "machine", [{"spec": None}, {"spec": {"domain": []}}, {"spec": {"template": {"spec": "x"}}}, {}]
)
def test_a_manifest_without_volumes(machine: dict[str, Any]) -> None:
    assert read_manifest([{"kind": "VirtualMachine", **machine}]).options == {}
