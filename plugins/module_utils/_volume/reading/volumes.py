# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The reading of volumes from plain data."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

from ..._core.problems import Problems
from ..._core.secrets import WITHHELD
from ..._model.volume_sources import (
    CONFIG_DRIVE,
    HOST_DISK_TYPES,
    NO_CLOUD,
    PULL_POLICIES,
    CloudInit,
    ConfigMap,
    ContainerDisk,
    DataVolume,
    DownwardApi,
    DownwardApiItem,
    DownwardMetrics,
    EmptyDisk,
    Ephemeral,
    HostDisk,
    KeyedData,
    PersistentVolumeClaim,
    Secret,
    ServiceAccount,
    Sysprep,
    VolumeSpec,
)
from .readers import (
    INVALID,
    Reader,
    Shape,
    choice,
    flag,
    items,
    mapping,
    optional_text,
    quantity,
    read_fields,
    record,
    secret_text,
    text,
)

#: The reason for keys of Kubernetes that set permissions and subsets of files.
_ALL_FILES = "a disk or filesystem has all keys as files here, so it must be left out"


class Unreadable:
    """The source of a volume with problems. It stands in for the source, so that its problems cause no others."""


def decode_base64(problems: Problems, path: str, value: object) -> Any:
    """Return the bytes of a text in base64. The text can be a secret."""
    if not isinstance(value, str):
        problems.add("type", path, WITHHELD, "a text is expected")
        return INVALID
    try:
        # Line ends are allowed, because Kubernetes decodes them, too.
        return base64.b64decode(value.replace("\n", "").replace("\r", "").encode(), validate=True)
    except (binascii.Error, UnicodeError):
        problems.add("base64", path, WITHHELD, "a text in base64 (RFC 4648) is expected")
        return INVALID


def _reference(key: str) -> Reader:
    """Return a reader of the name in a dictionary ``{key: name}``."""
    return record(Shape({key: text}, required=(key,), ignored=("optional",)), lambda **found: found[key])


_NAME = _reference("name")

_CLOUD_INIT = Shape(
    {
        "user_data": secret_text,
        "user_data_base64": decode_base64,
        "secret_ref": _NAME,
        "network_data": secret_text,
        "network_data_base64": decode_base64,
        "network_data_secret_ref": _NAME,
    },
    spelled={"secret_ref": ["userDataSecretRef"]},
)


def _cloud_init(kind: str) -> Reader:
    """Return a reader of the data for cloud-init."""

    def read(problems: Problems, path: str, value: object) -> Any:
        found = read_fields(problems, path, value, _CLOUD_INIT)
        if found is INVALID:
            return INVALID
        given = {name for name, one in value.items() if one not in (None, "")}  # type: ignore[attr-defined]
        found = {name: one for name, one in found.items() if one}
        user = _one_of(problems, path, "user_data", found, "secret_ref")
        network = _one_of(problems, path, "network_data", found, "network_data_secret_ref")
        if not given:
            problems.add("cloud_init_empty", path, "no data", "user data or network data is expected")
        return CloudInit(kind, *user, *network)

    return read


def _one_of(
    problems: Problems, path: str, name: str, found: Mapping[str, Any], secret: str
) -> tuple[bytes | None, str | None]:
    """Return the data ``name`` and the name of its secret, at most one of which is given."""
    sources = (name, f"{name}_base64", secret)
    given = [one for one in sources if one in found]
    if len(given) > 1:
        problems.add("one_data_source", path, " and ".join(given), f"one of {', '.join(sources)} is expected")
    return found.get(name, found.get(f"{name}_base64")), found.get(secret)


_CLAIM = {"claim_name": text, "read_only": flag}

_FIELD_REFERENCE = record(
    Shape({"field_path": text}, required=("field_path",), ignored=("apiVersion",)), lambda field_path: field_path
)


def _downward_item(path: str, field_ref: str) -> DownwardApiItem:
    return DownwardApiItem(path, field_ref)


_ITEM = record(
    Shape(
        {"path": text, "field_ref": _FIELD_REFERENCE},
        required=("path", "field_ref"),
        refused={
            "resourceFieldRef": "a domain has no resource requests. field_ref is expected",
            "mode": _ALL_FILES,
        },
    ),
    _downward_item,
)


def _downward_api(fields: tuple[DownwardApiItem, ...] = (), volume_label: str | None = None) -> DownwardApi:
    return DownwardApi(fields, volume_label)


