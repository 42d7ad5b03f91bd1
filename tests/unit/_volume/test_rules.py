# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every rule for a declaration: an example that breaks the rule and no other one, and the rule's place."""

from __future__ import annotations

import ast
import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidDeclaration
from ansible_collections.granary.vmstore.plugins.module_utils._core.problems import Problem
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.volume_disk import DiskLayer
from ansible_collections.granary.vmstore.plugins.module_utils._model.volume_disks import BlockSize
from ansible_collections.granary.vmstore.plugins.module_utils._volume.admission.declaration import accept_declaration
from ansible_collections.granary.vmstore.plugins.module_utils._volume.admission.disk_rules import DISK_RULES
from ansible_collections.granary.vmstore.plugins.module_utils._volume.conversion import convert
from ansible_collections.granary.vmstore.plugins.module_utils._volume.facts import DomainFacts, VolumeFacts
from refusal import refused

ENGINE = Path(__file__).resolve().parents[3] / "plugins" / "module_utils" / "_volume"
FACTS = DomainFacts(
    other_boot_orders={7: "the interface net0"}, other_serials={"TAKEN": "the disk vdz"}, other_tags={"home": "/home"}
)
Options = dict[str, Any]


def claim(**options: object) -> Options:
    return {"persistent_volume_claim": {"claim_name": "image", **options}}


def volume(**source: object) -> Options:
    return {"volumes": [{"name": "a", **source}]}


def disk(source: Options | None = None, **disk: object) -> Options:
    """Return a declaration of a disk with its volume, by default on virtio and with an image."""
    return {
        "disks": [{"name": "a", "disk": {"bus": "virtio"}, **disk}],
        **volume(**(claim() if source is None else source)),
    }


def custom(**sizes: object) -> Options:
    return {"custom": {"logical": 512, "physical": 4096, **sizes}}


def cloud_init(**data: object) -> Options:
    return volume(cloud_init_no_cloud=data)


def filesystem(source: Options | None = None, name: str = "a", **virtiofs: object) -> Options:
    volumes = [{"name": name, **(claim() if source is None else source)}]
    return {"filesystems": [{"name": name, "virtiofs": virtiofs}], "volumes": volumes}


def template(spec: Options | None = None, name: str = "image", **source: object) -> Options:
    source = source or {"http": {"url": "https://example.org/a.img"}}
    metadata, storage = {"name": name}, {"resources": {"requests": {"storage": "1Gi"}}}
    return {
        "data_volume_templates": [
            {"metadata": metadata, "spec": {"source": source, "storage": storage, **(spec or {})}}
        ],
        **volume(data_volume={"name": "image"}),
    }


TWO = {"volumes": [{"name": "a", "empty_disk": {"capacity": "1Gi"}}, {"name": "b", "empty_disk": {"capacity": "1Gi"}}]}


def two(first: Options, second: Options) -> Options:
    """Return a declaration of two disks with empty volumes."""
    return {"disks": [{"name": "a", **first}, {"name": "b", **second}], **TWO}


VIRTIO = {"disk": {"bus": "virtio"}}
EMPTY = {"empty_disk": {"capacity": "1Gi"}}
SPEC = "data_volume_templates[0].spec"

