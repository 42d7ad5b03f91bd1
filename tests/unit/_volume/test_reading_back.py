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
from ansible_collections.granary.vmstore.plugins.module_utils._volume.media import (
    GuestFiles,
    Identity,
    label_of,
    tagged_devices,
)
from ansible_collections.granary.vmstore.plugins.module_utils._volume.reading.readers import camel_case
from ansible_collections.granary.vmstore.plugins.module_utils._volume.reading_back.declaration import (
    FoundDomain,
    read_back,
    refused_names,
)
from ansible_collections.granary.vmstore.plugins.module_utils._volume.reading_back.disks import FoundVolume
from ansible_collections.granary.vmstore.plugins.module_utils._volume.reading_back.io_threads import (
    ThreadPolicy,
    find_thread_policy,
)
from ansible_collections.granary.vmstore.plugins.module_utils._volume.reading_back.media import (
    FoundTexts,
    describe_medium,
)
from hypothesis import assume, given
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
    assert [disk.differences(found.disks[place]) for place, disk in enumerate(changed.disks)] == [
        [] for _disk in found.disks
    ]
    assert changed.filesystems == devices.filesystems
    assert changed.io_threads == devices.io_threads
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


def disk_of_somebody_else(**options: Any) -> VolumeDisk:
    """Return a disk as virt-install creates it."""
    found = VolumeDisk("vda", "vda", "virtio", layer=DiskLayer("/i/a.qcow2", False, "qcow2"))
    return replace(found, **options)


def read_one(disk: VolumeDisk, **facts: Any) -> dict[str, Any]:
    """Return the declaration of a domain with one disk, whose data is an image."""
    domain = DomainFacts(vcpus=2, targets={disk.name: disk.target})
    source = {"persistent_volume_claim": {"claim_name": "a"}}
    volumes = {} if disk.layer is None else {disk.name: FoundVolume(source, VolumeFacts(disk.layer, **facts))}
    return read_back(FoundDomain(DomainDevices((disk,), scsi_model="virtio-scsi"), volumes, domain))


def test_a_disk_of_somebody_else_works_as_before() -> None:
    """QEMU's own values stand for those that the domain lacks."""
    declaration = read_one(disk_of_somebody_else(), is_allocated=True)
    assert declaration == {
        "disks": [{"name": "vda", "disk": {"bus": "virtio"}, "cache": "writeback", "error_policy": "enospace"}],
        "volumes": [{"name": "vda", "persistent_volume_claim": {"claim_name": "a"}, "thick": True}],
    }
    assert (
        read_one(disk_of_somebody_else(cache="none", discard="unmap"), is_allocated=True)["disks"][0]["io"] == "threads"
    )
    # A mode that can't be declared is left to the declaration, which changes it.
    for option, value in (("cache", "unsafe"), ("io", "io_uring")):
        assert option not in read_one(disk_of_somebody_else(**{option: value}))["disks"][0]
    sizes = read_one(disk_of_somebody_else(physical_block_size=4096))["disks"][0]["block_size"]
    assert sizes == {"custom": {"logical": 512, "physical": 4096}}
    shared = read_one(disk_of_somebody_else(shareable=True))["disks"][0]
    assert shared["shareable"] is True and "cache" not in shared


def test_a_drive_of_somebody_else() -> None:
    drive = disk_of_somebody_else(name="sda", target="sda", bus="sata", device="cdrom", read_only=True, tray="closed")
    assert read_one(drive)["disks"] == [{"name": "sda", "cdrom": {"bus": "sata"}}]
    empty = read_one(replace(drive, layer=None, tray="open"))
    assert empty == {"disks": [{"name": "sda", "cdrom": {"bus": "sata", "tray": "open"}}]}


