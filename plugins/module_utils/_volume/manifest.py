# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options of the module ``domain_volumes`` for a manifest of a VirtualMachine or a VirtualMachineInstance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._core.errors import InvalidInput
from .._core.problems import Problems
from .._core.records import dataclass, field
from .._model.domain_volumes import is_thick
from .reading.declaration import read_declaration

_DEFINITION = "the definition of the domain has it"
_CLUSTER = "it concerns the scheduling of a cluster"
_OTHER = "the module domain_volumes has no such option"

#: Options of the module, by the place in the manifest and the key there.
_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "spec.domain.devices": {
        "disks": "disks",
        "filesystems": "filesystems",
        "blockMultiQueue": "block_multi_queue",
        "downwardMetrics": "downward_metrics",
        "useVirtioTransitional": "virtio_transitional",
        "disableHotplug": "disable_hotplug",
    },
    "spec.domain": {"ioThreadsPolicy": "io_threads_policy", "ioThreads": "io_threads"},
    "spec": {"volumes": "volumes"},
}

#: Reasons for keys without an option, by the place. Keys without a reason are used in another way.
_IGNORED: Mapping[str, Mapping[str, str]] = {
    "spec.domain.devices": {"interfaces": _DEFINITION},
    "spec.domain": {
        "devices": "",
        "resources": _DEFINITION,
        "cpu": _DEFINITION,
        "memory": _DEFINITION,
        "machine": _DEFINITION,
        "firmware": _DEFINITION,
        "features": _DEFINITION,
        "clock": _DEFINITION,
    },
    "spec": {
        "domain": "",
        "hostname": "",
        "networks": _DEFINITION,
        "architecture": _DEFINITION,
        "accessCredentials": "metadata.public_keys has the keys for cloud-init",
        "terminationGracePeriodSeconds": "a cluster stops its virtual machines by it",
        **dict.fromkeys(
            (
                "affinity",
                "nodeSelector",
                "tolerations",
                "topologySpreadConstraints",
                "evictionStrategy",
                "schedulerName",
                "priorityClassName",
            ),
            _CLUSTER,
        ),
    },
}

#: The volumes that name an object of Kubernetes: the key of the source, the key of the name, and the option with the
#: content of the object.
_REFERENCES = (
    ("configMap", "name", "config_maps"),
    ("secret", "secretName", "secrets"),
    ("serviceAccount", "serviceAccountName", "service_accounts"),
)
_MACHINES = ("VirtualMachine", "VirtualMachineInstance", "VirtualMachineInstanceReplicaSet")


@dataclass(frozen=True)
class ManifestOptions:
    """The options for a manifest.

    :arg options: the options of the module ``domain_volumes``.
    :arg warnings: sentences about parts of the manifest that have no counterpart here.
    """

    options: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def read_manifest(documents: Sequence[Mapping[str, Any]]) -> ManifestOptions:
    """Return the options for a virtual machine.

    :arg documents: its manifest, and those of config maps, secrets and claims that it uses.
    :raises InvalidInput: the documents don't have exactly one virtual machine.
    :raises InvalidDeclaration: the module can't read the options.
    """
    found = ManifestOptions()
    machines = [one for one in documents if one.get("kind", _MACHINES[0]) in _MACHINES]
    if len(machines) != 1:
        kinds = ", ".join(str(one.get("kind")) for one in documents) or "no document"
        raise InvalidInput("manifest", kinds, "one VirtualMachine or VirtualMachineInstance is expected")
    _read_machine(found, machines[0])
    _read_objects(found, [one for one in documents if one is not machines[0]])
    _drop_cluster_parts(found)
    _warn_of_content(found)
    problems = Problems()
    read_declaration(problems, {name: one for name, one in found.options.items() if name != "domain"})
    problems.raise_any()
    return found


def _read_machine(found: ManifestOptions, machine: Mapping[str, Any]) -> None:
    spec, instance = _dictionary(machine, "spec"), machine
    if "template" in spec:
        _warn(found, "spec", spec, {"template": "", "dataVolumeTemplates": "", "running": "", "runStrategy": ""})
        if spec.get("dataVolumeTemplates"):
            found.options["data_volume_templates"] = spec["dataVolumeTemplates"]
        instance = _dictionary(spec, "template")
        spec = _dictionary(instance, "spec")
    domain = _dictionary(spec, "domain")
    devices = _dictionary(domain, "devices")
    if "volumes" in domain or "volumes" in devices:
        raise InvalidInput("manifest", "volumes in spec.domain", "the volumes are expected in spec, beside domain")
    for place, values in (("spec.domain.devices", devices), ("spec.domain", domain), ("spec", spec)):
        options = _OPTIONS[place]
        found.options.update({options[key]: one for key, one in values.items() if key in options and one is not None})
        _warn(found, place, values, {**dict.fromkeys(options, ""), **_IGNORED[place]})
    if isinstance(found.options.get("downward_metrics"), Mapping):
        found.options["downward_metrics"] = True  # an empty dictionary in KubeVirt
    _read_metadata(found, _dictionary(machine, "metadata"), _dictionary(instance, "metadata"), spec.get("hostname"))