#: For each rule: a declaration that breaks it alone, and the path of the problem. Several with one rule have the rule
#: several times.
BROKEN: list[tuple[str, str, Options]] = [
    # Reading.
    ("type", "disks", {"disks": {"name": "a"}}),
    ("type", "disks[0]", {"disks": ["a"]}),
    ("type", "disks[0].shareable", disk(shareable="yes")),
    ("type", "disks[0].boot_order", disk(boot_order=True)),
    ("type", "volumes[0].persistent_volume_claim.claim_name", volume(**claim(claim_name=7))),
    ("type", "volumes[0].cloud_init_no_cloud.user_data", cloud_init(user_data=["x"])),
    ("type", "config_maps['m'].binary_data['k']", {"config_maps": {"m": {"binary_data": {"k": 1}}}}),
    ("type", "config_maps", {"config_maps": ["m"]}),
    ("type", "config_maps['m'].data['k']", {"config_maps": {"m": {"data": {"k": "\ud800"}}}}),
    ("type", "metadata.labels['k']", {"metadata": {"labels": {"k": "\udcff"}}}),
    ("type", "metadata.labels['k']", {"metadata": {"labels": {"k": 1}}}),
    ("unknown", "disks[0]", disk(bootorder=1)),
    ("unknown", "the declaration", {"disk": []}),
    ("refused", "disks[0].changedBlockTracking", disk(changedBlockTracking=True)),
    ("refused", "volumes[0].memoryDump", volume(memoryDump={"claimName": "x"})),
    (
        "given_twice",
        "disks[0].boot_order",
        {**disk(boot_order=1), "disks": [{"name": "a", "bootOrder": 1, "boot_order": 1}]},
    ),
    ("required", "disks[0].name", {"disks": [{}]}),
    ("required", "volumes[0].empty_disk.capacity", volume(empty_disk={})),
    ("quantity", "volumes[0].empty_disk.capacity", volume(empty_disk={"capacity": "1 GiB"})),
    ("bus", "disks[0].disk.bus", disk(disk={"bus": "ide"})),
    ("tray", "disks[0].cdrom.tray", disk(disk=None, cdrom={"tray": "ajar"})),
    ("cache", "disks[0].cache", disk(cache="unsafe")),
    ("io", "disks[0].io", disk(io="io_uring")),
    ("error_policy", "disks[0].error_policy", disk(error_policy="")),
    ("device", "disks[0]", disk(lun={})),
    ("block_size", "disks[0].block_size", disk(block_size={**custom(), "match_volume": {}})),
    ("filesystem_cache", "filesystems[0].virtiofs.cache", filesystem(cache="never")),
    ("sandbox", "filesystems[0].virtiofs.sandbox", filesystem(sandbox="none")),
    ("one_source", "volumes[0]", volume()),
    ("one_source", "volumes[0]", volume(**claim(), **EMPTY)),
    ("base64", "volumes[0].cloud_init_no_cloud.user_data_base64", cloud_init(user_data_base64="#")),
    ("cloud_init_empty", "volumes[0].cloud_init_no_cloud", cloud_init()),
    ("one_data_source", "volumes[0].cloud_init_no_cloud", cloud_init(user_data="x", user_data_base64="eA==")),
    ("one_data_source", "volumes[0].cloud_init_no_cloud", cloud_init(network_data="x", network_data_base64="eA==")),
    (
        "pull_policy",
        "volumes[0].container_disk.image_pull_policy",
        volume(container_disk={"image": "a", "image_pull_policy": "Often"}),
    ),
    ("host_disk_type", "volumes[0].host_disk.type", volume(host_disk={"path": "/x", "type": "File"})),
    ("one_import_source", f"{SPEC}.source", template({"source": {}})),
    ("one_import_source", f"{SPEC}.source", template(blank={}, upload={})),
    ("one_storage", SPEC, template({"pvc": {}})),
    ("volume_mode", f"{SPEC}.storage.volume_mode", template({"storage": {"volume_mode": "Disk"}})),
    ("io_threads_policy", "io_threads_policy", {"io_threads_policy": "bad"}),
    # Disks.
    ("cdrom_bus", "disks[0].cdrom.bus", disk(disk=None, cdrom={"bus": "virtio"})),
    ("lun_bus", "disks[0].lun.bus", disk(disk=None, lun={"bus": "sata"})),
    ("lun_source", "disks[0].lun", disk(EMPTY, disk=None, lun={})),
    ("lun_serial", "disks[0].serial", disk(disk=None, lun={}, serial="A")),
    ("lun_block_size", "disks[0].block_size", disk(disk=None, lun={}, block_size=custom())),
    ("lun_block_size", "disks[0].block_size", disk(disk=None, lun={}, block_size={"match_volume": {}})),
    ("sata_read_only", "disks[0].disk.read_only", disk(disk={"bus": "sata", "readonly": True})),
    ("sata_read_only", "disks[0].disk.read_only", disk(claim(read_only=True), disk={"bus": "sata"})),
    ("sata_read_only", "volumes[0].disk.read_only", volume(**claim(read_only=True))),
    ("pci_bus", "disks[0].disk.pci_address", disk(disk={"bus": "scsi", "pciAddress": "0000:81:01.0"})),
    ("pci_address", "disks[0].disk.pci_address", disk(disk={"bus": "virtio", "pci_address": "81:01.0"})),
    ("boot_order", "disks[0].boot_order", disk(boot_order=0)),
    ("boot_order", "disks[0].boot_order", disk(boot_order=2**31)),
    ("serial", "disks[0].serial", disk(serial="a b")),
    ("serial_length", "disks[0].serial", disk(serial="1" * 21)),
    ("serial_length", "disks[0].serial", disk(disk={"bus": "sata"}, serial="1" * 21)),
    ("serial_length", "disks[0].serial", disk(disk={"bus": "scsi"}, serial="1" * 37)),
    ("shareable_cache", "disks[0].cache", disk(shareable=True, cache="writethrough")),
    ("shareable_cache", "disks[0].cache", disk(shareable=True, cache="directsync")),
    ("shareable_source", "disks[0].shareable", disk(EMPTY, shareable=True)),
    ("io_cache", "disks[0].io", disk(io="native", cache="writeback")),
    ("dedicated_io_thread", "disks[0].dedicated_io_thread", disk(disk={"bus": "sata"}, dedicatedIOThread=True)),
    ("logical_block_size", "disks[0].block_size.custom.logical", disk(block_size=custom(logical=768))),
    ("logical_block_size", "disks[0].block_size.custom.logical", disk(block_size=custom(logical=256))),
    ("physical_block_size", "disks[0].block_size.custom.physical", disk(block_size=custom(physical="4Mi"))),
    ("block_size_order", "disks[0].block_size.custom.logical", disk(block_size=custom(logical=8192))),
    (
        "block_size_sata",
        "disks[0].block_size.custom.logical",
        disk(disk={"bus": "sata"}, block_size=custom(logical=4096)),
    ),
    (
        "discard_granularity",
        "disks[0].block_size.custom.discard_granularity",
        disk(block_size=custom(discard_granularity=700)),
    ),
    (
        "discard_granularity",
        "disks[0].block_size.custom.discard_granularity",
        disk(block_size=custom(discardGranularity=0)),
    ),
    ("metrics_device", "disks[0].cdrom", disk({"downward_metrics": {}}, disk=None, cdrom={"bus": "sata"})),
    ("metrics_bus", "disks[0].disk.bus", disk({"downward_metrics": {}}, disk={"bus": "scsi"})),
    ("hotplug_bus", "disks[0].disk.bus", disk(claim(hotpluggable=True), disk={"bus": "sata"})),
    (
        "hotplug_bus",
        "disks[0].disk.bus",
        disk({"data_volume": {"name": "a", "hotpluggable": True}}, disk={"bus": "usb"}),
    ),
    # Names and connections.
    ("name", "volumes[0].name", {"volumes": [{"name": "-a", **EMPTY}]}),
    ("name", "volumes[0].name", {"volumes": [{"name": "a" * 64, **EMPTY}]}),
    ("duplicate_name", "volumes[1].name", {"volumes": [{"name": "a", **EMPTY}] * 2}),
    ("duplicate_name", "disks[1].name", {"disks": [{"name": "a"}] * 2, **volume(**EMPTY)}),
    ("disk_and_filesystem", "filesystems[0].name", {**filesystem(), "disks": [{"name": "a"}]}),
    ("no_volume", "disks[0].name", {"disks": [{"name": "a"}]}),
    ("no_volume", "filesystems[0].name", {"filesystems": [{"name": "a", "virtiofs": {}}]}),
    ("no_device", "volumes[0].name", {**volume(**EMPTY), "auto_attach": False}),
    (
        "one_service_account",
        "volumes[1].service_account",
        {
            "service_accounts": {"s": {"data": {"token": "x"}}},
            "volumes": [{"name": name, "service_account": {"service_account_name": "s"}} for name in "ab"],
        },
    ),
    (
        "one_downward_metrics",
        "volumes[1].downward_metrics",
        {"volumes": [{"name": name, "downward_metrics": {}} for name in "ab"]},
    ),
    (
        "claim_twice",
        "volumes[1]",
        {"volumes": [{"name": "a", **claim()}, {"name": "b", "data_volume": {"name": "image"}}]},
    ),
    ("claim_twice", "volumes[1]", {"volumes": [{"name": "a", "ephemeral": claim()}, {"name": "b", **claim()}]}),
    ("boot_order_twice", "disks[1].boot_order", two({"boot_order": 1}, {"boot_order": 1})),
    ("boot_order_taken", "disks[0].boot_order", disk(boot_order=7)),
    ("serial_twice", "disks[1].serial", two({"serial": "A"}, {"serial": "A"})),
    ("serial_taken", "disks[0].serial", disk(serial="TAKEN")),
    (
        "pci_address_twice",
        "disks[1].disk.pci_address",
        two(*[{"disk": {"bus": "virtio", "pci_address": f"0000:0{letter}:00.0"}} for letter in "aA"]),
    ),
    # Volumes.
    ("container_path", "volumes[0].container_disk.path", volume(container_disk={"image": "a", "path": "a.img"})),
    ("container_path", "volumes[0].container_disk.path", volume(container_disk={"image": "a", "path": "/x/../a.img"})),
    ("container_path", "volumes[0].container_disk.path", volume(container_disk={"image": "a", "path": "/"})),
    ("empty_disk_size", "volumes[0].empty_disk.capacity", volume(empty_disk={"capacity": "1000k"})),
    ("host_path", "volumes[0].host_disk.path", volume(host_disk={"path": "x/y", "type": "Disk"})),
    ("host_path", "volumes[0].host_disk.path", volume(host_disk={"path": "/x/../y", "type": "Disk"})),
    (
        "host_disk_capacity",
        "volumes[0].host_disk.capacity",
        volume(host_disk={"path": "/x", "type": "Disk", "capacity": "1Gi"}),
    ),
    ("cloud_init_limit", "volumes[0].cloud_init_no_cloud.user_data", cloud_init(user_data="a" * 2049)),
    ("cloud_init_limit", "volumes[0].cloud_init_no_cloud.network_data", cloud_init(network_data="a" * 2049)),
    ("unknown_reference", "volumes[0].cloud_init_no_cloud.secret_ref.name", cloud_init(secret_ref={"name": "s"})),
    (
        "unknown_reference",
        "volumes[0].cloud_init_no_cloud.network_data_secret_ref.name",
        cloud_init(networkDataSecretRef={"name": "s"}),
    ),
    ("unknown_reference", "volumes[0].config_map.name", volume(config_map={"name": "m"})),
    ("unknown_reference", "volumes[0].secret.secret_name", volume(secret={"secret_name": "s"})),
    (
        "unknown_reference",
        "volumes[0].service_account.service_account_name",
        volume(service_account={"service_account_name": "s"}),
    ),
    ("unknown_reference", "volumes[0].sysprep.secret.name", volume(sysprep={"secret": {"name": "s"}})),
    (
        "volume_label",
        "volumes[0].config_map.volume_label",
        volume(config_map={"name": "m", "optional": True, "volume_label": "a b"}),
    ),
    (
        "volume_label",
        "volumes[0].secret.volume_label",
        volume(secret={"secretName": "m", "optional": True, "volumeLabel": "a" * 33}),
    ),
    (
        "downward_path",
        "volumes[0].downward_api.fields[0].path",
        volume(downwardAPI={"fields": [{"path": "../x", "fieldRef": {"fieldPath": "metadata.name"}}]}),
    ),
    (
        "downward_path_twice",
        "volumes[0].downward_api.fields[1].path",
        volume(downward_api={"fields": [{"path": "x", "field_ref": {"field_path": "metadata.name"}}] * 2}),
    ),
    (
        "downward_field",
        "volumes[0].downward_api.fields[0].field_ref.field_path",
        volume(downward_api={"fields": [{"path": "x", "field_ref": {"field_path": "status.podIP"}}]}),
    ),
    ("sysprep_source", "volumes[0].sysprep", volume(sysprep={})),
    ("sysprep_source", "volumes[0].sysprep", volume(sysprep={"secret": {"name": "s"}, "configMap": {"name": "m"}})),
    (
        "sysprep_answers",
        "volumes[0].sysprep.config_map.name",
        {"config_maps": {"m": {"data": {"a.xml": ""}}}, **volume(sysprep={"config_map": {"name": "m"}})},
    ),
    # Filesystems.
    ("filesystem_source", "filesystems[0].name", filesystem(EMPTY)),
    ("tag_length", "filesystems[0].name", filesystem(name="a" * 37)),
    ("tag_taken", "filesystems[0].name", filesystem(name="home")),
    ("queue", "filesystems[0].virtiofs.queue", filesystem(queue=1000)),
    ("thread_pool", "filesystems[0].virtiofs.thread_pool", filesystem(thread_pool=-1)),
    ("sandbox_maps", "filesystems[0].virtiofs.sandbox", filesystem(sandbox="chroot", uid_map=[{"target": 100000}])),
    ("id_map", "filesystems[0].virtiofs.gid_map", filesystem(gid_map=[{"target": 100000}, {"target": 100001}])),
    # Templates.
    (
        "object_name",
        "data_volume_templates[0].metadata.name",
        {**template(name="Image"), **volume(data_volume={"name": "Image"})},
    ),
    ("unused_template", "data_volume_templates[0].metadata.name", template(name="other")),
    ("template_size", f"{SPEC}.storage.resources.requests.storage", template({"storage": {}}, blank={})),
    ("template_of_itself", f"{SPEC}.source.pvc.name", template(pvc={"name": "image", "namespace": "x"})),
    ("import_url", f"{SPEC}.source.http.url", template(http={"url": "ftp://x/y"})),
    ("import_url", f"{SPEC}.source.registry.url", template(registry={"url": "https://x/y"})),
    ("unknown_reference", f"{SPEC}.source.http.secret_ref", template(http={"url": "http://x/y", "secretRef": "s"})),
    # Content.
    ("data_and_directory", "secrets['s']", {"secrets": {"s": {"data": {"a": "b"}, "directory": "/etc"}}}),
    ("data_directory", "secrets['s'].directory", {"secrets": {"s": {"directory": "etc"}}}),
    ("data_key", "config_maps['m']", {"config_maps": {"m": {"data": {"../a": "b"}}}}),
    # Threads.
    ("pool_size", "io_threads.supplemental_pool_thread_count", {"io_threads_policy": "supplementalPool"}),
    (
        "pool_size",
        "io_threads.supplemental_pool_thread_count",
        {"io_threads_policy": "supplementalPool", "io_threads": {"supplementalPoolThreadCount": 0}},
    ),
    (
        "pool_size",
        "io_threads.supplemental_pool_thread_count",
        {"io_threads_policy": "supplementalPool", "io_threads": {"supplemental_pool_thread_count": 10**9}},
    ),
    (
        "pool_policy",
        "io_threads.supplemental_pool_thread_count",
        {"io_threads_policy": "auto", "io_threads": {"supplemental_pool_thread_count": 2}},
    ),
]

