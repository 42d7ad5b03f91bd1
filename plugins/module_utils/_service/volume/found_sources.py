# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The sources of volumes, found from the files and block devices that a domain has."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..._core.records import dataclass, field
from ..._host.text_directory import TextDirectory
from ..._image.container.store import CachedDisk, DiskStore
from ..._image.volume_files import VolumeDirectory, VolumeFile
from ..._libvirt.devices.filesystem import VirtioFs
from ..._libvirt.devices.volume_disk import VolumeDisk
from ..._model.metrics import metrics_file
from ..._volume.media import Identity
from ..._volume.quantity import format_quantity
from ..._volume.reading_back.media import FoundTexts, describe_files, describe_medium
from .claims import Claim
from .filesystems import DIRECTORY
from .sources import read_medium


@dataclass(frozen=True)
class FoundSource:
    """The source of a disk or a filesystem.

    :arg source: the source as plain data; ``None`` if none is known.
    :arg reason: the reason why no source is known, as the rest of a sentence.
    :arg texts: the texts of the source.
    :arg warnings: sentences about properties of the source that can't be known.
    """

    source: Mapping[str, Any] | None = None
    reason: str = ""
    texts: FoundTexts | None = None
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class HostImages:
    """The images that disks of any domain of this host can be based on.

    :arg claims: the images of the catalog, by their paths.
    :arg container_disks: the disks of the cache, by their paths.
    """

    claims: Mapping[str, Claim]
    container_disks: Mapping[str, CachedDisk] = field(default_factory=dict)

    def find_claim(self, path: str) -> Claim | None:
        """Return the image at a path, or at the file that the path leads to."""
        return self.claims.get(path) or self.claims.get(os.path.realpath(path))


def read_container_disks(store: DiskStore) -> dict[str, CachedDisk]:
    """Return the disks of a cache by their paths. Of several images with the same disk, the first with a name counts.

    :raises FileAccessFailed: the cache can't be read.
    """
    return {store.file(one.checksum): one for one in sorted(store.read_records(), key=lambda one: bool(one.names))}


@dataclass(frozen=True)
class SourceFinder:
    """The sources of one domain's volumes.

    :arg directory: the directory with the files of the domain's volumes.
    :arg data_volumes: the names of the images that go with the domain.
    :arg disks: the disks of the domain.
    """

    images: HostImages
    directory: VolumeDirectory
    identity: Identity
    data_volumes: frozenset[str]
    disks: Sequence[VolumeDisk]

    def find(self, disk: VolumeDisk) -> FoundSource:
        """Return the source of a disk that isn't an empty drive.

        :raises VmstoreError: a file in the directory of the domain can't be read.
        """
        layer = disk.layer
        if layer is None:
            return FoundSource(reason="its data is neither a file nor a block device of this host")
        claim = self.images.find_claim(layer.path)
        if claim is not None:
            return self._claim(claim)
        if os.path.dirname(layer.path) == self.directory.path:
            return self._own_file(disk.name, os.path.basename(layer.path), layer.format)
        if layer.path == metrics_file(self.identity.uuid):
            return FoundSource({"downward_metrics": {}})
        if layer.format == "raw":
            return FoundSource({"host_disk": {"path": layer.path, "type": "Disk"}})
        return FoundSource(
            reason=f"{layer.path} has the format {layer.format} and is no image of the catalog: register the file with "
            "the module image, or name it in the option 'claims'"
        )

    def _claim(self, claim: Claim) -> FoundSource:
        if claim.name in self.data_volumes:
            warning = (
                f"The image {claim.name!r} goes with the domain. Its origin isn't recorded, so declare its template in "
                "data_volume_templates again."
            )
            return FoundSource({"data_volume": {"name": claim.name}}, warnings=[warning])
        return FoundSource({"persistent_volume_claim": {"claim_name": claim.name}})

    def _own_file(self, name: str, file: str, format: str) -> FoundSource:
        """Return the source of a file in the directory of the domain."""
        path = self.directory.path_of(file)
        if format == "qcow2" and file == f"{name}.qcow2":
            found = self.directory.overlay(file)
            return FoundSource(reason=f"there is no file {path}") if found is None else self._overlay(name, found)
        medium = read_medium(self.directory.medium(file)) if format == "raw" else None
        if medium is None:
            return FoundSource(reason=f"{path} is in the directory of this module, and isn't one of its files")
        texts = describe_medium(name, *medium, self.identity, self.disks)
        return _with_texts(texts, path)

    def _overlay(self, name: str, found: VolumeFile) -> FoundSource:
        """Return the source of a qcow2 file, by its backing file."""
        if found.backing is None:
            return FoundSource({"empty_disk": {"capacity": format_quantity(found.size)}})
        container_disk = self.images.container_disks.get(found.backing)
        if container_disk is not None:
            return _container_disk(name, container_disk, found.size)
        claim = self.images.find_claim(found.backing)
        if claim is not None:
            return FoundSource({"ephemeral": {"persistent_volume_claim": {"claim_name": claim.name}}})
        return FoundSource(
            reason=f"its backing file {found.backing} is neither an image of the catalog nor in the cache"
        )

    def find_directory(self, device: VirtioFs) -> FoundSource:
        """Return the source of a filesystem.

        :raises FileAccessFailed: a text can't be read.
        """
        claim = self.images.find_claim(device.source)
        if claim is not None and claim.is_directory:
            return self._claim(claim)
        if device.source != os.path.join(self.directory.path, DIRECTORY, device.tag):
            return FoundSource(
                reason=f"{device.source} is no image of the catalog: register the directory with the module image, or "
                "keep the filesystem with the module virtiofs_export"
            )
        files = TextDirectory(device.source).read()
        if files is None:
            return FoundSource(reason=f"there is no directory {device.source}")
        return _with_texts(describe_files(device.tag, files), device.source)


def _container_disk(name: str, disk: CachedDisk, size: int) -> FoundSource:
    if not disk.names:
        return FoundSource(reason=f"its image {disk.digest} has no name in the cache any more")
    source: dict[str, Any] = {"image": disk.names[0], "persistent": True}
    source.update({"path": disk.path} if disk.path is not None else {})
    source.update({"capacity": format_quantity(size)} if size > disk.virtual_size else {})
    warning = (
        f"Nothing records whether the container disk {name!r} is persistent. 'persistent: true' keeps the data of the "
        "guest, and without it the next run discards the data while the domain is off."
    )
    return FoundSource({"container_disk": source}, warnings=[warning])


def _with_texts(texts: FoundTexts | None, path: str) -> FoundSource:
    if texts is None:
        return FoundSource(reason=f"{path} has files that no config map gives, such as those of downward_api")
    return FoundSource(texts.source, texts=texts)


__all__ = ["FoundSource", "HostImages", "SourceFinder", "read_container_disks"]