def test_options_of_the_whole_domain() -> None:
    disk = disk_of_somebody_else(model="virtio-transitional", queues=2)
    declaration = read_one(disk)
    assert (declaration["virtio_transitional"], declaration["block_multi_queue"]) == (True, True)
    other = replace(disk, name="vdb", target="vdb", model=None, queues=1)
    source = FoundVolume({"empty_disk": {"capacity": "1Gi"}}, VolumeFacts(FILE))
    volumes = dict.fromkeys(("vda", "vdb"), source)
    mixed = read_back(FoundDomain(DomainDevices((disk, other)), volumes, DomainFacts(vcpus=2)))
    assert mixed.keys() == {"disks", "volumes", "disable_hotplug"}


def test_a_filesystem_of_somebody_else() -> None:
    maps = (IdMap(0, 100000, 65536),)
    found = VirtioFs("tree", "/srv/tree", read_only=True, uid_map=maps, gid_map=maps, cache="none", xattr=True)
    for device, options in (
        (found, {"read_only": True, "cache": "none", "queue": 128, "xattr": True}),
        (replace(found, queue=1024, cache="auto", xattr=None, read_only=False), {}),
    ):
        volumes = {"tree": FoundVolume({"persistent_volume_claim": {"claim_name": "t"}})}
        [declared] = read_back(FoundDomain(DomainDevices(filesystems=(device,)), volumes, DomainFacts()))["filesystems"]
        ids = [{"start": 0, "target": 100000, "count": 65536}]
        assert declared == {"name": "tree", "virtiofs": {**options, "uid_map": ids, "gid_map": ids}}
    texts = {"tree": FoundVolume({"config_map": {"name": "tree"}})}
    device = replace(found, uid_map=(), gid_map=(), queue=1024)
    [declared] = read_back(FoundDomain(DomainDevices(filesystems=(device,)), texts, DomainFacts()))["filesystems"]
    assert declared["virtiofs"] == {"cache": "none", "xattr": True, "allow_unmapped": True}


#: Virtual processors, threads of disks on virtio, and of the domain; the policy, and the disks with dedicated threads.
THREADS = [
    (2, [None, None], 0, None, ""),
    (2, [None, None], 4, None, ""),
    (2, [2, 1], 2, None, "a"),
    (2, [1, 1], 1, "shared", ""),
    (2, [1, 2], 2, None, "b"),
    (2, [1, 2, 3, 4, 1], 4, None, "bcd"),
    (1, [1, 2, 1, 2], 2, "auto", ""),
    (2, [4, 1, 2, 3, 1, 2], 4, "auto", "a"),
    (2, [3, 1, 2, 1, 2, 1], 3, None, None),
    (1, [3, 3], 3, "shared", ""),
    (2, [1, None], 1, None, None),
    (2, [1, 1], 3, "shared", ""),
]


@pytest.mark.parametrize(("cpus", "threads", "count", "policy", "dedicated"), THREADS)
def test_the_policy_of_threads(
    cpus: int, threads: list[int | None], count: int, policy: str | None, dedicated: str | None
) -> None:
    disks = [disk_of_somebody_else(name="abcdef"[place], io_thread=one) for place, one in enumerate(threads)]
    facts = DomainFacts(vcpus=cpus, other_io_threads=min([one for one in threads if one] or [1]) - 1)
    found = find_thread_policy(disks, count, facts)
    assert found == ThreadPolicy(policy, None, frozenset(dedicated or ""))


def test_a_pool_of_threads() -> None:
    disks = [disk_of_somebody_else(name=name, io_threads=(2, 3, 4)) for name in "ab"]
    facts = DomainFacts(other_io_threads=1)
    assert find_thread_policy(disks, 4, facts) == ThreadPolicy("supplementalPool", 3)
    assert find_thread_policy([disks[0], disk_of_somebody_else()], 4, facts) == ThreadPolicy()


IDENTITY = Identity("web.example", "5d307ca9-b3ef-428c-8861-06e72d69f223")