#: Rules about an old host, with the facts about that host.
BROKEN_ON_A_HOST: list[tuple[str, str, Options, DomainFacts]] = [
    (
        "block_size_s390x",
        "disks[0].block_size.custom.physical",
        disk(block_size=custom(physical=8192)),
        DomainFacts(arch="s390x"),
    ),
    (
        "discard_granularity_support",
        "disks[0].block_size.custom.discard_granularity",
        disk(block_size=custom(discard_granularity=4096)),
        DomainFacts(has_discard_granularity=False),
    ),
    (
        "pool_support",
        "io_threads_policy",
        {"io_threads_policy": "supplementalPool", "io_threads": {"supplemental_pool_thread_count": 2}},
        DomainFacts(has_disk_io_threads=False),
    ),
]

FILE, BLOCK = VolumeFacts(DiskLayer("/v/a.img")), VolumeFacts(DiskLayer("/dev/a", True))
#: Rules about the data of a volume, with the facts about the data.
BROKEN_BY_DATA: list[tuple[str, str, Options, VolumeFacts]] = [
    ("lun_block", "disks[0].lun", disk(disk=None, lun={}), FILE),
    ("shareable_format", "disks[0].shareable", disk(shareable=True), VolumeFacts(DiskLayer("/v/a", False, "qcow2"))),
    ("volume_in_use", "disks[0].shareable", disk(), VolumeFacts(DiskLayer("/v/a"), writers=("web",))),
    ("direct_io", "disks[0].cache", disk(cache="none"), VolumeFacts(DiskLayer("/v/a"), has_direct_io=False)),
    ("direct_io", "disks[0].cache", disk(shareable=True), VolumeFacts(DiskLayer("/v/a"), has_direct_io=False)),
    ("io_cache_default", "disks[0].io", disk(io="native"), VolumeFacts(DiskLayer("/v/a"), has_direct_io=False)),
    ("block_size_unknown", "disks[0].block_size.match_volume", disk(block_size={"matchVolume": {}}), FILE),
    (
        "match_volume_sata",
        "disks[0].block_size.match_volume",
        disk(disk={"bus": "sata"}, block_size={"match_volume": {}}),
        VolumeFacts(DiskLayer("/dev/a", True), block_size=BlockSize(4096, 4096)),
    ),
]


