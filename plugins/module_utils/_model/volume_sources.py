# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The sources of a domain's volumes, as a user declares them in KubeVirt's model (spec: kubevirt-disks-and-volumes).

``None`` is a value that the declaration lacks. Sizes are in bytes.
"""

from __future__ import annotations

from .._core.records import TYPE_CHECKING, dataclass, field

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Union

    #: The source of a volume.
    Source = Union[
        "PersistentVolumeClaim",
        "DataVolume",
        "Ephemeral",
        "ContainerDisk",
        "EmptyDisk",
        "HostDisk",
        "CloudInit",
        "ConfigMap",
        "Secret",
        "ServiceAccount",
        "DownwardApi",
        "Sysprep",
        "DownwardMetrics",
    ]

#: The types of a host disk.
DISK, DISK_OR_CREATE = "Disk", "DiskOrCreate"
HOST_DISK_TYPES = (DISK, DISK_OR_CREATE)
#: The policies for the pull of an image from a registry.
ALWAYS, IF_NOT_PRESENT, NEVER = "Always", "IfNotPresent", "Never"
PULL_POLICIES = (ALWAYS, IF_NOT_PRESENT, NEVER)
#: The kinds of a cloud-init volume.
NO_CLOUD, CONFIG_DRIVE = "no_cloud", "config_drive"


@dataclass(frozen=True)
class PersistentVolumeClaim:
    """An image of the catalog.

    :arg claim_name: the name or the id of the image.
    :arg read_only: whether every device of the volume is read-only.
    """

    claim_name: str
    read_only: bool = False
    hotpluggable: bool = False


@dataclass(frozen=True)
class DataVolume:
    """An image of the catalog that is imported first.

    :arg name: the name of a data volume template, or of an image that exists already.
    """

    name: str
    hotpluggable: bool = False


@dataclass(frozen=True)
class Ephemeral:
    """An overlay whose data is lost when the domain stops, on an image of the catalog that stays unchanged."""

    claim_name: str


@dataclass(frozen=True)
class ContainerDisk:
    """An overlay on the disk in a container image.

    :arg path: the path of the disk in the container image. Without a path, the only file in ``/disk`` is the disk.
    :arg image_pull_secret: the name of a secret with the credentials for the registry.
    :arg capacity: the size of the overlay, if the overlay is larger than the disk (beyond KubeVirt's model).
    :arg persistent: whether the overlay stays when the domain stops (beyond KubeVirt's model).
    """

    image: str
    path: str | None = None
    image_pull_policy: str | None = None
    image_pull_secret: str | None = None
    capacity: int | None = None
    persistent: bool = False

    @property
    def pull_policy(self) -> str:
        """Return the declared policy, or KubeVirt's default.

        An image with the tag ``latest`` or without a tag is always pulled. A digest never changes, so such an image is
        pulled once.
        """
        if self.image_pull_policy is not None:
            return self.image_pull_policy
        if "@" in self.image:
            return IF_NOT_PRESENT
        _name, separator, tag = self.image.rpartition("/")[2].partition(":")
        return ALWAYS if not separator or tag == "latest" else IF_NOT_PRESENT


@dataclass(frozen=True)
class EmptyDisk:
    """An empty disk that lives as long as the declaration of the volume."""

    capacity: int


@dataclass(frozen=True)
class HostDisk:
    """A file of the host with a raw disk.

    :arg type: ``Disk`` is a file that exists, ``DiskOrCreate`` creates a missing file with the size ``capacity``.
    :arg shared: accepted and without effect: KubeVirt's scheduler reads it.
    """

    path: str
    type: str
    capacity: int | None = None
    shared: bool = False


@dataclass(frozen=True)
class CloudInit:
    """A disk with data for cloud-init, or for Ignition with a ConfigDrive.

    :arg kind: :data:`NO_CLOUD` or :data:`CONFIG_DRIVE`.
    :arg user_data: the decoded text. ``user_data_secret`` is the name of a secret with the text instead.
    """

    kind: str
    user_data: bytes | None = field(default=None, repr=False)
    user_data_secret: str | None = None
    network_data: bytes | None = field(default=None, repr=False)
    network_data_secret: str | None = None


@dataclass(frozen=True)
class ConfigMap:
    """The files of a config map, as a disk or as a filesystem.

    :arg optional: whether a missing config map is accepted and has no files.
    :arg volume_label: the label of the disk.
    """

    name: str
    optional: bool = False
    volume_label: str | None = None


@dataclass(frozen=True)
class Secret:
    """The files of a secret, as a disk or as a filesystem. The fields are those of :class:`ConfigMap`."""

    secret_name: str
    optional: bool = False
    volume_label: str | None = None


@dataclass(frozen=True)
class ServiceAccount:
    """The files of a service account (``namespace``, ``token``, ``ca.crt``), as a disk or as a filesystem."""

    service_account_name: str


@dataclass(frozen=True)
class DownwardApiItem:
    """A file with a field of the metadata.

    :arg field_path: the field, such as ``metadata.labels`` or ``metadata.annotations['key']``.
    """

    path: str
    field_path: str


@dataclass(frozen=True)
class DownwardApi:
    """Files with fields of the metadata, as a disk or as a filesystem."""

    items: tuple[DownwardApiItem, ...] = ()
    volume_label: str | None = None


@dataclass(frozen=True)
class Sysprep:
    """A CD-ROM with the answer file of Windows. Either the config map or the secret has the file."""

    config_map: str | None = None
    secret: str | None = None


@dataclass(frozen=True)
class DownwardMetrics:
    """A small disk with metrics of the host and of the domain, in the format of vhostmd."""


@dataclass(frozen=True)
class VolumeSpec:
    """A volume.

    :arg thick: whether the data is allocated completely, so that the guest can't discard blocks. ``None`` takes the
        state of the image (beyond KubeVirt's model, whose claims have an annotation instead).
    """

    name: str
    source: Source
    thick: bool | None = None


@dataclass(frozen=True)
class KeyedData:
    """The content of a config map, a secret or a service account: texts by key, or a directory of the host with a file
    for each key.
    """

    data: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    directory: str | None = None


__all__ = [
    "ALWAYS",
    "CONFIG_DRIVE",
    "DISK",
    "DISK_OR_CREATE",
    "HOST_DISK_TYPES",
    "IF_NOT_PRESENT",
    "NEVER",
    "NO_CLOUD",
    "PULL_POLICIES",
    "CloudInit",
    "ConfigMap",
    "ContainerDisk",
    "DataVolume",
    "DownwardApi",
    "DownwardApiItem",
    "DownwardMetrics",
    "EmptyDisk",
    "Ephemeral",
    "HostDisk",
    "KeyedData",
    "PersistentVolumeClaim",
    "Secret",
    "ServiceAccount",
    "Sysprep",
    "VolumeSpec",
]
