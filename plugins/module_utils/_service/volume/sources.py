# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The data of a domain's volumes on this host: what exists, and the actions that make what is missing."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

from ..._core.errors import Conflict, InvalidInput, NotFound, os_errors
from ..._core.paths import check_allowed, real_path
from ..._core.plan import Action
from ..._core.records import dataclass, field, replace
from ..._host.metrics.disk import initial_disk
from ..._image.iso_image import IsoLabels, iso_bytes, read_files, read_labels
from ..._image.volume_files import VolumeDirectory, create_raw, remove_raw
from ..._libvirt.devices.volume_disk import DiskLayer, VolumeDisk
from ..._model.domain_volumes import DataVolumeTemplate
from ..._model.metrics import METRICS_NAME
from ..._model.volume_sources import (
    DISK,
    ContainerDisk,
    DataVolume,
    DownwardMetrics,
    EmptyDisk,
    Ephemeral,
    HostDisk,
    PersistentVolumeClaim,
)
from ..._volume.connection import ConnectedDisk, source_option
from ..._volume.facts import VolumeFacts
from ..._volume.media import GuestFiles, has_addresses, label_of
from ..._volume.sizes import empty_disk_size, host_disk_size, is_tolerated
from .claims import Claim, Claims
from .layers import LayerState, have_direct_io, look_at_layer
from .writers import DiskWriters

#: Directories of the system and its services, in which no host disk is.
HOST_DIRS = tuple("/bin /boot /etc /lib /lib32 /lib64 /libx32 /proc /root /run /sbin /sys /usr".split())

#: The number of names that a small medium takes turns with: for the definition, the running domain, and a new one.
_MEDIUM_NAMES = 3


@dataclass
class Source:
    """The data of a volume.

    :arg facts: the facts for the conversion.
    :arg current: virtual size of existing data in bytes; ``None`` for data that is going to be made.
    :arg size: the size that existing data grows to, if that is larger.
    :arg actions: the actions that make the data.
    :arg late_actions: those that make the data once the domain is defined, before its devices are changed.
    :arg warnings: sentences for the user.
    """

    facts: VolumeFacts
    current: int | None = None
    size: int = 0
    actions: list[Action] = field(default_factory=list)
    late_actions: list[Action] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class VolumeWorld:
    """The state of a domain and its host that sources depend on.

    :arg directory: the directory for the files of the domain's volumes.
    :arg is_in_use: whether a QEMU process uses the files now, or resumes a saved state with them.
    :arg defined: the disks of the definition, by name.
    :arg files_in_use: the paths of all disks of the definition, and of the running domain or its saved state.
    :arg files: the files of volumes with texts.
    :arg read_settled_files: returns ``files`` with the addresses that libvirt has chosen for disks with a tag. ``None``
        is enough if libvirt has none to choose.
    :arg container_disks: the base of a container disk, by the name of the volume. It is missing for an overlay that
        stays, and in check mode for an image that isn't pulled yet.
    :arg cached: the disks in the cache of container images, by path.
    :arg templates: the data volumes of the declaration, by name.
    :arg metrics: the directory for the disk with metrics of the domain.
    :arg own_directories: the directories of this collection, for the volumes of all domains and for container disks.
    """

    directory: VolumeDirectory
    is_in_use: bool
    defined: Mapping[str, VolumeDisk]
    files_in_use: frozenset[str]
    files: GuestFiles
    claims: Claims
    writers: DiskWriters
    container_disks: Mapping[str, LayerState]
    templates: Mapping[str, DataVolumeTemplate]
    metrics: VolumeDirectory
    read_settled_files: Callable[[], GuestFiles] | None = None
    cached: Mapping[str, DiskLayer] = field(default_factory=dict)
    own_directories: tuple[str, ...] = ()