def problems_of(options: Mapping[str, Any], facts: DomainFacts = FACTS) -> list[Problem]:
    try:
        accept_declaration(options, facts)
    except InvalidDeclaration as error:
        return list(error.problems)
    return []


@pytest.mark.parametrize(("rule", "path", "options"), BROKEN)
def test_a_rule_is_broken_alone(rule: str, path: str, options: Options) -> None:
    before = copy.deepcopy(options)
    found = {(one.rule, one.path) for one in problems_of(options)}
    assert found == {(rule, path)}
    assert options == before


@pytest.mark.parametrize(("rule", "path", "options", "facts"), BROKEN_ON_A_HOST)
def test_a_rule_of_a_host(rule: str, path: str, options: Options, facts: DomainFacts) -> None:
    assert [(one.rule, one.path) for one in problems_of(options, facts)] == [(rule, path)]
    assert problems_of(options) == []


@pytest.mark.parametrize(("rule", "path", "options", "facts"), BROKEN_BY_DATA)
def test_a_rule_about_data(rule: str, path: str, options: Options, facts: VolumeFacts) -> None:
    spec = accept_declaration(options, FACTS)
    with refused(InvalidDeclaration) as caught:
        convert(spec, FACTS, {"a": facts}, {})
    assert [(one.rule, one.path) for one in caught.value.problems] == [(rule, path)]


