# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that a guest gets for a volume."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._core.records import replace
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.volume_disk import (
    DiskLayer,
    ScsiAddress,
    VolumeDisk,
)
from ansible_collections.granary.vmstore.plugins.module_utils._model.domain_volumes import DomainVolumes
from ansible_collections.granary.vmstore.plugins.module_utils._model.volume_sources import KeyedData
from ansible_collections.granary.vmstore.plugins.module_utils._volume.admission.declaration import accept_declaration
from ansible_collections.granary.vmstore.plugins.module_utils._volume.facts import DomainFacts
from ansible_collections.granary.vmstore.plugins.module_utils._volume.media import (
    Files,
    GuestFiles,
    Identity,
    label_of,
    tagged_devices,
)
from ansible_collections.granary.vmstore.plugins.module_utils._volume.tagged_disks import describe_tagged_disks
from refusal import refused

IDENTITY = Identity("web.example.org", "5d307ca9-b3ef-428c-8861-06e72d69f223", "kvm1")


def declare(source: dict[str, Any], **options: Any) -> DomainVolumes:
    return accept_declaration({"volumes": [{"name": "a", **source}], **options}, DomainFacts())


def files(source: dict[str, Any], identity: Identity = IDENTITY, **options: Any) -> Files:
    spec = declare(source, **options)
    found = GuestFiles(spec, identity).files_of(spec.volumes[0].source)
    assert found is not None
    return found


def test_no_cloud() -> None:
    source = {"cloudInitNoCloud": {"userData": "#cloud-config\n", "networkDataBase64": "dmVyc2lvbjogMgo="}}
    metadata = {"instance_type": "small", "public_keys": ["ssh-ed25519 A", "ssh-ed25519 B"]}
    found = files(source, metadata=metadata)
    assert {name: data for name, data in found.items() if name != "meta-data"} == {
        "user-data": b"#cloud-config\n",
        "network-config": b"version: 2\n",
    }
    assert json.loads(found["meta-data"]) == {
        "instance-id": IDENTITY.uuid,
        "instance-type": "small",
        "local-hostname": "web",
        "public-keys": {"0": "ssh-ed25519 A", "1": "ssh-ed25519 B"},
    }


def test_config_drive() -> None:
    source = {"cloud_init_config_drive": {"secret_ref": {"name": "s"}, "network_data_secret_ref": {"name": "n"}}}
    secrets = {"s": {"data": {"userData": "{}"}}, "n": {"binary_data": {"networkdata": "e30="}}}
    found = files(source, secrets=secrets, metadata={"name": "vm", "namespace": "team", "hostname": "web1"})
    assert sorted(found) == [
        "openstack/latest/meta_data.json",
        "openstack/latest/network_data.json",
        "openstack/latest/user_data",
    ]
    assert found["openstack/latest/user_data"] == found["openstack/latest/network_data.json"] == b"{}"
    assert json.loads(found["openstack/latest/meta_data.json"]) == {
        "hostname": "web1",
        "instance_id": "vm.team",
        "local_hostname": "web1",
        "uuid": IDENTITY.uuid,
    }


def test_the_disks_with_a_tag() -> None:
    disks = [
        VolumeDisk("a", "vda", "virtio", layer=DiskLayer("/a"), serial="A", pci_address="0000:01:00.0"),
        VolumeDisk("b", "sda", "scsi", layer=DiskLayer("/b"), scsi_address=ScsiAddress(0, 3)),
        VolumeDisk("c", "vdb", "virtio", layer=DiskLayer("/c")),
    ]
    devices = tagged_devices(disks, {"a": "data", "b": "logs"})
    assert devices == [
        {"type": "disk", "bus": "pci", "address": "0000:01:00.0", "serial": "A", "tags": ["data"]},
        {"type": "disk", "bus": "scsi", "address": "0:0:0:3", "tags": ["logs"]},
    ]
    spec = declare({"cloud_init_config_drive": {"user_data": "x"}})
    found = GuestFiles(spec, IDENTITY, devices=devices).files_of(spec.volumes[0].source) or {}
    assert json.loads(found["openstack/latest/meta_data.json"])["devices"] == devices


def places_of(*disks: dict[str, Any], **defined: VolumeDisk) -> tuple[list[Any], bool]:
    """Return the addresses of disks with a tag, and whether all addresses are known."""
    names = [disk["name"] for disk in disks]
    options = {"disks": [{"tag": "x", **disk} for disk in disks]}
    volumes = [{"name": name, "empty_disk": {"capacity": "1Mi"}} for name in names]
    found = describe_tagged_disks(
        accept_declaration({**options, "volumes": volumes}, DomainFacts()), DomainFacts(), defined
    )
    return [one.get("address") for one in found.devices], found.are_placed


