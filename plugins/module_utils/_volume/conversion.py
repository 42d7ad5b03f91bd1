# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The conversion of a declaration to the devices of a domain, with the facts about the domain and its volumes."""

from __future__ import annotations

from collections.abc import Mapping

from .._core.problems import Problems
from .._core.records import dataclass
from .._libvirt.devices.filesystem import VirtioFs
from .._libvirt.devices.volume_disk import VolumeDisk
from .._model.domain_volumes import DomainVolumes
from .._model.volume_disks import FilesystemSpec
from .connection import connect_disks
from .disk_conversion import DiskContext, convert_disk
from .facts import S390X, DomainFacts, VolumeFacts
from .io_threads import IoThreads, plan_io_threads
from .targets import choose_scsi_addresses, choose_targets


@dataclass(frozen=True)
class DomainDevices:
    """The devices of a domain for a declaration, and the domain's properties that they need.

    :arg filesystems: the name of each is its mount tag.
    :arg io_threads: the threads of the domain; a count of 0 leaves them as they are.
    :arg scsi_model: the model of the SCSI controller; ``None`` needs no controller.
    :arg needs_shared_memory: whether other processes must be able to map the memory of the guest.
    :arg has_metrics_port: whether the guest reads metrics at a virtio-serial port.
    """

    disks: tuple[VolumeDisk, ...] = ()
    filesystems: tuple[VirtioFs, ...] = ()
    io_threads: IoThreads = IoThreads()
    scsi_model: str | None = None
    needs_shared_memory: bool = False
    has_metrics_port: bool = False


def convert(
    spec: DomainVolumes, facts: DomainFacts, volumes: Mapping[str, VolumeFacts], directories: Mapping[str, str]
) -> DomainDevices:
    """Return the devices for a declaration that :func:`accept_declaration` returned.

    :arg volumes: the facts about the volumes of disks, by name. A CD-ROM drive without a volume needs none.
    :arg directories: the directories of filesystems, by name.
    :raises InvalidDeclaration: disks are impossible with the data of their volumes.
    """
    problems = Problems()
    disks = connect_disks(spec, facts)
    targets = choose_targets(disks, facts)
    places = choose_scsi_addresses(disks, targets, facts)
    context = DiskContext(
        facts,
        targets,
        places,
        plan_io_threads(spec, disks, facts),
        _virtio_model(spec, facts),
        facts.vcpus if spec.block_multi_queue else None,
    )
    devices = tuple(convert_disk(problems, disk, volumes.get(disk.name), context) for disk in disks)
    problems.raise_any()
    return DomainDevices(
        disks=devices,
        filesystems=tuple(_convert_filesystem(one, directories[one.name]) for one in spec.filesystems),
        io_threads=context.io_threads,
        # The controller is there before a disk is plugged in.
        scsi_model=_scsi_model(spec, facts) if places or not spec.disable_hotplug else None,
        needs_shared_memory=bool(spec.filesystems),
        has_metrics_port=spec.downward_metrics,
    )


def _virtio_model(spec: DomainVolumes, facts: DomainFacts) -> str | None:
    """Return the model of a virtio device.

    On PCI Express, a device without a model is the same as one with KubeVirt's ``virtio-non-transitional``. On other
    buses, this model would break guests that boot by a firmware with virtio 0.9.
    """
    if facts.arch == S390X:
        return "virtio"
    if spec.virtio_transitional:
        return "virtio-transitional"
    return "virtio-non-transitional" if facts.has_pci_express else None


def _scsi_model(spec: DomainVolumes, facts: DomainFacts) -> str:
    """Return the model of the SCSI controller. Without a model, libvirt chooses one for which guests lack a driver."""
    model = _virtio_model(spec, facts)
    return "virtio-scsi" if model in (None, "virtio") else str(model)


def _convert_filesystem(spec: FilesystemSpec, directory: str) -> VirtioFs:
    return VirtioFs(
        tag=spec.name,
        source=directory,
        read_only=spec.read_only,
        uid_map=spec.uid_map,
        gid_map=spec.gid_map,
        cache=None if spec.cache == "auto" else spec.cache,
        queue=spec.queue,
        xattr=spec.xattr,
        sandbox=spec.sandbox,
        thread_pool=spec.thread_pool,
    )


__all__ = ["DomainDevices", "convert"]
