# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The evaluation of a case for KubeVirt's model: a part of a manifest, facts about the host, and the devices, files or
errors that must come of them.

``python tests/kubevirt_cases.py FILE...`` evaluates the cases in files with one case a line.
"""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / ".cache" / "collections"))

from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidDeclaration, VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._core.problems import Problem
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.alias import set_name
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.filesystem import create_filesystem
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.io_threads import set_io_threads
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.memory import share_memory
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.metrics_channel import (
    create_metrics_channel,
)
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.scsi import create_scsi_controller
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.volume_disk import (
    DiskLayer,
    create_volume_disk,
)
from ansible_collections.granary.vmstore.plugins.module_utils._model.domain_volumes import DomainVolumes, is_thick
from ansible_collections.granary.vmstore.plugins.module_utils._model.volume_disks import BlockSize
from ansible_collections.granary.vmstore.plugins.module_utils._model.volume_sources import (
    CloudInit,
    ConfigMap,
    ContainerDisk,
    DownwardApi,
    DownwardMetrics,
    EmptyDisk,
    Ephemeral,
    HostDisk,
    Secret,
    ServiceAccount,
    Sysprep,
    VolumeSpec,
)
from ansible_collections.granary.vmstore.plugins.module_utils._volume.admission.declaration import accept_declaration
from ansible_collections.granary.vmstore.plugins.module_utils._volume.connection import connect_disks
from ansible_collections.granary.vmstore.plugins.module_utils._volume.conversion import DomainDevices, convert
from ansible_collections.granary.vmstore.plugins.module_utils._volume.facts import DomainFacts, VolumeFacts
from ansible_collections.granary.vmstore.plugins.module_utils._volume.manifest import read_manifest
from ansible_collections.granary.vmstore.plugins.module_utils._volume.media import GuestFiles, Identity, label_of
from ansible_collections.granary.vmstore.plugins.module_utils._volume.quantity import read_quantity
from ansible_collections.granary.vmstore.plugins.module_utils._volume.sizes import (
    RESERVE,
    TOLERANCE,
    claim_capacity,
    empty_disk_size,
    expanded_size,
    host_disk_size,
    is_tolerated,
    matched_block_size,
    usable_size,
)
from xpath import select, text_of

#: KubeVirt's names of architectures.
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
#: The paths of volumes in KubeVirt, by the class of the source.
PATHS: Mapping[type, str] = {
    EmptyDisk: "/var/run/libvirt/empty-disks/{}.qcow2",
    ContainerDisk: "/var/run/kubevirt-ephemeral-disks/disk-data/{}/disk.qcow2",
    Ephemeral: "/var/run/kubevirt-ephemeral-disks/disk-data/{}/disk.qcow2",
    ConfigMap: "/var/run/kubevirt-private/config-map-disks/{}.iso",
    Secret: "/var/run/kubevirt-private/secret-disks/{}.iso",
    DownwardApi: "/var/run/kubevirt-private/downwardapi-disks/{}.iso",
    ServiceAccount: "/var/run/kubevirt-private/service-account-disk/service-account.iso",
    Sysprep: "/var/run/kubevirt-private/sysprep-disks/{}.iso",
    DownwardMetrics: "/var/run/kubevirt-private/downwardapi-disks/vhostmd0",
}
CLAIM = "/var/run/kubevirt-private/vmi-disks/{}/disk.img"
#: Sources in qcow2 files.
QCOW2 = (EmptyDisk, ContainerDisk, Ephemeral)
IDENTITY = Identity("testvmi", "5d307ca9-b3ef-428c-8861-06e72d69f223", "node01")

#: Expectations that the engine doesn't decide, each with its owner.
ELSEWHERE: Mapping[str, str] = {
    "argv": "the service that runs the program",
    "mode": "the service that creates the file",
    "owner": "the service that creates the file",
    "idempotent": "the service that creates the file",
    "unchanged": "the service that creates the file",
    "call": "the service that resizes a running disk",
    "offline": "the service that resizes a disk",
    "size": "the service of the downward metrics",
    "header_be": "the service of the downward metrics",
    "body": "the service of the downward metrics",
    "max_body": "the service of the downward metrics",
    "response": "the service of the downward metrics",
    "default_label": "a label that the case doesn't have",
    "uid": "the user of virtiofsd, which KubeVirt limits",
    "gid": "the user of virtiofsd, which KubeVirt limits",
    "caps": "the user of virtiofsd, which KubeVirt limits",
}


@dataclass
class Evaluation:
    """The result of a case.

    :ivar failures: the expectations that aren't met.
    :ivar elsewhere: the expectations that the engine doesn't decide.
    :ivar problems: the problems that were found.
    """

    failures: list[str] = field(default_factory=list)
    elsewhere: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)


class Case:
    """A case with the facts about its host."""

    def __init__(self, case: Mapping[str, Any]) -> None:
        self.expect: Mapping[str, Any] = case["expect"]
        self.manifest = {key: value for key, value in case["spec"].items() if key != "x-context"}
        self.context: Mapping[str, Any] = case["spec"].get("x-context") or {}
        self.domain: Mapping[str, Any] = self.manifest.get("domain") or {}
        self.facts = self._facts()

    def _facts(self) -> DomainFacts:
        arch = self.context.get("arch", "amd64")
        interfaces = (self.domain.get("devices") or {}).get("interfaces") or []
        pinned, pool, emulator = self._processors()
        return DomainFacts(
            arch=ARCHITECTURES.get(arch, arch),
            vcpus=self._vcpus(),
            targets=targets_by_name(self.context.get("existing_targets") or {}),
            other_boot_orders={one["bootOrder"]: one["name"] for one in interfaces if one.get("bootOrder")},
            pinned_cpus=pinned,
            pool_cpus=pool,
            emulator_cpus=emulator,
            reservation_socket="/var/run/kubevirt/daemons/pr/pr-helper.sock",
        )

    def _processors(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Return the host's processors of the virtual processors, of the pool and of the emulator, in this order in
        the set of the case.
        """
        cpu = self.domain.get("cpu") or {}
        if not cpu.get("dedicatedCpuPlacement", "pinned_cpuset" in self.context):
            return (), (), ()
        found, count = processors(self.context.get("pinned_cpuset", range(self._vcpus()))), self._vcpus()
        is_pool = self.domain.get("ioThreadsPolicy") == "supplementalPool"
        size = (self.domain.get("ioThreads") or {}).get("supplementalPoolThreadCount", 0) if is_pool else 0
        emulator = processors(self.context.get("emulator_cpuset", found[count + size :] or (0,)))
        return found[:count], found[count : count + size], emulator if cpu.get("isolateEmulatorThread") else ()

    def _vcpus(self) -> int:
        cpu, resources = self.domain.get("cpu") or {}, self.domain.get("resources") or {}
        if cpu.keys() & {"cores", "sockets", "threads"}:
            return int(cpu.get("cores", 1) * cpu.get("sockets", 1) * cpu.get("threads", 1))
        for kind in ("requests", "limits"):
            count = read_quantity((resources.get(kind) or {}).get("cpu"))
            if count:
                return count
        return 1

    def declaration(self) -> DomainVolumes:
        """Return the declaration, with some content for each object that the case names."""
        spec = {key: value for key, value in self.manifest.items() if key != "dataVolumeTemplates"}
        templates = self.manifest.get("dataVolumeTemplates") or []
        manifest = {"kind": "VirtualMachine", "spec": {"template": {"spec": spec}, "dataVolumeTemplates": templates}}
        options = {**read_manifest([manifest]).options}
        content = {"unattend.xml": "", "userdata": "x", "networkdata": "x", "token": ""}
        for option, names in named_objects(self.manifest.get("volumes") or []).items():
            given = self.context.get(option) or {}
            options[option] = {name: {"data": given.get(name, content)} for name in names}
        return accept_declaration(options, self.facts)

    def volumes(self, spec: DomainVolumes) -> dict[str, VolumeFacts]:
        return {volume.name: self._volume(volume, place) for place, volume in enumerate(spec.volumes)}

    def _volume(self, volume: VolumeSpec, place: int) -> VolumeFacts:
        name, source = volume.name, volume.source
        is_block = name in self.context.get("block_volumes", ())
        claim = DiskLayer(f"/dev/{name}", True) if is_block else DiskLayer(CLAIM.format(name))
        if getattr(source, "hotpluggable", False):
            claim = DiskLayer(f"/var/run/kubevirt/hotplug-disks/{name}{'' if is_block else '.img'}", is_block)
        layer, backing = claim, None
        if isinstance(source, Ephemeral):
            layer, backing = DiskLayer(PATHS[Ephemeral].format(name), False, "qcow2"), claim
        elif isinstance(source, ContainerDisk):
            path = f"/var/run/kubevirt/container-disks/disk_{place}.img"
            layer = DiskLayer(PATHS[ContainerDisk].format(name), False, "qcow2")
            backing = DiskLayer(path, False, self._container_format(name))
        elif isinstance(source, HostDisk):
            layer = DiskLayer(f"/var/run/kubevirt-private/vmi-disks/{name}/{source.path.rpartition('/')[2]}")
        elif isinstance(source, CloudInit):
            iso = "noCloud.iso" if source.kind == "no_cloud" else "configdrive.iso"
            layer = DiskLayer(f"/var/run/kubevirt-ephemeral-disks/cloud-init-data/default/testvmi/{iso}")
        elif type(source) in PATHS:
            layer = DiskLayer(PATHS[type(source)].format(name), False, "qcow2" if isinstance(source, QCOW2) else "raw")
        is_preallocated = name in self.context.get("preallocated_volumes", ())
        paths = [one.path for one in (layer, backing) if one is not None]
        return VolumeFacts(
            layer,
            backing,
            is_thick=is_preallocated or self._is_thick(name, getattr(source, "claim_name", name)),
            has_direct_io=all(self._has_direct_io(key) for key in (name, *paths)),
            is_allocated=is_preallocated,
            block_size=self._block_size(name),
        )

    def _is_thick(self, *names: str) -> bool:
        annotations = self.context.get("pvc_annotations") or {}
        found = next((annotations[name] for name in names if name in annotations), annotations)
        return is_thick({key: str(value).lower() for key, value in found.items()})

    def _has_direct_io(self, key: str) -> bool:
        """Return whether the file of a volume, given by the name of the volume or by its path, has direct I/O."""
        found = self._by_name("o_direct", key, True)
        found = found.values() if isinstance(found, Mapping) else [found]
        return all(one in (True, "supported") for one in found)

    def _by_name(self, key: str, name: str, default: Any) -> Any:
        value = self.context.get(key, default)
        return value.get(name, default) if isinstance(value, Mapping) else value

    def _container_format(self, name: str) -> str:
        found = self._by_name("container_disks", name, "qcow2")
        found = found.get("format", "qcow2") if isinstance(found, Mapping) else found
        return found if isinstance(found, str) else "qcow2"

    def _block_size(self, name: str) -> BlockSize | None:
        found = (self.context.get("detected_block_size") or {}).get(name)
        if found is None:
            return None
        return matched_block_size(
            found["logical_block_size"], found["physical_block_size"], found.get("discard_granularity")
        )