def _ephemeral(persistent_volume_claim: PersistentVolumeClaim) -> Ephemeral:
    return Ephemeral(persistent_volume_claim.claim_name)


_SUBSET = {"items": _ALL_FILES, "defaultMode": _ALL_FILES}

#: The sources of volumes, by their keys.
_SOURCES: Mapping[str, Reader] = {
    "persistent_volume_claim": record(
        Shape({**_CLAIM, "hotpluggable": flag}, required=("claim_name",)), PersistentVolumeClaim
    ),
    "data_volume": record(Shape({"name": text, "hotpluggable": flag}, required=("name",)), DataVolume),
    "ephemeral": record(
        Shape(
            {"persistent_volume_claim": record(Shape(_CLAIM, required=("claim_name",)), PersistentVolumeClaim)},
            required=("persistent_volume_claim",),
        ),
        _ephemeral,
    ),
    "container_disk": record(
        Shape(
            {
                "image": text,
                "path": optional_text,
                "image_pull_policy": choice(*PULL_POLICIES, rule="pull_policy"),
                "image_pull_secret": optional_text,
                "capacity": quantity,
                "persistent": flag,
            },
            required=("image",),
        ),
        ContainerDisk,
    ),
    "empty_disk": record(Shape({"capacity": quantity}, required=("capacity",)), EmptyDisk),
    "host_disk": record(
        Shape(
            {
                "path": text,
                "type": choice(*HOST_DISK_TYPES, rule="host_disk_type", can_be_empty=False),
                "capacity": quantity,
                "shared": flag,
            },
            required=("path", "type"),
        ),
        HostDisk,
    ),
    "cloud_init_no_cloud": _cloud_init(NO_CLOUD),
    "cloud_init_config_drive": _cloud_init(CONFIG_DRIVE),
    "config_map": record(
        Shape({"name": text, "optional": flag, "volume_label": optional_text}, required=("name",), refused=_SUBSET),
        ConfigMap,
    ),
    "secret": record(
        Shape(
            {"secret_name": text, "optional": flag, "volume_label": optional_text},
            required=("secret_name",),
            refused=_SUBSET,
        ),
        Secret,
    ),
    "service_account": record(
        Shape({"service_account_name": text}, required=("service_account_name",)), ServiceAccount
    ),
    "downward_api": record(
        Shape({"fields": items(_ITEM), "volume_label": optional_text}, refused={"defaultMode": _ALL_FILES}),
        _downward_api,
    ),
    "sysprep": record(Shape({"config_map": _NAME, "secret": _NAME}), Sysprep),
    "downward_metrics": record(Shape({}), DownwardMetrics),
}

_VOLUME = Shape(
    {"name": text, "thick": flag, **_SOURCES},
    required=("name",),
    spelled={"downward_api": ["downwardAPI"]},
    refused={
        "memoryDump": "virsh dump writes the memory of a domain to a file, so it must be left out",
        "containerPath": "a domain runs in no container, so it must be left out",
        "registryDisk": "KubeVirt has renamed it to containerDisk",
        "hostPath": "a host_disk is a file of the host. virtiofs_export shares a directory",
        "resourceClaim": "a domain has no claims of resources, so it must be left out",
    },
)


def read_volume_spec(problems: Problems, path: str, value: object) -> Any:
    """Return the :class:`VolumeSpec` for plain data. A source with problems is :class:`Unreadable`."""
    before = len(problems.found)
    found = read_fields(problems, path, value, _VOLUME)
    if found is INVALID:
        return INVALID
    sources = [name for name in _SOURCES if name in found]
    if len(sources) > 1 or (not sources and len(problems.found) == before):
        problems.add(
            "one_source", path, " and ".join(sources) or "no source", f"one of {', '.join(_SOURCES)} is expected"
        )
    source: Any = found[sources[0]] if len(sources) == 1 else Unreadable()
    return VolumeSpec(found["name"], source, found.get("thick"))


def _keyed_data(
    data: Mapping[str, bytes] | None = None,
    binary_data: Mapping[str, bytes] | None = None,
    directory: str | None = None,
) -> KeyedData:
    return KeyedData({**(data or {}), **(binary_data or {})}, directory)


#: The reader of the content of a config map, a secret or a service account.
read_keyed_data: Callable[[Problems, str, object], Any] = record(
    Shape({"data": mapping(secret_text), "binary_data": mapping(decode_base64), "directory": text}), _keyed_data
)


__all__ = ["Unreadable", "decode_base64", "read_keyed_data", "read_volume_spec"]
