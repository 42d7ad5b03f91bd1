# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan of one domain: the data of its volumes, its definition, the running domain, and its filesystems."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..._core.plan import Action, nothing
from ..._image.container.cache import ContainerDiskCache
from ..._image.container.store import DiskStore
from ..._image.volume_files import VolumeDirectory, grow_file
from ..._libvirt.connection import Domain
from ..._libvirt.devices.filesystem import tags
from ..._libvirt.devices.volume_disk import DiskLayer, VolumeDisk, volume_disks
from ..._libvirt.devices.volume_record import VolumeRecord, read_record
from ..._libvirt.domain_xml import parse
from ..._libvirt.edit import SAVED_STATE, DefinitionEdit
from ..._model.metrics import metrics_file
from ..._model.volume_sources import ContainerDisk
from ..._volume.admission.declaration import accept_declaration
from ..._volume.connection import connect_disks
from ..._volume.conversion import convert
from ..._volume.media import GuestFiles, Identity
from ..._volume.tagged_disks import describe_tagged_disks
from .adoption import adopt_disks, check_adopted
from .claims import Claims
from .container_disks import ContainerDisks, read_cached
from .data_volumes import DataVolumes
from .definition import definition_action, edit_definition, forget_data_volumes
from .domain_facts import read_domain_facts
from .files_in_use import disk_paths
from .filesystems import DIRECTORY, DomainFilesystems
from .host import VolumesHost
from .layers import LayerState
from .options import VolumesOptions
from .plan import VolumesPlan
from .running import RunningVolumes, plan_growth
from .same_disk import refuse_shared_data, refuse_snapshots
from .sources import Source, SourcePlanner, VolumeWorld
from .texts import read_keyed_data
from .writers import DiskWriters


