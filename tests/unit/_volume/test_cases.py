# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""KubeVirt's rules as cases (cases/*.json), and more cases of the same form for its tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kubevirt_cases import evaluate

CASES = {path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "cases").glob("*.json"))}

#: The rules that refuse cases, by their area. The space for a host disk isn't a rule for the declaration.
RULES = {
    "materialise.emptyDisk.too_small": {"empty_disk_size"},
    "materialise.hostDisk.tolerance.94": set(),
    "reject.duplicate_disk": {"duplicate_name"},
    "reject.ide": {"bus"},
    "reject.bus_unknown": {"bus"},
    "reject.boot_order_zero": {"boot_order"},
    "reject.serial_long": {"serial_length"},
    "reject.cache_unsafe": {"cache"},
    "reject.io_uring": {"io"},
    "reject.pci_on_scsi": {"pci_bus"},
    "reject.disk_no_volume": {"no_volume"},
    "reject.two_sources": {"one_source"},
    "reject.no_source": {"one_source"},
    "reject.dup_volumes": {"duplicate_name"},
    "reject.userdata_2049": {"cloud_init_limit"},
    "reject.userdata_two": {"one_data_source"},
    "reject.cloudinit_empty": {"cloud_init_empty"},
    "reject.base64": {"base64"},
    "reject.hostdisk_type": {"host_disk_type"},
    "reject.two_serviceaccounts": {"one_service_account"},
    "reject.two_metrics": {"one_downward_metrics"},
    "reject.metrics_scsi": {"metrics_bus"},
    "reject.blocksize_order": {"block_size_order"},
    "reject.blocksize_pow2": {"logical_block_size", "physical_block_size"},
    "reject.blocksize_sata_4k": {"block_size_sata"},
    "reject.blocksize_both": {"block_size"},
    "reject.policy": {"io_threads_policy"},
    "reject.pool_zero": {"pool_size"},
}
#: Cases whose expectations are all decided elsewhere.
ELSEWHERE = {"KX-005", "KX-009", "KX-015", "KX-016", "KX-017", "KX-019"}


@pytest.mark.parametrize("name", CASES)
def test_a_case(name: str) -> None:
    case = CASES[name]
    result = evaluate(case)
    assert result.failures == []
    if "reject" in case["expect"]:
        assert {one.rule for one in result.problems} == RULES[case["area"]]


def test_every_case_has_something_that_the_engine_decides() -> None:
    assert len(CASES) == 48
    undecided = set()
    for name, case in CASES.items():
        expected = {**case["expect"], **case["expect"].get("artifact", {})}
        decided = expected.keys() - {"artifact", "stage"} - evaluate(case).elsewhere
        undecided |= set() if decided else {name}
    assert undecided == ELSEWHERE


def disk(name: str = "a", **options: Any) -> dict[str, Any]:
    return {"name": name, "disk": {"bus": "virtio"}, **options}


def case(disks: list[Any], volumes: list[Any], expect: dict[str, Any], **more: Any) -> dict[str, Any]:
    devices = {"disks": disks, **more.pop("devices", {})}
    context = {"x-context": more.pop("context")} if "context" in more else {}
    return {"spec": {"domain": {"devices": devices, **more}, "volumes": volumes, **context}, "expect": expect}


def at(name: str, path: str) -> str:
    return f"/domain/devices/disk[alias/@name='ua-{name}']/{path}"


CLAIM = {"name": "a", "persistentVolumeClaim": {"claimName": "c"}}
EMPTY = {"name": "a", "emptyDisk": {"capacity": "1Gi"}}
ISO = {"name": "a", "hostDisk": {"path": "/i/a.iso", "type": "Disk"}}
CONTAINER = {"name": "a", "containerDisk": {"image": "registry.example/guest:1"}}
BLOCK = {"block_volumes": ["a"]}
PATH = "/var/run/kubevirt"