def rules_in_sources() -> set[str]:
    """Return the names of rules in the calls ``add("name", ...)`` and ``choice(..., rule="name")`` of the engine."""
    found = {rule.name for rule in DISK_RULES} | {
        "duplicate_name",
        "boot_order_twice",
        "serial_twice",
        "pci_address_twice",
    }
    for path in ENGINE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Attribute) and node.func.attr == "add" and len(node.args) == 4:
                found |= {node.args[0].value} if isinstance(node.args[0], ast.Constant) else set()
            found |= {
                one.value.value for one in node.keywords if one.arg == "rule" and isinstance(one.value, ast.Constant)
            }
    return found | {"one_service_account", "one_downward_metrics"}


def test_every_rule_has_an_example() -> None:
    tested = {one[0] for one in (*BROKEN, *BROKEN_ON_A_HOST, *BROKEN_BY_DATA)}
    assert tested == rules_in_sources()


ACCEPTED: list[Options] = [
    {},
    {"disks": [], "volumes": None},
    disk(serial="1" * 20, boot_order=1, cache="directsync", io="native", error_policy="enospace"),
    disk(disk={"bus": "scsi"}, serial="1" * 36),
    disk(claim(read_only=True)),
    disk(shareable=True, cache="none"),
    disk(block_size=custom(discard_granularity=4096, logical="4Ki")),
    disk(block_size={"match_volume": {"enabled": False}}),
    disk(disk={"bus": "sata"}, block_size=custom()),
    disk(disk=None, cdrom={"bus": "sata", "readOnly": False, "tray": "open"}),
    disk(disk=None, cdrom={}, serial=""),
    disk(disk=None, lun={"reservation": True}),
    disk({"downward_metrics": {}}, disk=None),
    disk(claim(hotpluggable=True), disk={"bus": "scsi"}),
    {"disks": [{"name": "a", "cdrom": {"bus": "sata"}}]},
    two({"boot_order": 1, "serial": "A"}, {"boot_order": 2, "serial": "B"}),
    cloud_init(user_data="a" * 2048, network_data="a" * 2048),
    {**cloud_init(user_data="a" * 2049), "cloud_init_limit": 1 << 20},
    {"secrets": {"s": {"data": {"userdata": "a" * 4096}}}, **cloud_init(secret_ref={"name": "s"})},
    volume(config_map={"name": "m", "optional": True}),
    volume(container_disk={"image": "a", "path": "/disk/a.img"}),
    volume(host_disk={"path": "/x", "type": "DiskOrCreate", "capacity": "1Gi"}),
    {"config_maps": {"m": {"data": {"AutoUnattend.XML": ""}}}, **volume(sysprep={"config_map": {"name": "m"}})},
    {"config_maps": {"m": {"directory": "/etc/m"}}, **volume(sysprep={"config_map": {"name": "m"}})},
    filesystem(name="a" * 36, queue=512, sandbox="namespace", uid_map=[{"target": 100000}], thread_pool=0),
    template({"preallocation": True, "contentType": "kubevirt"}),
    template(registry={"url": "docker://quay.io/x/y:z", "pullMethod": "node"}),
    template({"storage": {}}, pvc={"name": "other", "namespace": "x"}),
    {"volumes": [{"name": name, "ephemeral": claim()} for name in "ab"]},
    {
        "volumes": [{"name": name, **claim(read_only=True)} for name in "ab"],
        "disks": [{"name": one, **VIRTIO} for one in "ab"],
    },
    {
        "disks": [{"name": one, **VIRTIO, "shareable": True} for one in "ab"],
        "volumes": [{"name": one, **claim()} for one in "ab"],
    },
    {"io_threads_policy": "supplementalPool", "io_threads": {"supplementalPoolThreadCount": 1}},
    {"downward_metrics": {}},
]


