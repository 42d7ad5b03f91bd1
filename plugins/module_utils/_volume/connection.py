# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The declaration with KubeVirt's default values, and each disk with its volume."""

from __future__ import annotations

from typing import Any

from .._core.records import dataclass
from .._model.domain_volumes import DomainVolumes
from .._model.volume_disks import CdromDevice, DiskSpec, LunDevice
from .._model.volume_sources import (
    NO_CLOUD,
    CloudInit,
    ConfigMap,
    ContainerDisk,
    DataVolume,
    DownwardApi,
    DownwardMetrics,
    EmptyDisk,
    Ephemeral,
    HostDisk,
    PersistentVolumeClaim,
    Secret,
    ServiceAccount,
    Sysprep,
    VolumeSpec,
)
from .facts import DomainFacts

#: The bus of a disk without one, by the architecture in libvirt. Others have :data:`_DEFAULT_BUS`.
_BUSES = {"x86_64": "sata", "i686": "sata"}
_DEFAULT_BUS = "virtio"

#: The options of sources.
_SOURCE_OPTIONS: dict[type, str] = {
    PersistentVolumeClaim: "persistent_volume_claim",
    DataVolume: "data_volume",
    Ephemeral: "ephemeral",
    ContainerDisk: "container_disk",
    EmptyDisk: "empty_disk",
    HostDisk: "host_disk",
    ConfigMap: "config_map",
    Secret: "secret",
    ServiceAccount: "service_account",
    DownwardApi: "downward_api",
    Sysprep: "sysprep",
    DownwardMetrics: "downward_metrics",
}


def source_option(source: object) -> str | None:
    """Return the option for a source, such as ``empty_disk``; ``None`` for a source that couldn't be read."""
    if isinstance(source, CloudInit):
        return "cloud_init_no_cloud" if source.kind == NO_CLOUD else "cloud_init_config_drive"
    return _SOURCE_OPTIONS.get(type(source))


def device_option(disk: DiskSpec) -> str:
    """Return the option for the device of a disk: ``disk``, ``lun`` or ``cdrom``."""
    return "lun" if isinstance(disk.device, LunDevice) else "cdrom" if isinstance(disk.device, CdromDevice) else "disk"


@dataclass(frozen=True)
class ConnectedDisk:
    """A disk with its volume.

    :arg path: the path of the disk in the declaration. A disk that is attached automatically has that of its volume.
    :arg bus: the declared bus, or the default.
    """

    path: str
    spec: DiskSpec
    volume: VolumeSpec | None
    bus: str

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def kind(self) -> str:
        """Return ``disk``, ``lun`` or ``cdrom``."""
        return device_option(self.spec)

    @property
    def source(self) -> Any:
        """Return the source of the volume; ``None`` without a volume."""
        return None if self.volume is None else self.volume.source

    @property
    def is_read_only(self) -> bool:
        """Return whether the guest can't write, by the device or by the claim."""
        return self.spec.device.read_only or (isinstance(self.source, PersistentVolumeClaim) and self.source.read_only)


def connect_disks(spec: DomainVolumes, facts: DomainFacts) -> list[ConnectedDisk]:
    """Return every disk with its volume and its bus.

    The volumes without a disk or a filesystem follow at the end, each with an ordinary disk, if they are attached
    automatically.
    """
    volumes = {volume.name: volume for volume in reversed(spec.volumes)}
    disks = [(f"disks[{place}]", disk) for place, disk in enumerate(spec.disks)]
    if spec.auto_attach:
        disks += _automatic_disks(spec)
    found = []
    for path, disk in disks:
        volume = volumes.get(disk.name)
        found.append(ConnectedDisk(path, disk, volume, disk.device.bus or _default_bus(disk, volume, facts)))
    return found


def _automatic_disks(spec: DomainVolumes) -> list[tuple[str, DiskSpec]]:
    used = {disk.name for disk in spec.disks} | {filesystem.name for filesystem in spec.filesystems}
    return [
        (f"volumes[{place}]", DiskSpec(volume.name))
        for place, volume in enumerate(spec.volumes)
        if volume.name not in used
    ]


def _default_bus(disk: DiskSpec, volume: VolumeSpec | None, facts: DomainFacts) -> str:
    # A lun is possible on SCSI only, and vhostmd's readers expect virtio.
    if isinstance(disk.device, LunDevice):
        return "scsi"
    if volume is not None and isinstance(volume.source, DownwardMetrics):
        return "virtio"
    bus = _BUSES.get(facts.arch, _DEFAULT_BUS)
    # A CD-ROM drive on virtio is impossible.
    return "scsi" if isinstance(disk.device, CdromDevice) and bus == "virtio" else bus


__all__ = ["ConnectedDisk", "connect_disks", "device_option", "source_option"]
