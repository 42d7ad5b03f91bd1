# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A domain's disks, filesystems and volumes as a user declares them (spec: kubevirt-disks-and-volumes): the whole
declaration, the import of data volumes, and the metadata for the guest.

``None`` is a value that the declaration lacks. Sizes are in bytes.
"""

from __future__ import annotations

from .._core.records import TYPE_CHECKING, dataclass, field
from .volume_disks import DiskSpec, FilesystemSpec
from .volume_sources import KeyedData, VolumeSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Union

    #: The origin of the data of a data volume.
    ImportSource = Union["HttpImport", "RegistryImport", "ClaimImport", "BlankImport", "UploadImport"]

#: The policies for the threads of input and output.
SHARED, AUTO, SUPPLEMENTAL_POOL = "shared", "auto", "supplementalPool"
IO_THREADS_POLICIES = (SHARED, AUTO, SUPPLEMENTAL_POOL)
#: The modes of a claim: an image in a file, or a block device.
FILESYSTEM, BLOCK = "Filesystem", "Block"
VOLUME_MODES = (FILESYSTEM, BLOCK)
#: Upper bound of KubeVirt for the user data of cloud-init in the declaration, in bytes. The same for network data.
CLOUD_INIT_LIMIT = 2048
#: Parts of the names of annotations for a claim whose data is allocated completely.
THICK_ANNOTATIONS = ("/storage.preallocation", "/storage.thick-provisioned")


def is_thick(annotations: Mapping[str, str]) -> bool:
    """Return whether the annotations of a claim request that its data is allocated completely."""
    return any(
        value == "true" and any(part in name for part in THICK_ANNOTATIONS) for name, value in annotations.items()
    )


@dataclass(frozen=True)
class HttpImport:
    """A disk at a URL.

    :arg ca: the name of a config map with certificates.
    :arg credentials: the name of a secret with ``accessKeyId`` (the user) and ``secretKey`` (the password).
    :arg headers: further lines of the request's header, such as ``X-Token: abc``. They can be secrets.
    """

    url: str
    ca: str | None = None
    credentials: str | None = None
    headers: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class RegistryImport:
    """The disk in a container image. The fields are those of :class:`HttpImport`."""

    url: str
    ca: str | None = None
    credentials: str | None = None


@dataclass(frozen=True)
class ClaimImport:
    """A copy of another image of the catalog."""

    name: str


@dataclass(frozen=True)
class BlankImport:
    """An empty disk."""


@dataclass(frozen=True)
class UploadImport:
    """An empty disk that something else fills later."""


@dataclass(frozen=True)
class DataVolumeTemplate:
    """A data volume that is created with the domain's volumes and removed with them.

    :arg size: the requested size. Without a size, the image is as large as its data.
    :arg datastore: the name of the datastore (KubeVirt: ``storageClassName``).
    :arg preallocation: whether the data is allocated completely.
    """

    name: str
    source: ImportSource
    size: int | None = None
    volume_mode: str = FILESYSTEM
    datastore: str | None = None
    preallocation: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_thick(self) -> bool:
        """Return whether the data is allocated completely, by the option or by an annotation."""
        return self.preallocation or is_thick(self.annotations)


@dataclass(frozen=True)
class GuestMetadata:
    """The metadata that a guest reads through cloud-init and the downward API. The domain has the defaults."""

    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    hostname: str | None = None
    instance_type: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    public_keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class DomainVolumes:
    """The declaration of a domain's disks, filesystems and volumes.

    :arg io_threads: number of the threads of the policy ``supplementalPool``.
    :arg downward_metrics: whether the guest reads metrics at the virtio-serial port ``org.github.vhostmd.1``.
    :arg auto_attach: whether a volume without a disk or filesystem gets a disk, as in KubeVirt.
    :arg virtio_transitional: whether disks support guests with virtio 0.9 (KubeVirt: ``useVirtioTransitional``).
    :arg disable_hotplug: whether the domain gets no SCSI controller for disks that are plugged in later.
    :arg cloud_init_limit: upper bound of the user data and of the network data in the declaration, in bytes.
    """

    disks: tuple[DiskSpec, ...] = ()
    filesystems: tuple[FilesystemSpec, ...] = ()
    volumes: tuple[VolumeSpec, ...] = ()
    data_volume_templates: tuple[DataVolumeTemplate, ...] = ()
    block_multi_queue: bool = False
    io_threads_policy: str | None = None
    io_threads: int | None = None
    downward_metrics: bool = False
    auto_attach: bool = True
    virtio_transitional: bool = False
    disable_hotplug: bool = False
    cloud_init_limit: int = CLOUD_INIT_LIMIT
    config_maps: Mapping[str, KeyedData] = field(default_factory=dict)
    secrets: Mapping[str, KeyedData] = field(default_factory=dict, repr=False)
    service_accounts: Mapping[str, KeyedData] = field(default_factory=dict, repr=False)
    metadata: GuestMetadata = GuestMetadata()


__all__ = [
    "AUTO",
    "BLOCK",
    "CLOUD_INIT_LIMIT",
    "FILESYSTEM",
    "IO_THREADS_POLICIES",
    "SHARED",
    "SUPPLEMENTAL_POOL",
    "THICK_ANNOTATIONS",
    "VOLUME_MODES",
    "BlankImport",
    "ClaimImport",
    "DataVolumeTemplate",
    "DomainVolumes",
    "GuestMetadata",
    "HttpImport",
    "RegistryImport",
    "UploadImport",
    "is_thick",
]