class DomainPlanner:
    """The plan for one domain in its present state."""

    def __init__(
        self, host: VolumesHost, options: VolumesOptions, plan: VolumesPlan, domain: Domain, *, is_dry_run: bool
    ) -> None:
        self._host = host
        self._options = options
        self._is_dry_run = is_dry_run
        self._plan = plan
        self._domain = domain
        self._edit = DefinitionEdit(domain)
        text = domain.running_xml()
        self._running_text = text
        self._running = None if text is None else parse(text)
        saved = domain.saved_xml() if text is None else None
        #: The XML of a state that the next start resumes.
        self._saved = None if saved is None else parse(saved)
        self._record = read_record(self._edit.root)
        declared = self._declared_names()
        self._adopted = adopt_disks(self._edit.root, declared)
        self._facts = read_domain_facts(self._edit.root, self._running, declared, self._record.names, host.version)
        self._spec = accept_declaration(self._options.declaration, self._facts)
        self._directory = VolumeDirectory(os.path.join(self._options.directory, domain.uuid), host.owner)
        self._metrics = VolumeDirectory(os.path.dirname(metrics_file(domain.uuid)), host.owner)

    def _declared_names(self) -> set[str]:
        return {
            str(one.get("name"))
            for option in ("disks", "filesystems", "volumes")
            for one in self._options.declaration.get(option, [])
            if isinstance(one, Mapping)
        }

    def container_disks(self, log: Callable[[str], object]) -> ContainerDisks:
        """Return the disks in container images that the declaration names."""
        is_in_use = self._is_in_use
        return ContainerDisks(self._cache(log), self._options.pull, self._spec, self._directory, is_in_use=is_in_use)

    @property
    def _is_in_use(self) -> bool:
        """Return whether a guest goes on with the present data: it runs, or the next start resumes it."""
        return self._running is not None or self._saved is not None

    @property
    def _has_container_disks(self) -> bool:
        return any(isinstance(volume.source, ContainerDisk) for volume in self._spec.volumes)

    def data_volumes(self, log: Callable[[str], object]) -> DataVolumes:
        """Return the images that the declaration imports."""
        options = self._options
        return DataVolumes(self._spec, options.catalog, self._cache(log), options.pull, self._record.data_volumes, log)

    def forget_data_volumes(self, names: Collection[str]) -> None:
        """Remove images that don't exist any more from the record, like :func:`forget_data_volumes`."""
        forget_data_volumes(self._domain, names)

    def _cache(self, log: Callable[[str], object]) -> ContainerDiskCache:
        return ContainerDiskCache(DiskStore(self._options.cache), log)

    def plan_all(self, container_disks: Mapping[str, LayerState], imported: Collection[str]) -> None:
        """Plan the data of all volumes, the definition, the running domain, and the filesystems.

        :arg container_disks: the cached disks of container images, by the name of the volume.
        :arg imported: the names of the images that this run imports. They go with the domain.
        """
        disks = connect_disks(self._spec, self._facts)
        places = {volume.name: place for place, volume in enumerate(self._spec.volumes)}
        world = self._read_world(container_disks)
        planner = SourcePlanner(world)
        sources = {disk.name: planner.plan(disk, places[disk.name]) for disk in disks if disk.volume is not None}
        facts = {name: source.facts for name, source in sources.items()}
        names = [filesystem.name for filesystem in self._spec.filesystems]
        # Filesystems are exports, whose service knows the rest about their devices.
        converted = convert(self._spec, self._facts, facts, dict.fromkeys(names, ""))
        check_adopted(self._domain.name, self._adopted, converted.disks)
        live = {} if self._running is None else {disk.name: disk for _element, disk in volume_disks(self._running)}
        refuse_snapshots(converted.disks, world.defined, live)
        for source in sources.values():
            self._plan.actions += source.actions
            self._plan.warnings += source.warnings
        self._plan_filesystems(world)
        record = VolumeRecord(
            frozenset([*(disk.name for disk in disks), *names]),
            self._record.data_volumes.union(imported),  # an undeclared image is recorded until a purge has removed it
            converted.io_threads.count,
        )
        edit_definition(
            self._edit,
            converted,
            record,
            scsi_controller=self._facts.scsi_controller,
            other_io_threads=self._facts.other_io_threads,
        )
        refuse_shared_data(converted.disks, self._edit.root)
        if self._edit.is_change:
            self._plan.actions.append(definition_action(self._edit, self._record.names))
        self._plan.actions += [action for source in sources.values() for action in source.late_actions]
        self._plan_growth(converted.disks, sources)
        released: Collection[str] = ()
        if self._running_text is not None:
            running = RunningVolumes(self._plan, self._domain, self._running_text)
            running.plan(converted, self._record.names)
            released = running.released
        elif self._edit.is_change and self._saved is not None:
            self._plan.restart_for(SAVED_STATE)
        self._plan_purge(converted.disks, released)
        self._plan.result.update(
            domain=self._domain.name,
            disks=[
                {"name": disk.name, "target": disk.target, "bus": disk.bus, "source": disk.layer and disk.layer.path}
                for disk in converted.disks
            ],
            filesystems=names,
        )

    def _plan_filesystems(self, world: VolumeWorld) -> None:
        filesystems = DomainFilesystems(
            self._host.hypervisor,
            self._domain.name,
            self._options.uri,
            self._options.catalog,
            self._directory.path,
            self._spec,
            world.files,
            world.claims,
        )
        filesystems.plan_texts(self._plan)
        declared = {one.name for one in self._spec.filesystems}
        gone = sorted(self._find_outdated_filesystems() - declared)
        self._plan.parts = [
            *(functools.partial(filesystems.plan_removal, name) for name in gone),
            *(
                functools.partial(filesystems.plan_export, one, is_dry_run=self._is_dry_run)
                for one in self._spec.filesystems
            ),
            filesystems.plan_cleanup,
        ]
        self._plan.check_parts()

    def _find_outdated_filesystems(self) -> set[str]:
        """Return the recorded filesystems of the definition, and those that only the running domain has."""
        defined = tags(self._edit.root).keys()
        found = defined & self._record.names
        if self._running is not None:
            found |= (tags(self._running).keys() - defined) & read_record(self._running).names
        return found

    def _read_world(self, container_disks: Mapping[str, LayerState]) -> VolumeWorld:
        defined = {disk.name: disk for _element, disk in volume_disks(self._edit.root)}
        files, has_all_addresses = self._describe_files(defined)
        return VolumeWorld(
            directory=self._directory,
            is_in_use=self._is_in_use,
            defined=defined,
            files_in_use=frozenset(disk_paths(self._edit.root) | self._held_paths()),
            files=files,
            read_settled_files=None if has_all_addresses else self._read_settled_files,
            claims=Claims(self._options.catalog, self._options.claims),
            writers=DiskWriters(self._host.writers, self._domain.name),
            container_disks=container_disks,
            templates={one.name: one for one in self._spec.data_volume_templates},
            metrics=self._metrics,
            cached=read_cached(DiskStore(self._options.cache)) if self._has_container_disks else {},
            own_directories=(self._options.directory, self._options.cache),
        )

    def _describe_files(self, defined: Mapping[str, VolumeDisk]) -> tuple[GuestFiles, bool]:
        """Return the files of volumes with texts, and whether all addresses in them are known."""
        identity = Identity(self._domain.name, self._domain.uuid, socket.gethostname())
        tagged = describe_tagged_disks(self._spec, self._facts, defined)
        return GuestFiles(self._spec, identity, read_keyed_data, tagged.devices), tagged.are_placed

    def _read_settled_files(self) -> GuestFiles:
        """Return the files of volumes with texts after the change of the definition."""
        root = parse(self._domain.persistent_xml())
        return self._describe_files({disk.name: disk for _element, disk in volume_disks(root)})[0]

    def _plan_growth(self, disks: tuple[VolumeDisk, ...], sources: Mapping[str, Source]) -> None:
        """Plan the growth of existing data: by QEMU where a domain runs, else in the file."""
        names = {disk.name for disk in disks}
        found = [] if self._running is None else volume_disks(self._running, names)
        running = {disk.name: disk for _element, disk in found}
        for disk in disks:
            source = sources.get(disk.name)
            if source is None or source.current is None or disk.layer is None:
                continue
            if disk.name in running:
                action = plan_growth(self._domain, disk, source.current, source.size, running)
                self._plan.actions += [] if action is None else [action]
            elif source.size > source.current:
                self._plan.actions.append(_file_growth(disk.layer, source))

    def _held_paths(self) -> set[str]:
        """Return the files that the running domain, or its saved state, needs."""
        return disk_paths(self._running) | disk_paths(self._saved)

    def _plan_purge(self, disks: tuple[VolumeDisk, ...], released: Collection[str]) -> None:
        """Plan the removal of files that no disk has any more. Those of undeclared volumes stay without ``purge``, and
        all that a guest still needs stay.

        :arg released: files that the running domain loses by this plan.
        """
        wanted = {disk.layer.path for disk in disks if disk.layer is not None}
        kept = {*wanted, self._directory.path_of(DIRECTORY), *(self._held_paths() - set(released))}
        names = [name for name in self._directory.names() if self._directory.path_of(name) not in kept]
        # Small media are made from the declaration alone, and can have secrets.
        outdated = [name for name in names if self._options.purge or name.endswith(".iso")]
        self._plan.actions += [self._removal_action(self._directory, name) for name in outdated]
        metrics = self._metrics
        unread = [name for name in metrics.names() if metrics.path_of(name) not in kept]
        self._plan.actions += [self._removal_action(metrics, name) for name in unread]

    def _removal_action(self, directory: VolumeDirectory, name: str) -> Action:
        path = directory.path_of(name)

        def remove() -> str | None:
            text = self._domain.running_xml() or self._domain.saved_xml()
            if text is not None and path in disk_paths(parse(text)):
                return "the running domain or its saved state still has the file"
            directory.remove([name])
            directory.remove_if_empty()
            return None

        return Action("remove file", path, {"exists": True}, None, finish=remove)


def _file_growth(layer: DiskLayer, source: Source) -> Action:
    def grow() -> Any:
        grow_file(layer.path, layer.format, source.size, sparse=not source.facts.is_thick)
        return nothing  # a file that grew isn't cut again

    return Action("grow disk", layer.path, {"size": source.current}, {"size": source.size}, prepare=(grow,))


__all__ = ["DomainPlanner"]