def targets_by_name(found: Any) -> dict[str, str]:
    """Return the targets by the names of disks, for a dictionary in either direction or a list of dictionaries."""
    if not isinstance(found, Mapping):
        return {one["name"]: one["target"] for one in found}
    is_by_target = all(re.fullmatch("[vs]d[a-z]+", key) for key in found) and not all(
        re.fullmatch("[vs]d[a-z]+", str(value)) for value in found.values()
    )
    return {str(value): key for key, value in found.items()} if is_by_target else dict(found)


def processors(value: Any) -> tuple[int, ...]:
    """Return the numbers in a set of processors: a list, or a text such as ``2-3,6``."""
    if not isinstance(value, str):
        return (value,) if isinstance(value, int) else tuple(value)
    found: list[int] = []
    for part in value.split(","):
        first, _separator, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def named_objects(volumes: Any) -> dict[str, set[str]]:
    """Return the names of config maps, secrets and service accounts that volumes have."""
    found: dict[str, set[str]] = {"config_maps": set(), "secrets": set(), "service_accounts": set()}
    text = json.dumps(volumes)
    for key, name, option in (
        ("configMap", "name", "config_maps"),
        ("secret", "secretName", "secrets"),
        ("secret", "name", "secrets"),
        ("secretRef", "name", "secrets"),
        ("networkDataSecretRef", "name", "secrets"),
        ("serviceAccount", "serviceAccountName", "service_accounts"),
    ):
        found[option] |= set(re.findall(rf'"{key}": {{[^}}]*"{name}": "([^"]*)"', text))
    return found


