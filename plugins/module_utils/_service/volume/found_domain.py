# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One domain of this host, and the declaration with which ``domain_volumes`` changes as little as possible."""

from __future__ import annotations

import base64
import os
import socket
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from ..._core.errors import InvalidDeclaration, InvalidInput, NotFound, VmstoreError
from ..._core.records import dataclass, field
from ..._image.volume_files import VolumeDirectory
from ..._libvirt.connection import Domain
from ..._libvirt.devices.alias import name_of
from ..._libvirt.devices.filesystem import VirtioFs, filesystems
from ..._libvirt.devices.io_threads import count_io_threads
from ..._libvirt.devices.metrics_channel import find_metrics_channel
from ..._libvirt.devices.scsi import find_scsi_model
from ..._libvirt.devices.volume_disk import PLACE, VolumeDisk, disk_name, volume_disks
from ..._libvirt.devices.volume_record import read_record
from ..._libvirt.domain_xml import devices as devices_of
from ..._libvirt.domain_xml import parse
from ..._model.domain_volumes import DomainVolumes
from ..._model.metrics import metrics_file
from ..._volume.admission.declaration import accept_declaration
from ..._volume.connection import connect_disks
from ..._volume.conversion import DomainDevices, convert
from ..._volume.facts import DomainFacts
from ..._volume.io_threads import IoThreads
from ..._volume.media import GuestFiles, Identity, tagged_devices
from ..._volume.reading_back.declaration import FoundDomain, read_back, refused_names
from ..._volume.reading_back.disks import FoundVolume
from .adoption import adopt_disks
from .claims import Claims
from .domain_facts import read_domain_facts
from .found_sources import FoundSource, HostImages, SourceFinder
from .host import VolumesHost
from .same_data import differences
from .sources import Source, SourcePlanner, VolumeWorld
from .writers import DiskWriters

Declaration = dict[str, Any]


@dataclass(frozen=True)
class HostData:
    """The data on this host that all domains share.

    :arg directory: the directory with the files of volumes.
    """

    host: VolumesHost
    claims: Claims
    images: HostImages
    directory: str


@dataclass(frozen=True)
class Parts:
    """The parts of a domain that are declared.

    :arg sources: the sources of the volumes, by name. An empty drive has none.
    """

    root: ET.Element
    disks: tuple[VolumeDisk, ...]
    filesystems: tuple[VirtioFs, ...]
    facts: DomainFacts
    sources: Mapping[str, FoundSource] = field(default_factory=dict)

    def devices(self) -> DomainDevices:
        """Return the devices as a conversion returns them."""
        return DomainDevices(
            disks=self.disks,
            filesystems=self.filesystems,
            io_threads=IoThreads(count_io_threads(self.root)),
            scsi_model=find_scsi_model(self.root),
            has_metrics_port=find_metrics_channel(self.root) is not None,
        )


class LeftOut(Exception):
    """Devices can't be declared.

    :arg reasons: the reasons by the names of the devices, each as the rest of a sentence.
    """

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__(reasons)
        self.reasons = reasons


