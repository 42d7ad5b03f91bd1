# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files that a guest gets for a volume with texts: on a small ISO 9660 disk with a label, or as a filesystem.

The same declaration always has the same files, so that a second run finds no difference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .._core.errors import InvalidInput
from .._core.records import dataclass
from .._libvirt.devices.volume_disk import VolumeDisk
from .._model.domain_volumes import DomainVolumes, GuestMetadata
from .._model.volume_sources import (
    NO_CLOUD,
    CloudInit,
    ConfigMap,
    DownwardApi,
    KeyedData,
    Secret,
    ServiceAccount,
    Sysprep,
)
from .admission.volume_rules import ANSWER_FILES

#: The labels of disks, by their purpose.
NO_CLOUD_LABEL = "cidata"
CONFIG_DRIVE_LABEL = "config-2"
FILES_LABEL = "cfgdata"
SYSPREP_LABEL = "unattendCD"

#: The directory of a ConfigDrive.
CONFIG_DRIVE_DIRECTORY = "openstack/latest"
#: The keys of secrets with data for cloud-init.
USER_KEYS = ("userdata", "userData")
NETWORK_KEYS = ("networkdata", "networkData")

#: Upper bound of a host name in characters.
_LONGEST_HOSTNAME = 63
#: Escapes of characters in a text in quotation marks, as in Go.
_ESCAPES = {
    **{character: f"\\{letter}" for character, letter in zip("\a\b\f\n\r\t\v", "abfnrtv")},
    '"': '\\"',
    "\\": "\\\\",
}

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Identity:
    """The values of a domain that its guest reads, where the declaration has no others.

    :arg name: the name of the domain.
    :arg uuid: the UUID of the domain. cloud-init repeats its work if the UUID changes.
    :arg host: the name of the host.
    """

    name: str
    uuid: str
    host: str = ""


@dataclass(frozen=True)
class GuestFiles:
    """The creator of the files for the volumes of a declaration.

    :arg read_data: returns the texts by key of a config map, a secret or a service account. The caller reads those in
        a directory of the host.
    :arg devices: the disks with a tag for the metadata of a ConfigDrive (:func:`tagged_devices`).
    """

    spec: DomainVolumes
    identity: Identity
    read_data: Callable[[KeyedData], Files] = lambda data: data.data
    devices: Sequence[Mapping[str, Any]] = ()

    def files_of(self, source: object) -> Files | None:
        """Return the files of a volume by their paths; ``None`` for a source that isn't made of texts.

        :raises InvalidInput: a secret for cloud-init lacks its key, or a directory lacks the answer file of Windows.
        """
        if isinstance(source, CloudInit):
            return self._no_cloud(source) if source.kind == NO_CLOUD else self._config_drive(source)
        if isinstance(source, DownwardApi):
            return {item.path: self._field(item.field_path).encode() for item in source.items}
        data = self._keyed_data(source)
        if data is None:
            return None
        files = self.read_data(data)
        if isinstance(source, Sysprep) and not any(name.lower() in ANSWER_FILES for name in files):
            accepted = f"a directory with the file {' or '.join(ANSWER_FILES)} is expected"
            raise InvalidInput("sysprep", data.directory, accepted)
        return files

    def _keyed_data(self, source: object) -> KeyedData | None:
        """Return the content that a source names. Content that is optional and missing has no files."""
        spec = self.spec
        if isinstance(source, ConfigMap):
            return spec.config_maps.get(source.name, KeyedData())
        if isinstance(source, Secret):
            return spec.secrets.get(source.secret_name, KeyedData())
        if isinstance(source, ServiceAccount):
            return spec.service_accounts[source.service_account_name]
        if isinstance(source, Sysprep):
            return spec.secrets[source.secret] if source.secret else spec.config_maps[source.config_map or ""]
        return None

    def _no_cloud(self, source: CloudInit) -> Files:
        metadata = self.spec.metadata
        described = {
            "instance-id": metadata.uid or self.identity.uuid,
            "instance-type": metadata.instance_type,
            "local-hostname": self.hostname,
            "public-keys": _numbered(metadata.public_keys),
        }
        # cloud-init expects user data, even if it is empty.
        files = {"meta-data": _json(described), "user-data": self._user_data(source) or b""}
        network = self._network_data(source)
        return files if network is None else {**files, "network-config": network}

    def _config_drive(self, source: CloudInit) -> Files:
        metadata, name = self.spec.metadata, self.spec.metadata.name or self.identity.name
        described = {
            "devices": list(self.devices),
            "hostname": self.hostname,
            "instance_id": f"{name}.{metadata.namespace or 'default'}",
            "instance_type": metadata.instance_type,
            "local_hostname": self.hostname,
            "public_keys": _numbered(metadata.public_keys),
            "uuid": metadata.uid or self.identity.uuid,
        }
        files = {"meta_data.json": _json(described), "user_data": self._user_data(source) or b""}
        network = self._network_data(source)
        files = files if network is None else {**files, "network_data.json": network}
        return {f"{CONFIG_DRIVE_DIRECTORY}/{name}": data for name, data in files.items()}

    def _user_data(self, source: CloudInit) -> bytes | None:
        return source.user_data if source.user_data_secret is None else self._secret(source.user_data_secret, USER_KEYS)

    def _network_data(self, source: CloudInit) -> bytes | None:
        name = source.network_data_secret
        return source.network_data if name is None else self._secret(name, NETWORK_KEYS)

    def _secret(self, name: str, keys: Sequence[str]) -> bytes:
        data = self.read_data(self.spec.secrets[name])
        found = next((data[key] for key in keys if key in data), None)
        if found is None:
            raise InvalidInput("secrets", name, f"a secret with the key {' or '.join(keys)} is expected")
        return found

    @property
    def hostname(self) -> str:
        """Return the host name of the guest."""
        metadata: GuestMetadata = self.spec.metadata
        return metadata.hostname or default_hostname(metadata.name or self.identity.name)

    def _field(self, path: str) -> str:
        """Return the text of a field of the metadata, in the format of Kubernetes."""
        metadata = self.spec.metadata
        known = {
            "metadata.name": metadata.name or self.identity.name,
            "metadata.namespace": metadata.namespace or "default",
            "metadata.uid": metadata.uid or self.identity.uuid,
            "metadata.labels": _format_map(metadata.labels),
            "metadata.annotations": _format_map(metadata.annotations),
            "spec.nodeName": self.identity.host,
        }
        match = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
        if match is None:
            return known[path]
        values: Mapping[str, str] = getattr(metadata, match[1])
        return values.get(match[2], "")