MORE = {
    "a file of a claim": case(
        [disk()],
        [CLAIM],
        {
            "xml": [
                [at("a", "@type"), "file"],
                [at("a", "@device"), "disk"],
                [at("a", "driver/@type"), "raw"],
                [at("a", "driver/@cache"), "none"],
                [at("a", "driver/@discard"), "unmap"],
                [at("a", "source/@file"), f"{PATH}-private/vmi-disks/a/disk.img"],
                ["/domain/devices/controller[@type='scsi' and @index='0']/@model", "virtio-non-transitional"],
            ],
            "absent": [at("a", name) for name in ("driver/@io", "driver/@queues", "readonly", "serial", "address")]
            + ["/domain/iothreads", "/domain/memoryBacking", "/domain/cputune"],
        },
    ),
    "a block device of a claim": case(
        [disk()],
        [CLAIM],
        {
            "xml": [
                [at("a", "@type"), "block"],
                [at("a", "source/@dev"), "/dev/a"],
                [at("a", "driver/@io"), "native"],
            ]
        },
        context=BLOCK,
    ),
    "no direct input and output": case(
        [disk()],
        [CLAIM],
        {"xml": [[at("a", "driver/@cache"), "writethrough"]], "absent": [at("a", "driver/@io")]},
        context={"o_direct": False, **BLOCK},
    ),
    "the cache none without direct input and output": case(
        [disk(cache="none")], [CLAIM], {"reject": "cache"}, context={"o_direct": {"a": False}}
    ),
    "a forced cache": case([disk(cache="writeback")], [CLAIM], {"xml": [[at("a", "driver/@cache"), "writeback"]]}),
    "a thick claim": case(
        [disk()],
        [CLAIM],
        {"absent": [at("a", "driver/@discard")]},
        context={"pvc_annotations": {"a": {"user.custom.annotation/storage.thick-provisioned": "true"}}},
    ),
    "an annotation that is false": case(
        [disk()],
        [CLAIM],
        {"xml": [[at("a", "driver/@discard"), "unmap"]]},
        context={"pvc_annotations": {"a": {"cdi.kubevirt.io/storage.preallocation": "false"}}},
    ),
    "an empty disk is thin in spite of preallocation": case(
        [disk()],
        [EMPTY],
        {"xml": [[at("a", "driver/@discard"), "unmap"], [at("a", "driver/@type"), "qcow2"]]},
        context={"preallocated_volumes": ["a"]},
    ),
    "a container disk with a raw image": case(
        [disk()],
        [CONTAINER],
        {
            "xml": [
                [at("a", "driver/@type"), "qcow2"],
                [at("a", "backingStore/@type"), "file"],
                [at("a", "backingStore/format/@type"), "raw"],
                [at("a", "backingStore/source/@file"), f"{PATH}/container-disks/disk_0.img"],
            ]
        },
        context={"container_disks": {"a": {"format": "raw"}}},
    ),
    "an ephemeral volume on a block device": case(
        [disk()],
        [{"name": "a", "ephemeral": {"persistentVolumeClaim": {"claimName": "c"}}}],
        {
            "xml": [
                [at("a", "@type"), "file"],
                [at("a", "backingStore/@type"), "block"],
                [at("a", "backingStore/source/@dev"), "/dev/a"],
                [at("a", "backingStore/format/@type"), "raw"],
            ]
        },
        context=BLOCK,
    ),
    "a lun with a reservation": case(
        [{"name": "a", "lun": {"bus": "scsi", "reservation": True}}],
        [CLAIM],
        {
            "xml": [
                [at("a", "@device"), "lun"],
                [at("a", "target/@bus"), "scsi"],
                [at("a", "source/reservations/@managed"), "no"],
                [at("a", "source/reservations/source/@mode"), "client"],
                [at("a", "source/reservations/source/@path"), f"{PATH}/daemons/pr/pr-helper.sock"],
                [at("a", "address/@unit"), "0"],
            ],
            "absent": [at("a", "@model")],
        },
        context=BLOCK,
    ),
    "a lun on a file": case([{"name": "a", "lun": {}}], [CLAIM], {"reject": "only a block device"}),
    "a drive without a volume": case(
        [{"name": "a", "cdrom": {"bus": "sata"}}],
        [],
        {
            "xml": [[at("a", "@type"), "block"], [at("a", "target/@tray"), "closed"], [at("a", "driver/@type"), "raw"]],
            "absent": [at("a", "source"), at("a", "driver/@cache"), at("a", "driver/@discard")],
        },
    ),
    "a drive is read-only": case(
        [{"name": "a", "cdrom": {}}],
        [CLAIM],
        {
            "xml": [[at("a", "@device"), "cdrom"], [at("a", "driver/@discard"), "unmap"]],
            "absent": [at("a", "@model")],
        },
    ),
    "a drive that is declared writable": case(
        [{"name": "a", "cdrom": {"readonly": False}}], [ISO], {"absent": [at("a", "readonly")]}
    ),
    "a shareable disk": case(
        [disk(shareable=True)],
        [CLAIM],
        {"xml": [[f"count({at('a', 'shareable')})", "1"], [at("a", "driver/@cache"), "none"]]},
        context=BLOCK,
    ),
    "block sizes": case(
        [disk(blockSize={"custom": {"logical": 4096, "physical": 8192, "discardGranularity": 16384}})],
        [CLAIM],
        {
            "xml": [
                [at("a", "blockio/@logical_block_size"), "4096"],
                [at("a", "blockio/@physical_block_size"), "8192"],
                [at("a", "blockio/@discard_granularity"), "16384"],
            ]
        },
    ),
    "a granularity that doesn't match": case(
        [disk(blockSize={"matchVolume": {}})],
        [CLAIM],
        {"xml": [[at("a", "blockio/@discard_granularity"), "4096"]]},
        context={
            "detected_block_size": {
                "a": {"logical_block_size": 512, "physical_block_size": 4096, "discard_granularity": 1000}
            }
        },
    ),
    "a PCI address": case(
        [{"name": "a", "disk": {"bus": "virtio", "pciAddress": "0000:81:01.0"}}],
        [CLAIM],
        {
            "xml": [
                [at("a", "address/@type"), "pci"],
                [at("a", "address/@bus"), "0x81"],
                [at("a", "address/@slot"), "0x01"],
            ]
        },
    ),
    "queues are virtual processors": case(
        [disk(), {"name": "b", "disk": {"bus": "scsi"}}],
        [CLAIM, {**EMPTY, "name": "b"}],
        {"xml": [[at("a", "driver/@queues"), "12"]], "absent": [at("b", "driver/@queues")]},
        devices={"blockMultiQueue": True},
        cpu={"cores": 2, "sockets": 3, "threads": 2},
    ),
    "virtio of s390x": case([disk()], [CLAIM], {"xml": [[at("a", "@model"), "virtio"]]}, context={"arch": "s390x"}),
    "virtio for old guests": case(
        [disk()],
        [CLAIM],
        {
            "xml": [
                [at("a", "@model"), "virtio-transitional"],
                ["/domain/devices/controller[@type='scsi']/@model", "virtio-transitional"],
            ]
        },
        devices={"useVirtioTransitional": True},
    ),
    "no controller without hotplug": case(
        [disk()], [CLAIM], {"absent": ["/domain/devices/controller"]}, devices={"disableHotplug": True}
    ),
    "a controller for a disk": case(
        [{"name": "a", "disk": {"bus": "scsi"}}],
        [CLAIM],
        {"xml": [["count(/domain/devices/controller[@type='scsi'])", "1"]]},
        devices={"disableHotplug": True},
    ),
    "the first disk on scsi after a drive on sata": case(
        [{"name": "c", "cdrom": {"bus": "sata"}}, {"name": "a", "disk": {"bus": "scsi"}}],
        [CLAIM],
        {
            "xml": [
                [at("c", "target/@dev"), "sda"],
                [at("a", "target/@dev"), "sdb"],
                [at("a", "address/@unit"), "1"],
                [at("a", "address/@controller"), "0"],
            ]
        },
    ),
    "targets that exist": case(
        [disk("c"), disk("a"), disk("b")],
        [{**EMPTY, "name": name} for name in "abc"],
        {
            "xml": [
                [at("a", "target/@dev"), "vdc"],
                [at("b", "target/@dev"), "vda"],
                [at("c", "target/@dev"), "vdb"],
            ]
        },
        context={"existing_targets": {"a": "vdc", "b": "vda"}},
    ),
    "filesystems": case(
        [],
        [CLAIM],
        {
            "xml": [
                ["/domain/devices/filesystem[target/@dir='a']/driver/@type", "virtiofs"],
                ["/domain/devices/filesystem[target/@dir='a']/driver/@queue", "1024"],
                ["/domain/devices/filesystem/alias/@name", "ua-a"],
                ["/domain/memoryBacking/access/@mode", "shared"],
                ["/domain/memoryBacking/source/@type", "memfd"],
            ],
            "absent": ["/domain/devices/disk", "/domain/devices/filesystem/readonly"],
        },
        devices={"filesystems": [{"name": "a", "virtiofs": {}}]},
    ),
    "filesystems and huge pages": case(
        [],
        [CLAIM],
        {
            "xml": [["/domain/memoryBacking/access/@mode", "shared"]],
            "absent": ["/domain/memoryBacking/source", "/domain/memoryBacking[not(hugepages)]"],
        },
        devices={"filesystems": [{"name": "a", "virtiofs": {}}]},
        memory={"hugepages": {"pageSize": "2Mi"}},
    ),
    "metrics as a disk": case(
        [{"name": "a", "disk": {"bus": "virtio"}}],
        [{"name": "a", "downwardMetrics": {}}],
        {
            "xml": [[at("a", "driver/@type"), "raw"], [f"count({at('a', 'readonly')})", "1"]],
            "absent": [at("a", "driver/@discard")],
        },
    ),
    "metrics at a port": case(
        [disk()],
        [EMPTY],
        {
            "xml": [
                ["/domain/devices/channel/target/@name", "org.github.vhostmd.1"],
                ["/domain/devices/channel/target/@type", "virtio"],
                ["/domain/devices/channel/source/@mode", "bind"],
                ["/domain/devices/channel/source/@path", "~downwardmetrics[.]sock$"],
            ]
        },
        devices={"downwardMetrics": {}},
    ),
    "a boot order of an interface": case(
        [disk(bootOrder=1)],
        [EMPTY],
        {"reject": "the boot order of two devices"},
        devices={"interfaces": [{"name": "default", "bootOrder": 1}]},
    ),
    "a disk that is plugged in": case(
        [{"name": "a", "disk": {"bus": "scsi"}}],
        [{"name": "a", "dataVolume": {"name": "c", "hotpluggable": True}}],
        {"xml": [[at("a", "source/@file"), f"{PATH}/hotplug-disks/a.img"]]},
    ),
    "a ConfigDrive with a network": case(
        [disk()],
        [{"name": "a", "cloudInitConfigDrive": {"networkDataBase64": "e30=", "secretRef": {"name": "s"}}}],
        {
            "artifact": {
                "label": "config-2",
                "files": [f"/openstack/latest/{name}" for name in ("meta_data.json", "network_data.json", "user_data")],
            }
        },
    ),
    "labels of disks with files": case(
        [{"name": "a", "cdrom": {}}],
        [{"name": "a", "sysprep": {"configMap": {"name": "m"}}}],
        {"artifact": {"label": "unattendCD", "files": ["/Unattend.xml"], "iso_created": True}},
        context={"config_maps": {"m": {"Unattend.xml": "<x/>"}}},
    ),
}