def media_of(source: dict[str, Any], tags: Mapping[str, str] | None = None, **options: Any) -> FoundTexts | None:
    """Return what is read back from the files of a declared volume."""
    disks = [
        disk_of_somebody_else(name="vda", pci_address="0000:01:00.0", serial="S"),
        disk_of_somebody_else(name="vdb"),
    ]
    spec = accept_declaration({"volumes": [{"name": "v", **source}], **options}, DomainFacts())
    files = GuestFiles(spec, IDENTITY, devices=tagged_devices(disks, tags or {}))
    found = spec.volumes[0].source
    return describe_medium("v", label_of(found) or "", files.files_of(found) or {}, IDENTITY, disks)


def test_media() -> None:
    metadata = {"uid": "my-id", "hostname": "h", "instance_type": "small", "public_keys": ["ssh-rsa A", "ssh-rsa B"]}
    user, network = {"secret_ref": {"name": "v"}}, {"network_data_secret_ref": {"name": "v"}}
    for source, options, expected, texts, kept in (
        ({"cloud_init_no_cloud": {"user_data": "u"}}, {}, user, {"userdata": b"u"}, {}),
        (
            {"cloud_init_no_cloud": {"network_data": "n"}},
            {"metadata": metadata},
            network,
            {"networkdata": b"n"},
            metadata,
        ),
        (
            {"cloud_init_config_drive": {"user_data": "u", "network_data": "n"}},
            {"metadata": {**metadata, "name": "n", "namespace": "ns"}},
            {**user, **network},
            {"userdata": b"u", "networkdata": b"n"},
            {**metadata, "name": "n", "namespace": "ns"},
        ),
    ):
        found = media_of(source, **options)
        assert found == FoundTexts(dict.fromkeys(source, expected), "secrets", texts, kept)
        assert repr(texts) not in repr(found)
    found = media_of({"cloud_init_config_drive": {"user_data": "u"}}, {"vda": "data"})
    assert found is not None and found.tags == {"vda": "data"} and found.metadata == {}


def test_media_with_other_files() -> None:
    files = {"a": b"1"}
    assert describe_medium("v", "cfgdata", files, IDENTITY, []) == FoundTexts(
        {"config_map": {"name": "v"}}, "config_maps", files
    )
    # The label alone makes no data for cloud-init and no answer file.
    for label in ("cidata", "config-2", "unattendCD"):
        for others in (files, {"user-data": b"", "meta-data": b"["}, {"user-data": b"", "meta-data": b"{}", "x": b""}):
            source = {"config_map": {"name": "v", "volume_label": label}}
            assert describe_medium("v", label, others, IDENTITY, []) == FoundTexts(source, "config_maps", others)
    answers = {"Unattend.xml": b"<x/>"}
    assert describe_medium("v", "unattendCD", answers, IDENTITY, []) == FoundTexts(
        {"sysprep": {"secret": {"name": "v"}}}, "secrets", answers
    )
    assert describe_medium("v", "cfgdata", {"labels/a": b""}, IDENTITY, []) is None


@given(st.dictionaries(st.text(max_size=8), st.binary(max_size=20)), st.sampled_from(["cidata", "config-2"]))
def test_any_medium_is_read(files: dict[str, bytes], label: str) -> None:
    described = {"meta-data": b'{"public-keys": {"x": 1}, "instance-id": 7}', "user-data": b"", **files}
    inner = {f"openstack/latest/{name.replace('-', '_')}": data for name, data in files.items()}
    drive = {"openstack/latest/meta_data.json": b'{"devices": [1, {"tags": "x"}], "public_keys": []}', **inner}
    for one in (files, described, {**drive, "openstack/latest/user_data": b""}):
        found = describe_medium("v", label, one, IDENTITY, [disk_of_somebody_else()])
        assert found is None or found.option in ("secrets", "config_maps")


def test_the_names_that_are_refused() -> None:
    declaration = {"disks": [{"name": "a"}, {"name": "b"}], "volumes": [{"name": "c"}]}
    problems = [
        Problem("x", "disks[1].cache", None, ""),
        Problem("y", "volumes[0]", None, ""),
        Problem("z", "disks[1]", None, ""),
        Problem("p", "io_threads_policy", None, ""),
    ]
    assert refused_names(declaration, problems) == {"b": problems[0], "c": problems[1]}