def _read_metadata(
    found: ManifestOptions, machine: Mapping[str, Any], instance: Mapping[str, Any], hostname: object
) -> None:
    name = machine.get("name") or instance.get("name")
    values = {key: instance.get(key) or machine.get(key) for key in ("namespace", "uid", "labels", "annotations")}
    given = {key: one for key, one in {"name": name, **values, "hostname": hostname}.items() if one}
    if given:
        found.options["metadata"] = given
    if name:
        found.options["domain"] = name


def _warn(found: ManifestOptions, place: str, values: Mapping[str, Any], reasons: Mapping[str, str]) -> None:
    for key in values:
        reason = reasons.get(key, _OTHER)
        if reason:
            found.warnings.append(f"{place}.{key} is ignored: {reason}.")


def _read_objects(found: ManifestOptions, documents: Sequence[Mapping[str, Any]]) -> None:
    """Read the objects that the volumes use."""
    thick = set()
    for document in documents:
        kind, metadata = document.get("kind"), _dictionary(document, "metadata")
        name = str(metadata.get("name"))
        if kind == "ConfigMap":
            _add_content(found, "config_maps", name, document.get("data"), document.get("binaryData"))
        elif kind == "Secret":
            # Kubernetes has the data of a secret in base64.
            _add_content(found, "secrets", name, document.get("stringData"), document.get("data"))
        elif kind == "PersistentVolumeClaim":
            given = _dictionary(metadata, "annotations").items()
            annotations = {key: str(one) for key, one in given if isinstance(one, (str, bool))}
            thick |= {name} if is_thick(annotations) else set()
        else:
            found.warnings.append(f"The object {name!r} of the kind {kind} is ignored: {_OTHER}.")
    if thick:
        volumes = _dictionaries(found, "volumes")
        found.options["volumes"] = [{**one, "thick": True} if _claim(one) in thick else one for one in volumes]


def _add_content(found: ManifestOptions, option: str, name: str, data: object, binary_data: object) -> None:
    content = {key: one for key, one in (("data", data), ("binary_data", binary_data)) if one}
    found.options.setdefault(option, {})[name] = content


def _claim(volume: Mapping[str, Any]) -> object:
    return _dictionary(volume, "persistentVolumeClaim").get("claimName") or _dictionary(volume, "dataVolume").get(
        "name"
    )


def _drop_cluster_parts(found: ManifestOptions) -> None:
    """Leave out volumes and keys that serve a cluster only."""
    disks, volumes = _dictionaries(found, "disks"), _dictionaries(found, "volumes")
    dumps = {str(one.get("name")) for one in volumes if one.get("memoryDump") is not None}
    for name in sorted(dumps):
        found.warnings.append(f"The volume {name!r} is ignored: virsh dump writes the memory of a domain to a file.")
    for disk in disks:
        if disk.get("changedBlockTracking"):
            found.warnings.append(f"changedBlockTracking of the disk {disk.get('name')!r} is ignored: {_OTHER}.")
    if disks:
        found.options["disks"] = [
            {key: one for key, one in disk.items() if key != "changedBlockTracking"}
            for disk in disks
            if str(disk.get("name")) not in dumps
        ]
    if volumes:
        found.options["volumes"] = [one for one in volumes if str(one.get("name")) not in dumps]


def _warn_of_content(found: ManifestOptions) -> None:
    """Warn of objects whose content the documents lack."""
    for volume in _dictionaries(found, "volumes"):
        for key, name_key, option in _REFERENCES:
            name = _dictionary(volume, key).get(name_key)
            if name and name not in found.options.get(option, {}):
                found.warnings.append(
                    f"The volume {volume.get('name')!r} needs {name!r} in the option {option}: the manifest lacks its "
                    "content."
                )


def _dictionary(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the dictionary at a key; an empty one for anything else."""
    found = values.get(key)
    return found if isinstance(found, Mapping) else {}


def _dictionaries(found: ManifestOptions, option: str) -> list[Mapping[str, Any]]:
    """Return a list of dictionaries; an empty list for an option that is anything else, which the reader refuses."""
    values = found.options.get(option)
    is_valid = isinstance(values, list) and all(isinstance(one, Mapping) for one in values)
    return values if is_valid else []  # type: ignore[return-value]  # it is a list then


__all__ = ["ManifestOptions", "read_manifest"]