@pytest.mark.parametrize("name", MORE)
def test_another_case(name: str) -> None:
    assert evaluate(MORE[name]).failures == []


#: KubeVirt's tables of threads: policy, processors, dedicated disks, other disks; number of threads, thread of each
#: disk. Dedicated disks are the first ones.
THREADS = [
    ("shared", 1, 1, 6, 2, [2, 1, 1, 1, 1, 1, 1]),
    ("shared", 8, 1, 6, 2, [2, 1, 1, 1, 1, 1, 1]),
    (None, 8, 1, 6, 2, [2, 1, 1, 1, 1, 1, 1]),
    ("auto", 1, 1, 6, 2, [2, 1, 1, 1, 1, 1, 1]),
    ("auto", 2, 1, 6, 4, [4, 1, 2, 3, 1, 2, 3]),
    ("auto", 3, 1, 6, 6, [6, 1, 2, 3, 4, 5, 1]),
    ("auto", 4, 1, 6, 7, [7, 1, 2, 3, 4, 5, 6]),
    ("auto", 5, 1, 6, 7, [7, 1, 2, 3, 4, 5, 6]),
    ("auto", 1, 2, 4, 3, [2, 3, 1, 1, 1, 1]),
    ("auto", 2, 2, 4, 4, [3, 4, 1, 2, 1, 2]),
    ("auto", 3, 2, 4, 6, [5, 6, 1, 2, 3, 4]),
    ("auto", 4, 2, 4, 6, [5, 6, 1, 2, 3, 4]),
    ("shared", 1, 2, 0, 3, [2, 3]),
    ("auto", 1, 1, 0, 1, [1]),
    ("auto", 4, 0, 2, 2, [1, 2]),
    ("shared", 4, 0, 2, 1, [1, 1]),
]