class SourcePlanner:
    """Plans the data of volumes, one after the other."""

    def __init__(self, world: VolumeWorld) -> None:
        self._world = world
        self._planners: Mapping[type, Callable[[ConnectedDisk, str, Any], Source]] = {
            PersistentVolumeClaim: self._claim,
            DataVolume: self._claim,
            Ephemeral: self._ephemeral,
            ContainerDisk: self._container_disk,
            EmptyDisk: self._empty_disk,
            HostDisk: self._host_disk,
            DownwardMetrics: self._metrics,
        }

    def plan(self, disk: ConnectedDisk, place: int) -> Source:
        """Return the data of a disk's volume.

        :arg place: the place of the volume in the declaration.
        :raises DependencyNotFound: there is no such image.
        :raises InvalidInput: the volume can't be the data of a disk.
        :raises VmstoreError: files of the volume can't be read.
        """
        path = f"volumes[{place}].{source_option(disk.source)}"
        source = self._planners.get(type(disk.source), self._medium)(disk, path, disk.source)
        source.facts = self._with_settled_mode(disk.name, source.facts)
        return source

    def _with_settled_mode(self, name: str, facts: VolumeFacts) -> VolumeFacts:
        """Return facts with which a disk of the definition keeps its default mode of input and output.

        Otherwise a guest that fills its disk would change the definition.
        """
        defined = self._world.defined.get(name)
        if defined is None or defined.layer is None or defined.layer.path != facts.layer.path:
            return facts
        return replace(facts, is_allocated=defined.io == "native")

    def _claim(self, disk: ConnectedDisk, path: str, source: Any) -> Source:
        claim = self._find_claim(path, source)
        if not claim.persistent and not disk.is_read_only:
            raise InvalidInput(
                path,
                claim.name,
                "an image that is persistent is expected, because a domain writes to it; otherwise 'read_only: true', "
                "or an ephemeral volume on the image",
            )
        state = look_at_layer(claim.path, claim.format, path)
        template = self._world.templates.get(claim.name)
        facts = VolumeFacts(
            layer=state.layer,
            is_thick=template is not None and template.is_thick,
            has_direct_io=have_direct_io(claim.path),
            is_allocated=state.is_allocated,
            block_size=state.block_size,
            writers=self._world.writers.of(claim.path, is_shareable=disk.spec.shareable),
        )
        requested = 0 if template is None or template.size is None else template.size
        return Source(facts, state.size, 0 if state.layer.is_block else requested)

    def _find_claim(self, path: str, source: Any) -> Claim:
        name = source.name if isinstance(source, DataVolume) else source.claim_name
        claim = self._world.claims.find(path, name)
        if claim.is_directory:
            raise InvalidInput(path, name, "an image with a disk is expected, and this one is a directory")
        return claim

    def _ephemeral(self, disk: ConnectedDisk, path: str, source: Ephemeral) -> Source:
        claim = self._find_claim(path, source)
        base = look_at_layer(claim.path, claim.format, path)
        writers = self._world.writers.of(claim.path, is_shareable=False)
        if writers:
            raise Conflict(f"{path}: other domains write to the image {claim.name!r}: {', '.join(writers)}.")
        return self._overlay(disk.name, base, base.size)

    def _container_disk(self, disk: ConnectedDisk, path: str, source: ContainerDisk) -> Source:
        base = self._world.container_disks.get(disk.name)
        if base is None:
            return self._existing_overlay(disk.name, source.capacity) or self._new_overlay(disk.name)
        if source.capacity is not None and source.capacity < base.size:
            raise InvalidInput(f"{path}.capacity", source.capacity, f"{base.size} bytes or more are expected")
        return self._overlay(disk.name, base, source.capacity or base.size)

    def _existing_overlay(self, name: str, capacity: int | None) -> Source | None:
        """Return an overlay that stays, because the domain runs or the overlay is persistent; ``None`` without one."""
        file = f"{name}.qcow2"
        path, found = self._world.directory.path_of(file), self._world.directory.overlay(file)
        if found is None or found.backing is None:
            return None
        backing = self._backing_of(name, path, found.backing)
        facts = VolumeFacts(
            layer=DiskLayer(path, False, "qcow2"), backing=backing, has_direct_io=have_direct_io(path, backing.path)
        )
        return Source(facts, found.size, capacity or 0)

    def _backing_of(self, name: str, path: str, header: str) -> DiskLayer:
        """Return the base of an overlay that stays.

        :arg header: the name in the header. QEMU can have written the name of any file of the host there, so that only
            a container disk is accepted from it.
        :raises Conflict: the definition lacks the base, and the header names another file.
        """
        defined = self._world.defined.get(name)
        if defined is not None and defined.backing is not None:
            return defined.backing
        base = self._world.cached.get(header)
        if base is None:
            raise Conflict(f"{path} is not used: its header names {header!r}, which is no disk in the cache.")
        return base

    def _new_overlay(self, name: str) -> Source:
        path = self._world.directory.path_of(f"{name}.qcow2")
        action = Action("create overlay", path, None, {"backing_file": None})
        return Source(
            VolumeFacts(DiskLayer(path, False, "qcow2"), has_direct_io=have_direct_io(path)), actions=[action]
        )

    def _overlay(self, name: str, base: LayerState, size: int) -> Source:
        """Plan an overlay on ``base``. The guest's data is discarded while the domain is off."""
        directory, file = self._world.directory, f"{name}.qcow2"
        path, found = directory.path_of(file), directory.overlay(file)
        facts = VolumeFacts(
            layer=DiskLayer(path, False, "qcow2"),
            backing=base.layer,
            has_direct_io=have_direct_io(path, base.layer.path),
            block_size=base.block_size,
        )
        after = {"backing_file": base.layer.path, "size": size}
        make = functools.partial(directory.create_overlay, file, base.layer.path, base.layer.format, size)
        if found is None:
            return Source(facts, actions=[_creation("create overlay", path, after, make, directory, file)])
        before = {"backing_file": found.backing, "size": found.size}
        if not self._world.is_in_use and (found.has_data or before != after):
            return Source(facts, actions=[Action("discard ephemeral data", path, before, after, make)])
        return Source(facts)

    def _empty_disk(self, disk: ConnectedDisk, path: str, source: EmptyDisk) -> Source:
        directory, file = self._world.directory, f"{disk.name}.qcow2"
        size, target = empty_disk_size(source.capacity), directory.path_of(file)
        is_thick = bool(disk.volume and disk.volume.thick)
        found = directory.overlay(file)
        facts = VolumeFacts(
            layer=DiskLayer(target, False, "qcow2"),
            is_alone=True,
            has_direct_io=have_direct_io(target),
            is_allocated=is_thick if found is None else found.allocated >= found.size,
        )
        if found is None:
            make = functools.partial(directory.create_empty, file, size, thick=is_thick)
            after = {"size": size, "thick": is_thick}
            return Source(facts, actions=[_creation("create empty disk", target, after, make, directory, file)])
        if found.backing is not None:
            raise Conflict(
                f"{target} is an overlay of an earlier volume {disk.name!r}; 'purge: true' removes it first."
            )
        if found.size > size:
            raise InvalidInput(
                f"{path}.capacity",
                source.capacity,
                f"{found.size} bytes or more are expected, because disks never shrink",
            )
        return Source(facts, size)

    def _host_disk(self, disk: ConnectedDisk, path: str, source: HostDisk) -> Source:
        self._check_host_path(source.path, f"{path}.path")
        if source.type == DISK or os.path.lexists(source.path):  # a dangling link stays, such as one to a missing mount
            state = look_at_layer(source.path, "raw", f"{path}.path")
            facts = VolumeFacts(
                layer=state.layer,
                has_direct_io=have_direct_io(source.path),
                is_allocated=state.is_allocated,
                block_size=state.block_size,
                writers=self._world.writers.of(source.path, is_shareable=disk.spec.shareable),
            )
            return Source(facts, state.size)
        place = os.path.dirname(source.path)
        if not os.path.isdir(place):
            raise NotFound(f"{path}.path: there is no directory {place} on this host.")
        with os_errors(f"read {place}"):
            space = os.statvfs(place)
        capacity = source.capacity or 0
        size = host_disk_size(source.path, capacity, space.f_bavail * space.f_frsize)
        warnings = []
        if is_tolerated(capacity, size):
            warnings.append(
                f"The host disk {source.path} gets {size} bytes instead of {capacity}, as its file system is small."
            )
        make = functools.partial(create_raw, source.path, size, self._world.directory.owner)
        action = Action(
            "create host disk", source.path, None, {"size": size}, make, functools.partial(remove_raw, source.path)
        )
        facts = VolumeFacts(DiskLayer(source.path), has_direct_io=have_direct_io(source.path))
        return Source(facts, actions=[action], warnings=warnings)

    def _check_host_path(self, path: str, option: str) -> None:
        """Refuse a file of the system, which libvirt would give to QEMU, and a file of another volume.

        :raises PathNotAllowed: the path leads to such a file.
        """
        check_allowed(option, real_path(path), safe=(), restricted=[*HOST_DIRS, *self._world.own_directories])

    def _metrics(self, _disk: ConnectedDisk, _path: str, _source: DownwardMetrics) -> Source:
        """Plan the disk that the program of the role ``downward_metrics`` fills with metrics."""
        directory, path = self._world.metrics, self._world.metrics.path_of(METRICS_NAME)
        facts = VolumeFacts(DiskLayer(path), has_direct_io=have_direct_io(path))
        if METRICS_NAME in directory.names():
            return Source(facts)
        make = functools.partial(directory.write, METRICS_NAME, initial_disk())
        return Source(facts, actions=[_creation("create metrics disk", path, {}, make, directory, METRICS_NAME)])

    def _medium(self, disk: ConnectedDisk, _path: str, source: object) -> Source:
        """Plan a small ISO 9660 disk with texts. A changed disk gets another name, so that a running domain keeps the
        old one until the medium is changed or the domain starts again.
        """
        directory, name = self._world.directory, disk.name
        files, label = self._world.files.files_of(source), label_of(source)
        if files is None or label is None:
            raise InvalidInput(f"volumes.{name}", type(source).__name__, "a volume for a disk is expected")
        defined = self._world.defined.get(name)
        current = None if defined is None or defined.layer is None else defined.layer.path
        settle = self._world.read_settled_files if has_addresses(source) else None
        old = None
        if current is not None and os.path.dirname(current) == directory.path:
            old = read_medium(directory.medium(os.path.basename(current)))
        is_same = settle is None and old == (label, files)
        if current is None or not is_same:
            names = [f"{name}.iso", *(f"{name}.{number}.iso" for number in range(1, _MEDIUM_NAMES))]
            current = next(path for path in map(directory.path_of, names) if path not in self._world.files_in_use)
        facts = VolumeFacts(DiskLayer(current), has_direct_io=have_direct_io(current), is_allocated=True)
        if is_same:
            return Source(facts)
        file = os.path.basename(current)
        after = {"label": label, "files": sorted(files)}
        before = None if old is None else {"label": old[0], "files": sorted(old[1])}

        def make() -> None:
            settled = files if settle is None else settle().files_of(source)
            directory.write(file, iso_bytes(IsoLabels(label), settled or {}))

        if settle is None:
            return Source(facts, actions=[_creation("write medium", current, after, make, directory, file, before)])
        remove = functools.partial(directory.remove, [file])
        return Source(facts, late_actions=[Action("write medium", current, before, after, make, remove)])


def _creation(
    name: str,
    path: str,
    after: object,
    make: Callable[[], object],
    directory: VolumeDirectory,
    file: str,
    before: object = None,
) -> Action:
    """Return the action that makes a new file before the domain is changed, and removes it if the change fails."""

    def prepare() -> Callable[[], object]:
        make()
        return functools.partial(directory.remove, [file])

    return Action(name, path, before, after, prepare=(prepare,))


def read_medium(data: bytes | None) -> tuple[str, Mapping[str, bytes]] | None:
    """Return the label and the files of a small disk; ``None`` for one that can't be read."""
    try:
        return None if data is None else (read_labels(data).volume_id, read_files(data))
    except ValueError:
        return None


__all__ = ["Source", "SourcePlanner", "VolumeWorld", "read_medium"]