class DomainReader:
    """The reader of one domain. Devices that can't be declared are left out, so that the rest can."""

    def __init__(self, data: HostData, domain: Domain) -> None:
        self._data = data
        self._domain = domain
        text = domain.persistent_xml(secrets=False) if domain.is_persistent else domain.running_xml()
        if text is None:
            raise NotFound(f"The domain {domain.name!r} has been shut off just now, and has no definition.")
        self._text = text
        root = parse(text)
        elements = devices_of(root).findall("disk")
        self._names = {disk_name(element) for element in elements}
        self._adopted = {disk_name(element) for element in elements if name_of(element) is None}
        self._tags = [device.tag for _element, device in filesystems(root)]
        self._record = read_record(root)
        self._identity = Identity(domain.name, domain.uuid, socket.gethostname())
        self._directory = VolumeDirectory(os.path.join(data.directory, domain.uuid))
        self._left_out: dict[str, str] = {}
        self._warnings: list[str] = []

    def read(self) -> dict[str, object]:
        """Return the domain as plain data.

        :raises NotFound: the domain doesn't exist any more.
        """
        self._left_out.update(_find_doubles(parse(self._text), self._tags))
        while True:
            try:
                return self._read()
            except LeftOut as error:
                self._left_out.update(error.reasons)

    def _read(self) -> dict[str, object]:
        """Return the domain as plain data.

        :raises LeftOut: more devices can't be declared.
        """
        self._warnings = []
        parts = self._read_parts()
        declaration, texts = self._declare(parts)
        return {
            "name": self._domain.name,
            "uuid": self._domain.uuid,
            "running": self._domain.is_running,
            "declaration": declaration,
            "texts_needed": texts,
            "left_out": [{"name": name, "reason": reason} for name, reason in sorted(self._left_out.items())],
            "warnings": [*self._describe_adoption(parts), *self._warnings],
        }

    def _describe_adoption(self, parts: Parts) -> list[str]:
        found = []
        if not self._domain.is_persistent:
            found.append("The domain is transient. domain_volumes needs a definition.")
        found += [
            f"The disk {disk.name!r} has no alias of this collection. domain_volumes gives it the alias "
            f"'ua-{disk.name}', and manages the disk from then on."
            for disk in parts.disks
            if disk.name in self._adopted
        ]
        found += [
            f"domain_volumes takes {name!r} from the domain, because an earlier declaration had it and this one can't."
            for name in sorted(self._left_out)
            if name in self._record.names
        ]
        return found

    def _read_parts(self) -> Parts:
        """Return the parts that aren't left out.

        :raises LeftOut: the source of a volume can't be declared.
        """
        root = parse(self._text)
        names = (self._names | set(self._tags)) - self._left_out.keys()
        adopt_disks(root, self._names & names)
        disks = tuple(disk for _element, disk in volume_disks(root) if disk.name in names)
        shared = tuple(device for _element, device in filesystems(root) if device.tag in names)
        finder = SourceFinder(self._data.images, self._directory, self._identity, self._record.data_volumes, disks)
        empty = {disk.name for element, disk in volume_disks(root) if _is_empty_drive(element)}
        sources = {disk.name: _try(finder.find, disk) for disk in disks if disk.name not in empty}
        sources.update({device.tag: _try(finder.find_directory, device) for device in shared})
        _require_declarable({name: one.reason for name, one in sources.items() if one.source is None})
        return Parts(root, disks, shared, read_domain_facts(root, None, names, (), self._data.host.version), sources)

    def _declare(self, parts: Parts) -> tuple[Declaration, list[dict[str, object]]]:
        """Return the declaration, and the texts that the user adds.

        :raises LeftOut: ``domain_volumes`` refuses a device.
        """
        texts = _collect_texts(parts.sources)
        given = {option: {name: _encode(data) for name, data in one.items()} for option, one in texts.items()}
        extra = _find_metadata(parts.sources)
        draft = {**_read_back(parts, {}), **extra}
        sources = self._plan_sources(parts, draft, given)
        declaration = {**_read_back(parts, sources), **extra}
        spec = _accept(declaration, given, parts.facts)
        facts = {name: source.facts for name, source in sources.items()}
        try:
            converted = convert(spec, parts.facts, facts, {device.tag: device.source for device in parts.filesystems})
        except InvalidDeclaration as error:
            raise LeftOut(_reasons(declaration, error)) from error
        self._compare(parts, sources, converted)
        needed: list[dict[str, object]] = [
            {"option": option, "name": name, "needed_keys": sorted(data)}
            for option, one in texts.items()
            for name, data in one.items()
        ]
        return declaration, needed

    def _plan_sources(self, parts: Parts, draft: Declaration, given: Mapping[str, Any]) -> dict[str, Source]:
        """Return the data of volumes as ``domain_volumes`` plans it, by name.

        :raises LeftOut: ``domain_volumes`` refuses the data of a volume.
        """
        spec = _accept(draft, given, parts.facts)
        places = {volume.name: place for place, volume in enumerate(spec.volumes)}
        planner = SourcePlanner(self._read_world(parts, spec))
        sources, reasons = {}, {}
        for disk in connect_disks(spec, parts.facts):
            try:
                if disk.volume is not None:
                    sources[disk.name] = planner.plan(disk, places[disk.name])
            except VmstoreError as error:
                reasons[disk.name] = _reason(error)
        _require_declarable(reasons)
        return sources

    def _read_world(self, parts: Parts, spec: DomainVolumes) -> VolumeWorld:
        disks = list(parts.disks)
        tags = {disk.name: disk.tag for disk in spec.disks if disk.tag is not None}
        return VolumeWorld(
            directory=self._directory,
            is_in_use=self._domain.is_running or self._domain.saved_xml() is not None,
            defined={disk.name: disk for disk in disks},
            files_in_use=frozenset(disk.layer.path for disk in disks if disk.layer is not None),
            files=GuestFiles(spec, self._identity, devices=tagged_devices(disks, tags)),
            claims=self._data.claims,
            writers=DiskWriters(self._data.host.writers, self._domain.name),
            container_disks={},
            templates={},
            metrics=VolumeDirectory(os.path.dirname(metrics_file(self._domain.uuid))),
        )

    def _compare(self, parts: Parts, sources: Mapping[str, Source], converted: DomainDevices) -> None:
        """Note what ``domain_volumes`` changes with the declaration.

        :raises LeftOut: a disk would be adopted at another place, where its guest may not find the disk.
        """
        changes = {found.name: differences(disk, found) for disk, found in zip(converted.disks, parts.disks)}
        moved = {name: sorted(PLACE.intersection(changes[name])) for name in self._adopted & changes.keys()}
        _require_declarable(
            {name: f"domain_volumes would give it another {', '.join(one)}" for name, one in moved.items() if one}
        )
        for source in parts.sources.values():
            self._warnings += source.warnings
        for disk in converted.disks:
            changed = changes[disk.name]
            actions = [action.name for action in sources[disk.name].actions] if disk.name in sources else []
            if changed:
                self._warnings.append(f"domain_volumes gives the disk {disk.name!r} another {', '.join(changed)}.")
            if actions:
                self._warnings.append(
                    f"domain_volumes changes the data of the disk {disk.name!r}: {', '.join(actions)}."
                )
        count = converted.io_threads.count
        if count and count != count_io_threads(parts.root):
            self._warnings.append(f"domain_volumes gives the domain {count} threads for input and output.")
        for device in parts.filesystems:
            if not device.uid_map and not device.gid_map:
                self._warnings.append(
                    f"The filesystem {device.tag!r} has no id maps. domain_volumes gives it the default maps if this "
                    "host can map ids."
                )