@pytest.mark.parametrize(("policy", "cpus", "dedicated", "others", "count", "threads"), THREADS)
def test_threads(policy: str | None, cpus: int, dedicated: int, others: int, count: int, threads: list[int]) -> None:
    names = [f"d{place}" for place in range(dedicated + others)]
    disks = [disk(name, dedicatedIOThread=place < dedicated) for place, name in enumerate(names)]
    expected = [[at(name, "driver/@iothread"), str(threads[place])] for place, name in enumerate(names)]
    found = case(
        disks,
        [{**EMPTY, "name": name} for name in names],
        {"xml": [["/domain/iothreads", str(count)], *expected], "absent": ["/domain/cputune"]},
        resources={"requests": {"cpu": cpus}},
        **({} if policy is None else {"ioThreadsPolicy": policy}),
    )
    assert evaluate(found).failures == []


def test_a_disk_on_another_bus_takes_a_place_but_has_no_thread() -> None:
    found = case(
        [{"name": "s", "disk": {"bus": "sata"}}, disk("a"), disk("b")],
        [{**EMPTY, "name": name} for name in "sab"],
        {
            "xml": [
                ["/domain/iothreads", "3"],
                [at("a", "driver/@iothread"), "1"],
                [at("b", "driver/@iothread"), "2"],
            ],
            "absent": [at("s", "driver/@iothread")],
        },
        ioThreadsPolicy="auto",
        cpu={"cores": 4},
    )
    assert evaluate(found).failures == []