def domain_of(devices: DomainDevices, facts: DomainFacts, page_size: str | None = None) -> ET.Element:
    """Return a domain with the devices and nothing else.

    :arg page_size: the size of the huge pages that the domain has.
    """
    root = ET.Element("domain")
    ET.SubElement(root, "memory")
    if page_size is not None:
        pages = ET.SubElement(ET.SubElement(root, "memoryBacking"), "hugepages")
        ET.SubElement(pages, "page", {"size": str(read_quantity(page_size)), "unit": "b"})
    inner = ET.SubElement(root, "devices")
    inner.extend(map(create_volume_disk, devices.disks))
    for device in devices.filesystems:
        inner.append(create_filesystem(device))
        set_name(inner[-1], device.tag)
    if devices.scsi_model is not None:
        inner.append(create_scsi_controller(str(facts.scsi_controller), devices.scsi_model))
    if devices.has_metrics_port:
        inner.append(create_metrics_channel("/var/run/kubevirt-private/downwardmetrics-channel/downwardmetrics.sock"))
    if devices.io_threads.count:
        set_io_threads(root, devices.io_threads.count, devices.io_threads.pins)
    if devices.needs_shared_memory:
        share_memory(root)
    return root


def evaluate(data: Mapping[str, Any]) -> Evaluation:
    """Return the result of a case."""
    case, result = Case(data), Evaluation()
    expected = case.expect
    result.elsewhere = {key for key in (*expected, *expected.get("artifact", {})) if key in ELSEWHERE}
    if "request" in case.context:
        return result
    try:
        spec = case.declaration()
        devices = convert(spec, case.facts, case.volumes(spec), {one.name: "/srv" for one in spec.filesystems})
        artifacts = {key: read(case, spec) for key, read in ARTIFACTS.items() if key in expected.get("artifact", {})}
        if "reject" in expected:
            artifacts = {"raw_sparse_size": _host_disk(case, spec)}
    except VmstoreError as error:
        result.problems = list(error.problems) if isinstance(error, InvalidDeclaration) else []
        if "reject" not in expected:
            result.failures.append(str(error))
        return result
    if "reject" in expected:
        result.failures.append(f"isn't refused: {expected['reject']}")
    page_size = ((case.domain.get("memory") or {}).get("hugepages") or {}).get("pageSize")
    result.failures += compare_xml(domain_of(devices, case.facts, page_size), expected)
    result.failures += compare_artifacts(artifacts, expected.get("artifact", {}))
    return result