@pytest.mark.parametrize("options", ACCEPTED)
def test_what_no_rule_refuses(options: Options) -> None:
    assert problems_of(options) == []


def test_all_problems_at_once() -> None:
    options = {
        "disks": [
            {"name": "A", "disk": {"bus": "ide"}, "boot_order": 0, "cache": "x"},
            {"name": "b", "lun": {"bus": "sata", "bsu": 1}},
        ],
        "volumes": [{"name": "A", "persistentVolumeClaimm": {"claimName": "x"}}, {"name": "b", **EMPTY}],
        "io_threads_policy": "x",
    }
    assert sorted((one.rule, one.path) for one in problems_of(options)) == [
        ("boot_order", "disks[0].boot_order"),
        ("bus", "disks[0].disk.bus"),
        ("cache", "disks[0].cache"),
        ("io_threads_policy", "io_threads_policy"),
        ("lun_bus", "disks[1].lun.bus"),
        ("lun_source", "disks[1].lun"),
        ("name", "disks[0].name"),
        ("name", "volumes[0].name"),
        ("unknown", "disks[1].lun"),
        ("unknown", "volumes[0]"),
    ]


def test_a_message_has_the_path_the_value_and_what_is_accepted() -> None:
    with refused(
        InvalidDeclaration,
        says="disks[0].disk.bus: 'ide' is not accepted: one of virtio, scsi, sata, usb is expected. "
        "disks[0]: 'dedicatedIoThred' is not accepted: this key is unknown. The nearest is 'dedicatedIoThread'.",
    ):
        accept_declaration(disk(disk={"bus": "ide"}, dedicatedIoThred=True), FACTS)


