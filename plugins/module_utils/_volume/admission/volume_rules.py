# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules for a single volume, by the kind of its source."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping

from ..._core.problems import Problems
from ..._model.domain_volumes import DomainVolumes
from ..._model.volume_sources import (
    DISK,
    CloudInit,
    ConfigMap,
    ContainerDisk,
    DownwardApi,
    EmptyDisk,
    HostDisk,
    Secret,
    ServiceAccount,
    Sysprep,
    VolumeSpec,
)
from ..connection import source_option
from ..sizes import MIB, empty_disk_size
from .names import require_data

#: Upper bound of a label of an ISO 9660 file system in bytes (ECMA-119, 8.4.11).
LONGEST_LABEL = 32
_LABEL = re.compile(r"[A-Za-z0-9_.-]+")
#: The names of the answer file of Windows, in lower case.
ANSWER_FILES = ("autounattend.xml", "unattend.xml")
#: Fields of the downward API, and those with a key.
_FIELD = re.compile(
    r"metadata\.(name|namespace|uid|labels|annotations)|metadata\.(labels|annotations)\['[^'\n]+'\]|spec\.nodeName"
)


def _container_disk(problems: Problems, path: str, source: ContainerDisk, _spec: DomainVolumes) -> None:
    place = source.path
    if place is not None and (not place.startswith("/") or place == "/" or os.path.normpath(place) != place):
        problems.add(
            "container_path", f"{path}.path", place, "an absolute path of a file without '.', '..' and '//' is expected"
        )


def _empty_disk(problems: Problems, path: str, source: EmptyDisk, _spec: DomainVolumes) -> None:
    if empty_disk_size(source.capacity) == 0:
        problems.add(
            "empty_disk_size", f"{path}.capacity", source.capacity, f"at least {MIB} bytes (1 MiB) are expected"
        )


def _host_disk(problems: Problems, path: str, source: HostDisk, _spec: DomainVolumes) -> None:
    if not source.path.startswith("/") or ".." in source.path.split("/") or source.path.endswith("/"):
        problems.add("host_path", f"{path}.path", source.path, "an absolute path of a file without '..' is expected")
    if source.type == DISK and source.capacity is not None:
        problems.add(
            "host_disk_capacity",
            f"{path}.capacity",
            source.capacity,
            "the file of a host disk of the type Disk has a size already. DiskOrCreate is expected with a capacity",
        )


def _cloud_init(problems: Problems, path: str, source: CloudInit, spec: DomainVolumes) -> None:
    for name, data in (("user_data", source.user_data), ("network_data", source.network_data)):
        if data is not None and len(data) > spec.cloud_init_limit:
            problems.add(
                "cloud_init_limit",
                f"{path}.{name}",
                f"{len(data)} bytes",
                f"at most {spec.cloud_init_limit} bytes are expected. A secret can have more, and cloud_init_limit "
                "can be higher",
            )
    require_data(problems, f"{path}.secret_ref.name", source.user_data_secret, spec.secrets, "secrets")
    require_data(problems, f"{path}.network_data_secret_ref.name", source.network_data_secret, spec.secrets, "secrets")


def _config_map(problems: Problems, path: str, source: ConfigMap, spec: DomainVolumes) -> None:
    _label(problems, path, source.volume_label)
    if not source.optional:
        require_data(problems, f"{path}.name", source.name, spec.config_maps, "config_maps")


def _secret(problems: Problems, path: str, source: Secret, spec: DomainVolumes) -> None:
    _label(problems, path, source.volume_label)
    if not source.optional:
        require_data(problems, f"{path}.secret_name", source.secret_name, spec.secrets, "secrets")


def _service_account(problems: Problems, path: str, source: ServiceAccount, spec: DomainVolumes) -> None:
    name = source.service_account_name
    require_data(problems, f"{path}.service_account_name", name, spec.service_accounts, "service_accounts")


def _downward_api(problems: Problems, path: str, source: DownwardApi, _spec: DomainVolumes) -> None:
    _label(problems, path, source.volume_label)
    taken = set()
    for place, item in enumerate(source.items):
        here = f"{path}.fields[{place}]"
        if item.path.startswith("/") or os.path.normpath(item.path) != item.path or item.path.startswith(".."):
            problems.add("downward_path", f"{here}.path", item.path, "a relative path without '..' is expected")
        if item.path in taken:
            problems.add("downward_path_twice", f"{here}.path", item.path, "another path for each field is expected")
        taken.add(item.path)
        if _FIELD.fullmatch(item.field_path) is None:
            problems.add(
                "downward_field",
                f"{here}.field_ref.field_path",
                item.field_path,
                "metadata.name, .namespace, .uid, .labels, .annotations, .labels['KEY'], .annotations['KEY'] or "
                "spec.nodeName is expected",
            )


def _sysprep(problems: Problems, path: str, source: Sysprep, spec: DomainVolumes) -> None:
    if (source.config_map is None) == (source.secret is None):
        given = "config_map and secret" if source.secret else "no source"
        problems.add("sysprep_source", path, given, "one of config_map and secret is expected")
        return
    option, name, known = ("config_map", source.config_map, spec.config_maps)
    if source.secret is not None:
        option, name, known = ("secret", source.secret, spec.secrets)
    here = f"{path}.{option}.name"
    require_data(problems, here, name, known, f"{option}s")
    data = known.get(name or "")
    if data is not None and data.directory is None and not any(key.lower() in ANSWER_FILES for key in data.data):
        problems.add("sysprep_answers", here, name, f"one with the key {' or '.join(ANSWER_FILES)} is expected")


def _label(problems: Problems, path: str, label: str | None) -> None:
    if label is not None and (len(label) > LONGEST_LABEL or _LABEL.fullmatch(label) is None):
        problems.add(
            "volume_label",
            f"{path}.volume_label",
            label,
            f"1 to {LONGEST_LABEL} letters, digits and characters of '_.-' are expected",
        )


_RULES: Mapping[type, Callable[..., None]] = {
    ContainerDisk: _container_disk,
    EmptyDisk: _empty_disk,
    HostDisk: _host_disk,
    CloudInit: _cloud_init,
    ConfigMap: _config_map,
    Secret: _secret,
    ServiceAccount: _service_account,
    DownwardApi: _downward_api,
    Sysprep: _sysprep,
}


def admit_volume(problems: Problems, place: int, volume: VolumeSpec, spec: DomainVolumes) -> None:
    """Add a problem for each rule that a volume breaks."""
    check = _RULES.get(type(volume.source))
    if check is not None:
        check(problems, f"volumes[{place}].{source_option(volume.source)}", volume.source, spec)


__all__ = ["ANSWER_FILES", "LONGEST_LABEL", "admit_volume"]