def test_the_places_of_disks_with_a_tag() -> None:
    """libvirt chooses the address of a disk on virtio that is new or gets another place."""
    virtio = {"name": "a", "disk": {"bus": "virtio"}}
    present = VolumeDisk("a", "vda", "virtio", pci_address="0000:01:00.0")
    assert places_of(virtio) == ([None], False)
    assert places_of(virtio, a=present) == (["0000:01:00.0"], True)
    assert places_of(virtio, a=replace(present, target="vdb")) == ([None], False)
    assert places_of(virtio, a=replace(present, pci_address=None)) == ([None], True)  # on another kind of bus
    fixed = {"name": "a", "disk": {"bus": "virtio", "pci_address": "0000:02:00.0"}}
    assert places_of(fixed) == places_of(fixed, a=present) == (["0000:02:00.0"], True)
    scsi, sata = {"name": "b", "disk": {"bus": "scsi"}}, {"name": "c", "disk": {"bus": "sata"}}
    assert places_of(scsi, sata) == (["0:0:0:0", None], True)
    assert places_of({**virtio, "tag": None}) == ([], True)


def test_a_secret_without_its_key() -> None:
    with refused(
        InvalidInput,
        option="secrets",
        says="secrets: 's' is not accepted: a secret with the key userdata or userData is expected.",
    ):
        files({"cloud_init_no_cloud": {"secret_ref": {"name": "s"}}}, secrets={"s": {"data": {"password": "x"}}})


SOURCES = {
    "config_map": ({"configMap": {"name": "x"}}, "cfgdata"),
    "config_map with a label": ({"config_map": {"name": "x", "volume_label": "OEMDRV"}}, "OEMDRV"),
    "secret": ({"secret": {"secretName": "x", "volumeLabel": "cidata"}}, "cidata"),
    "service_account": ({"serviceAccount": {"serviceAccountName": "x"}}, "cfgdata"),
    "sysprep": ({"sysprep": {"secret": {"name": "x"}}}, "unattendCD"),
    "sysprep of a config map": ({"sysprep": {"configMap": {"name": "x"}}}, "unattendCD"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_texts_by_key(name: str) -> None:
    source, label = SOURCES[name]
    content = {"x": {"data": {"unattend.xml": "é"}, "binary_data": {"raw": "AAE="}}}
    options = dict.fromkeys(("config_maps", "secrets", "service_accounts"), content)
    assert files(source, **options) == {"unattend.xml": "é".encode(), "raw": b"\0\1"}
    assert label_of(declare(source, **options).volumes[0].source) == label


def test_optional_content_that_is_missing() -> None:
    assert files({"config_map": {"name": "x", "optional": True}}) == {}
    assert files({"secret": {"secret_name": "x", "optional": True}}) == {}


def test_content_in_a_directory() -> None:
    """The caller reads the directory."""
    spec = declare({"sysprep": {"config_map": {"name": "x"}}}, config_maps={"x": {"directory": "/etc/x"}})
    asked: list[KeyedData] = []
    content = {"Unattend.xml": b"<x/>"}

    def read(data: KeyedData) -> Files:
        asked.append(data)
        return content

    assert GuestFiles(spec, IDENTITY, read).files_of(spec.volumes[0].source) == content
    assert [data.directory for data in asked] == ["/etc/x"]
    content.clear()
    with refused(InvalidInput, option="sysprep", value="/etc/x"):
        GuestFiles(spec, IDENTITY, read).files_of(spec.volumes[0].source)


def test_fields_of_the_metadata() -> None:
    fields = {
        "name": "metadata.name",
        "namespace": "metadata.namespace",
        "uid": "metadata.uid",
        "host": "spec.nodeName",
        "labels": "metadata.labels",
        "annotations": "metadata.annotations",
        "dir/app": "metadata.labels['app.kubernetes.io/name']",
        "missing": "metadata.annotations['x']",
    }
    items = [{"path": path, "fieldRef": {"fieldPath": field}} for path, field in fields.items()]
    metadata = {
        "labels": {"b": 'say "hi"\n\\', "app.kubernetes.io/name": "web"},
        "annotations": {"a": "\a\x01é\u200b\U000e0001"},
    }
    assert files({"downwardAPI": {"fields": items}}, metadata=metadata) == {
        "name": b"web.example.org",
        "namespace": b"default",
        "uid": IDENTITY.uuid.encode(),
        "host": b"kvm1",
        "labels": b'app.kubernetes.io/name="web"\nb="say \\"hi\\"\\n\\\\"',
        "annotations": 'a="\\a\\x01é\\u200b\\U000e0001"'.encode(),
        "dir/app": b"web",
        "missing": b"",
    }
    assert label_of(declare({"downward_api": {"volume_label": "meta"}}).volumes[0].source) == "meta"


def test_volumes_with_data_have_no_files() -> None:
    spec = declare({"empty_disk": {"capacity": "1Gi"}})
    source = spec.volumes[0].source
    assert (GuestFiles(spec, IDENTITY).files_of(source), label_of(source)) == (None, None)


def test_the_same_declaration_has_the_same_files() -> None:
    source = {"cloud_init_config_drive": {"user_data": "x"}}
    first, second = ({"labels": {"a": "1", "b": "2"}}, {"labels": {"b": "2", "a": "1"}})
    assert files(source, metadata=first) == files(source, metadata=second)