def nested(depth: int, *, as_list: bool) -> object:
    found: object = "x"
    for _level in range(depth):
        found = [found] if as_list else {"disk": found}
    return found


#: Values that few parts of a declaration can have, such as the text of a config map.
HOSTILE: dict[str, object] = {
    "a megabyte": "x" * (1 << 20),
    "digits": "1" * 10000,
    "a number": 10**9999,
    "a negative number": -(10**9999),
    "infinite": float("inf"),
    "a null byte": "a\0b",
    "two lines": "a\nb",
    "an escape": "a\x1b[2Jb",
    "half a character": "\ud800",
    "nested lists": nested(100_000, as_list=True),
    "nested dictionaries": nested(100_000, as_list=False),
    "a hundred thousand": ["x"] * 100_000,
}


def places_in(value: object, *above: object) -> Iterator[tuple[Any, ...]]:
    """Yield the keys that lead to each part of a declaration."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*above, key)
        yield from places_in(one, *above, key)


def every_place() -> dict[tuple[object, ...], tuple[Options, tuple[Any, ...]]]:
    """Return one declaration and its keys for each place that a declaration can have, whatever the numbers in it."""
    return {
        tuple("#" if isinstance(key, int) else key for key in keys): (options, keys)
        for options in ACCEPTED
        for keys in places_in(options)
    }


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_values_in_every_place(name: str) -> None:
    """As a value and as a key: one sentence for each problem, also for a part that isn't a text at all."""
    value, places = HOSTILE[name], every_place()
    assert len(places) > 80
    for options, keys in places.values():
        for is_key in (False, True) if isinstance(value, (str, int, float)) else (False,):
            hostile: Any = copy.deepcopy(options)
            parent = hostile
            for key in keys[:-1]:
                parent = parent[key]
            if is_key and isinstance(parent, dict):
                parent[value] = parent.pop(keys[-1])
            else:
                parent[keys[-1]] = value
            for problem in problems_of(hostile):
                assert len(json.dumps(problem.as_dict())) < 3000
                sentence = str(InvalidDeclaration([problem]))
                assert sentence.isprintable() and len(sentence) < 1500, (keys, sentence)