def default_hostname(name: str) -> str:
    """Return the host name of a guest without a declared one, for the name of its domain."""
    return name.split(".")[0][:_LONGEST_HOSTNAME]


def label_of(source: object) -> str | None:
    """Return the label of the disk for a volume with texts; ``None`` for another source."""
    if isinstance(source, CloudInit):
        return NO_CLOUD_LABEL if source.kind == NO_CLOUD else CONFIG_DRIVE_LABEL
    if isinstance(source, (ConfigMap, Secret, DownwardApi)):
        return source.volume_label or FILES_LABEL
    if isinstance(source, ServiceAccount):
        return FILES_LABEL
    return SYSPREP_LABEL if isinstance(source, Sysprep) else None


def has_addresses(source: object) -> bool:
    """Return whether the files of a volume have the addresses of disks with a tag."""
    return isinstance(source, CloudInit) and source.kind != NO_CLOUD


def tagged_devices(disks: Sequence[VolumeDisk], tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the description of the disks with a tag, for the metadata of a ConfigDrive.

    :arg disks: the disks as the domain has them, with the addresses that libvirt chose.
    :arg tags: the tags by the name of a disk.
    """
    found = []
    for disk in disks:
        if disk.name not in tags:
            continue
        place = disk.scsi_address
        address = disk.pci_address if place is None else f"{place.controller}:0:0:{place.unit}"
        described = {
            "type": "disk",
            "bus": "pci" if disk.bus == "virtio" else disk.bus,
            "address": address,
            "serial": disk.serial,
            "tags": [tags[disk.name]],
        }
        found.append({name: value for name, value in described.items() if value is not None})
    return found


def _numbered(keys: Sequence[str]) -> dict[str, str] | None:
    return {str(number): key for number, key in enumerate(keys)} or None


def _json(values: Mapping[str, object]) -> bytes:
    given = {name: value for name, value in values.items() if value not in (None, [])}
    return json.dumps(given, sort_keys=True).encode()


def _format_map(values: Mapping[str, str]) -> str:
    """Return labels or annotations as the downward API of Kubernetes has them: a line for each, sorted."""
    return "\n".join(f"{key}={_quote(values[key])}" for key in sorted(values))


def _quote(text: str) -> str:
    return '"' + "".join(_ESCAPES.get(one) or (one if one.isprintable() else _escape(one)) for one in text) + '"'


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x80 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


__all__ = [
    "CONFIG_DRIVE_DIRECTORY",
    "CONFIG_DRIVE_LABEL",
    "FILES_LABEL",
    "NETWORK_KEYS",
    "NO_CLOUD_LABEL",
    "SYSPREP_LABEL",
    "USER_KEYS",
    "Files",
    "GuestFiles",
    "Identity",
    "default_hostname",
    "has_addresses",
    "label_of",
    "tagged_devices",
]
