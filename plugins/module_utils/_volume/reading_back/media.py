# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small disks and directories with texts as sources of volumes. The texts themselves are never returned."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..._core.records import dataclass, field
from ..._libvirt.devices.volume_disk import VolumeDisk
from ..admission.data_rules import KEY
from ..admission.volume_rules import ANSWER_FILES
from ..media import (
    CONFIG_DRIVE_DIRECTORY,
    CONFIG_DRIVE_LABEL,
    FILES_LABEL,
    NETWORK_KEYS,
    NO_CLOUD_LABEL,
    SYSPREP_LABEL,
    USER_KEYS,
    Files,
    Identity,
    default_hostname,
    tagged_devices,
)


@dataclass(frozen=True)
class FoundTexts:
    """A volume with texts.

    :arg source: the source as plain data. It names an object with the name of the volume.
    :arg option: the option with this object, such as ``secrets``.
    :arg texts: the texts of this object by their keys.
    :arg metadata: the metadata that a disk for cloud-init has, without default values.
    :arg tags: the tags of disks, by their names.
    """

    source: Mapping[str, Any]
    option: str
    texts: Files = field(repr=False)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


def describe_medium(
    name: str, label: str, files: Files, identity: Identity, disks: Sequence[VolumeDisk]
) -> FoundTexts | None:
    """Return the source of a small disk; ``None`` for a disk that no such source gives.

    :arg name: the name of the volume.
    :arg disks: the disks of the domain, for their tags.
    """
    found = None
    if label == NO_CLOUD_LABEL:
        found = _describe_no_cloud(name, files, identity)
    elif label == CONFIG_DRIVE_LABEL:
        found = _describe_config_drive(name, files, identity, disks)
    elif label == SYSPREP_LABEL and any(key.lower() in ANSWER_FILES for key in files):
        # The answer file can have passwords.
        found = FoundTexts({"sysprep": {"secret": {"name": name}}}, "secrets", files)
    return found or describe_files(name, files, label)


def describe_files(name: str, files: Files, label: str = FILES_LABEL) -> FoundTexts | None:
    """Return a config map as the source of files; ``None`` for files that no config map gives."""
    if not all(map(KEY.fullmatch, files)):
        return None
    labelled = {} if label == FILES_LABEL else {"volume_label": label}
    return FoundTexts({"config_map": {"name": name, **labelled}}, "config_maps", files)


def _describe_no_cloud(name: str, files: Files, identity: Identity) -> FoundTexts | None:
    described = _read_json(files.get("meta-data"))
    if described is None or not {"user-data"} <= files.keys() <= {"meta-data", "user-data", "network-config"}:
        return None
    metadata = {
        "uid": described.get("instance-id"),
        "hostname": described.get("local-hostname"),
        "instance_type": described.get("instance-type"),
        "public_keys": _read_keys(described.get("public-keys")),
    }
    source, texts = _describe_data(name, files["user-data"], files.get("network-config"))
    return FoundTexts({"cloud_init_no_cloud": source}, "secrets", texts, _without_defaults(metadata, identity))


def _describe_config_drive(
    name: str, files: Files, identity: Identity, disks: Sequence[VolumeDisk]
) -> FoundTexts | None:
    inner = {
        path[len(CONFIG_DRIVE_DIRECTORY) + 1 :]: data
        for path, data in files.items()
        if path.startswith(f"{CONFIG_DRIVE_DIRECTORY}/")
    }
    described = _read_json(inner.get("meta_data.json"))
    known = {"meta_data.json", "user_data", "network_data.json"}
    if described is None or len(inner) != len(files) or not {"user_data"} <= inner.keys() <= known:
        return None
    guest, _dot, namespace = str(described.get("instance_id", "")).rpartition(".")
    metadata = {
        "name": guest,
        "namespace": namespace,
        "uid": described.get("uuid"),
        "hostname": described.get("hostname"),
        "instance_type": described.get("instance_type"),
        "public_keys": _read_keys(described.get("public_keys")),
    }
    source, texts = _describe_data(name, inner["user_data"], inner.get("network_data.json"))
    return FoundTexts(
        {"cloud_init_config_drive": source},
        "secrets",
        texts,
        _without_defaults(metadata, identity),
        _find_tags(described.get("devices"), disks),
    )


def _describe_data(name: str, user: bytes, network: bytes | None) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the source of cloud-init's data, and the texts of the secret that it names."""
    source, texts = {}, {}
    if user or network is None:
        source["secret_ref"] = {"name": name}
        texts[USER_KEYS[0]] = user
    if network is not None:
        source["network_data_secret_ref"] = {"name": name}
        texts[NETWORK_KEYS[0]] = network
    return source, texts


def _read_json(data: bytes | None) -> Mapping[str, Any] | None:
    """Return a dictionary in JSON; ``None`` for anything else."""
    try:
        found = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _read_keys(numbered: object) -> list[str] | None:
    if not isinstance(numbered, dict) or not all(re.fullmatch("[0-9]{1,4}", key) for key in numbered):
        return None
    return [str(numbered[key]) for key in sorted(numbered, key=int)]


def _without_defaults(metadata: Mapping[str, Any], identity: Identity) -> dict[str, Any]:
    name = metadata.get("name") or identity.name
    defaults = {
        "name": identity.name,
        "namespace": "default",
        "uid": identity.uuid,
        "hostname": default_hostname(name),
    }
    given = {key: value for key, value in metadata.items() if isinstance(value, (str, list)) and value}
    return {key: value for key, value in given.items() if value != defaults.get(key)}


def _find_tags(devices: object, disks: Sequence[VolumeDisk]) -> dict[str, str]:
    """Return the tags of disks in the metadata of a ConfigDrive, which describes the disks."""
    tags = {}
    for described in devices if isinstance(devices, list) else []:
        given = described.get("tags") if isinstance(described, dict) else None
        if isinstance(given, list) and len(given) == 1 and isinstance(given[0], str):
            tags.update(
                {disk.name: given[0] for disk in disks if tagged_devices([disk], {disk.name: given[0]}) == [described]}
            )
    return tags


__all__ = ["FoundTexts", "describe_files", "describe_medium"]