def test_the_pool_is_of_every_virtio_disk() -> None:
    found = case(
        [disk("a", dedicatedIOThread=True), disk("b"), {"name": "s", "disk": {"bus": "scsi"}}],
        [{**EMPTY, "name": name} for name in "abs"],
        {
            "xml": [
                ["/domain/iothreads", "3"],
                [f"count({at('a', 'driver/iothreads/iothread')})", "3"],
                [at("b", "driver/iothreads/iothread[3]/@id"), "3"],
            ],
            "absent": [at("a", "driver/@iothread"), at("s", "driver/iothreads")],
        },
        ioThreadsPolicy="supplementalPool",
        ioThreads={"supplementalPoolThreadCount": 3},
    )
    assert evaluate(found).failures == []


#: Pinned processors, other disks with the policy auto and twice as many virtual processors; the processors of threads.
PINS = [
    ("5-8", 2, ["5,6", "7,8"]),
    ("5-8", 3, ["5,6", "7", "8"]),
    ("5-6", 4, ["6", "5", "6", "5"]),
    ("1-16", 6, ["1,2,3", "4,5,6", "7,8,9", "10,11,12", "13,14", "15,16"]),
]


@pytest.mark.parametrize(("cpuset", "threads", "pins"), PINS)
def test_pins(cpuset: str, threads: int, pins: list[str]) -> None:
    first, last = map(int, cpuset.split("-"))
    names = [f"d{place}" for place in range(threads)]
    found = case(
        [disk(name) for name in names],
        [{**EMPTY, "name": name} for name in names],
        {
            "xml": [
                [f"/domain/cputune/iothreadpin[@iothread='{place}']/@cpuset", pin] for place, pin in enumerate(pins, 1)
            ]
        },
        ioThreadsPolicy="auto",
        cpu={"cores": last - first + 1, "dedicatedCpuPlacement": True},
        context={"pinned_cpuset": cpuset},
    )
    assert evaluate(found).failures == []


def test_the_processors_of_a_pool() -> None:
    """They follow those of the virtual processors."""
    found = case(
        [disk()],
        [EMPTY],
        {
            "xml": [
                ["/domain/cputune/iothreadpin[@iothread='1']/@cpuset", "7"],
                ["/domain/cputune/iothreadpin[@iothread='2']/@cpuset", "8"],
            ]
        },
        ioThreadsPolicy="supplementalPool",
        ioThreads={"supplementalPoolThreadCount": 2},
        cpu={"cores": 2, "dedicatedCpuPlacement": True},
        context={"pinned_cpuset": "5-8"},
    )
    assert evaluate(found).failures == []


def test_an_isolated_emulator() -> None:
    found = case(
        [disk(name) for name in "abc"],
        [{**EMPTY, "name": name} for name in "abc"],
        {
            "xml": [
                ["/domain/iothreads", "1"],
                ["/domain/cputune/iothreadpin[@iothread='1']/@cpuset", "9"],
                [at("c", "driver/@iothread"), "1"],
            ]
        },
        ioThreadsPolicy="auto",
        cpu={"cores": 4, "dedicatedCpuPlacement": True, "isolateEmulatorThread": True},
        context={"pinned_cpuset": [1, 2, 3, 4], "emulator_cpuset": "9"},
    )
    assert evaluate(found).failures == []