def compare_xml(root: ET.Element, expected: Mapping[str, Any]) -> Iterator[str]:
    """Yield the expectations about the XML of a domain that aren't met."""
    for expression, value in expected.get("xml", []):
        found = text_of(select(root, expression))
        wanted = str(value)
        is_met = re.search(wanted[1:], found or "") if wanted.startswith("~") else found == wanted
        if not is_met:
            yield f"{expression} is {found!r}, not {value!r}"
    for expression in expected.get("absent", []):
        if select(root, expression):
            yield f"{expression} is present"


def compare_artifacts(found: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    """Yield the expectations about files that aren't met."""
    for key, value in expected.items():
        if key not in ELSEWHERE and (key not in found or found[key] not in (value, DESCRIBED)):
            yield f"{key} is {found.get(key)!r}, not {value!r}"


#: The value of an artifact that the case describes with words.
DESCRIBED = object()


def _source(spec: DomainVolumes) -> Any:
    return spec.volumes[0].source


def _host_disk(case: Case, spec: DomainVolumes) -> int | None:
    source = _source(spec)
    if not isinstance(source, HostDisk) or "bytes_available" not in case.context:
        return None
    free = case.context["bytes_available"] + RESERVE
    tolerance = case.context.get("tolerance_percent", TOLERANCE)
    return host_disk_size(source.path, source.capacity or 0, free, tolerance=tolerance)


def _event(case: Case, spec: DomainVolumes) -> str | None:
    size = _host_disk(case, spec)
    return "PV size too small" if size is not None and is_tolerated(_source(spec).capacity, size) else None


def _format(case: Case, spec: DomainVolumes) -> str:
    return case.volumes(spec)[spec.volumes[0].name].layer.format


def _guest_size(case: Case, spec: DomainVolumes) -> int:
    context = case.context
    capacity = claim_capacity(context.get("requests"), context["capacity"])
    free = context.get("bytes_available", capacity)
    overhead = Fraction(str(context.get("filesystem_overhead", "0.06")))
    return expanded_size(capacity, context.get("actual_size", 0), free, overhead)


def _files(case: Case, spec: DomainVolumes) -> Mapping[str, bytes]:
    return GuestFiles(spec, IDENTITY).files_of(_source(spec)) or {}


def _metadata(names: set[str], path: str) -> Callable[[Case, DomainVolumes], object]:
    """Return a reader of metadata in JSON, which the case describes with words."""

    def read(case: Case, spec: DomainVolumes) -> object:
        keys = json.loads(_files(case, spec)[path]).keys()
        return DESCRIBED if names <= keys else sorted(keys)

    return read


#: The readers of artifacts, by their keys.
ARTIFACTS: Mapping[str, Callable[[Case, DomainVolumes], Any]] = {
    "virtual_size": lambda case, spec: empty_disk_size(_source(spec).capacity),
    "format": _format,
    "raw_sparse_size": _host_disk,
    "event": _event,
    "guest_size": _guest_size,
    "usable_size": lambda case, spec: usable_size(case.context["bytes_available"]),
    "image_pull_policy": lambda case, spec: _source(spec).pull_policy,
    "label": lambda case, spec: label_of(_source(spec)),
    "files": lambda case, spec: sorted(f"/{name}" for name in _files(case, spec)),
    "user-data": lambda case, spec: _files(case, spec)["user-data"].decode(),
    "meta-data": _metadata({"instance-id", "local-hostname"}, "meta-data"),
    "meta_data.json": _metadata({"instance_id", "uuid", "hostname"}, "openstack/latest/meta_data.json"),
    "iso_created": lambda case, spec: any(label_of(disk.source) for disk in connect_disks(spec, case.facts)),
}


def main() -> int:
    """Evaluate the cases in files and print the failures."""
    failed = 0
    for path in sys.argv[1:]:
        for line in Path(path).read_text().splitlines():
            case = json.loads(line)
            result = evaluate(case)
            failed += bool(result.failures)
            state = "FAILED" if result.failures else "ok"
            print(f"{case['id']} {case['area']}: {state}", *result.failures, sorted(result.elsewhere) or "", sep="\n  ")
            print(*(f"    {one.rule} {one.path}" for one in result.problems), sep="\n", end="")
    return failed


if __name__ == "__main__":
    sys.exit(main())