def test_a_thousand_disks() -> None:
    names = [f"d{number}" for number in range(1000)]
    options = {
        "disks": [{"name": one, **VIRTIO} for one in names],
        "volumes": [{"name": one, **EMPTY} for one in names],
    }
    spec = accept_declaration(options, FACTS)
    layers = {one: VolumeFacts(DiskLayer(f"/srv/{one}")) for one in names}
    assert len({disk.target for disk in convert(spec, FACTS, layers, {}).disks}) == 1000
    for one in options["disks"]:
        one["boot_order"] = 0
    assert len(problems_of(options)) == 1000


def test_a_thousand_problems_are_enough() -> None:
    with refused(InvalidDeclaration) as caught:
        accept_declaration({"disks": ["x"] * 100_000}, FACTS)
    assert len(caught.value.problems) == 1000


def test_no_secret_is_in_a_problem() -> None:
    secret = "hunter2"
    options = {
        "secrets": {"s": {"data": {"k": [secret]}, "binary_data": {"k": secret + "?"}}, "t": secret},
        "volumes": [
            {"name": "a", "cloud_init_no_cloud": {"user_data": secret * 400, "network_data": {"x": secret}}},
            {"name": "b", "cloud_init_config_drive": {"user_data_base64": secret + "!", "secret_ref": {"nam": "x"}}},
        ],
        "data_volume_templates": [
            *template(http={"url": f"ftp://me:{secret}@x/y"})["data_volume_templates"],
            *template(http={"url": "http://x/y", "extraHeaders": [f"X: {secret}\n"]})["data_volume_templates"],
        ],
    }
    with refused(InvalidDeclaration) as caught:
        accept_declaration(options, FACTS)
    assert len(caught.value.problems) > 6
    assert secret not in str(caught.value)
    assert secret not in repr(caught.value.problems)