def _find_doubles(root: ET.Element, tags: list[str]) -> dict[str, str]:
    """Return the names that two devices have, each with a reason to leave them out."""
    names = [*(disk_name(element) for element in devices_of(root).findall("disk")), *tags]
    return {name: "another disk or filesystem has the same name" for name in names if names.count(name) > 1}


def _is_empty_drive(element: ET.Element) -> bool:
    return element.get("device") == "cdrom" and element.find("source") is None


def _try(find: Any, device: object) -> FoundSource:
    """Return the source of a device, or the reason why it can't be found out."""
    try:
        found: FoundSource = find(device)
    except VmstoreError as error:
        return FoundSource(reason=_reason(error))
    return found


def _reason(error: VmstoreError) -> str:
    return f"its data can't be used: {error}"


def _require_declarable(reasons: Mapping[str, str]) -> None:
    if reasons:
        raise LeftOut(reasons)


def _read_back(parts: Parts, sources: Mapping[str, Source]) -> Declaration:
    volumes = {
        name: FoundVolume(one.source or {}, sources[name].facts if name in sources else None)
        for name, one in parts.sources.items()
    }
    tags = {disk: tag for one in parts.sources.values() if one.texts for disk, tag in one.texts.tags.items()}
    return read_back(FoundDomain(parts.devices(), volumes, parts.facts, tags))


def _collect_texts(sources: Mapping[str, FoundSource]) -> dict[str, dict[str, Mapping[str, bytes]]]:
    """Return the texts by the option and by the name of the object."""
    found: dict[str, dict[str, Mapping[str, bytes]]] = {}
    for name, source in sources.items():
        if source.texts is not None:
            found.setdefault(source.texts.option, {})[name] = source.texts.texts
    return found


def _encode(texts: Mapping[str, bytes]) -> dict[str, object]:
    return {"binary_data": {key: base64.b64encode(data).decode() for key, data in texts.items()}}


def _find_metadata(sources: Mapping[str, FoundSource]) -> Declaration:
    found: dict[str, Any] = {}
    for source in sources.values():
        found = {**(source.texts.metadata if source.texts else {}), **found}
    return {"metadata": found} if found else {}


def _accept(declaration: Declaration, given: Mapping[str, Any], facts: DomainFacts) -> DomainVolumes:
    """Return the checked declaration.

    :raises LeftOut: devices are refused.
    """
    try:
        return accept_declaration({**declaration, **given}, facts)
    except InvalidDeclaration as error:
        raise LeftOut(_reasons(declaration, error)) from error


def _reasons(declaration: Declaration, error: InvalidDeclaration) -> dict[str, str]:
    """Return the refused devices with their reasons.

    :raises InvalidDeclaration: the error is about something else.
    """
    refused = refused_names(declaration, error.problems)
    if not refused:
        raise error
    return {name: str(InvalidInput(one.path, one.value, one.accepted)) for name, one in refused.items()}


__all__ = ["DomainReader", "HostData"]
