# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The disks in container images that a declaration names, in the cache of this host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..._core.plan import Action
from ..._core.records import dataclass
from ..._image.container.cache import ContainerDiskCache, DiskRequest
from ..._image.container.store import CachedDisk, DiskStore
from ..._image.volume_files import VolumeDirectory
from ..._libvirt.devices.volume_disk import DiskLayer
from ..._model.domain_volumes import DomainVolumes
from ..._model.volume_disks import BlockSize
from ..._model.volume_sources import ContainerDisk
from ..container_disk.options import parse_request
from .layers import LayerState
from .texts import read_keyed_data

#: The key of a secret with the file of Docker's clients (Kubernetes).
_DOCKER_CONFIG = ".dockerconfigjson"


@dataclass(frozen=True)
class PullOptions:
    """The options for every registry.

    :arg insecure: whether registries are read by plain HTTP.
    :arg ca_path: a file with certificates of the registries' CAs.
    """

    insecure: bool = False
    ca_path: str | None = None


class ContainerDisks:
    """The bases of the container disks of one domain.

    :arg directory: the directory with the domain's overlays.
    :arg is_in_use: whether a guest goes on with the overlays, so that they stay as they are.
    """

    def __init__(
        self,
        cache: ContainerDiskCache,
        options: PullOptions,
        spec: DomainVolumes,
        directory: VolumeDirectory,
        *,
        is_in_use: bool,
    ) -> None:
        self._cache = cache
        self._options = options
        self._secrets = spec.secrets
        self._directory = directory
        self._is_in_use = is_in_use
        self._requests = {
            volume.name: self._request(place, volume.source)
            for place, volume in enumerate(spec.volumes)
            if isinstance(volume.source, ContainerDisk) and not self._is_settled(volume.name, volume.source)
        }

    def _is_settled(self, name: str, source: ContainerDisk) -> bool:
        """Return whether an overlay exists that this run doesn't make anew."""
        return (self._is_in_use or source.persistent) and f"{name}.qcow2" in self._directory.names()

    def _request(self, place: int, source: ContainerDisk) -> DiskRequest:
        """Return the request for an image.

        :raises InvalidInput: the name of the image or the secret is invalid.
        """
        return parse_request(
            {
                "image": source.image,
                "image_pull_policy": source.pull_policy,
                "path": source.path,
                "architecture": None,
                "pull_secret": self._pull_secret(source),
                "insecure": self._options.insecure,
                "ca_path": self._options.ca_path,
            },
            f"volumes[{place}].container_disk",
        )

    def _pull_secret(self, source: ContainerDisk) -> Mapping[str, Any] | None:
        if source.image_pull_secret is None:
            return None
        texts = {
            key: data.decode("utf-8", "replace")
            for key, data in read_keyed_data(self._secrets[source.image_pull_secret]).items()
        }
        if _DOCKER_CONFIG in texts:
            return {"dockerconfigjson": texts[_DOCKER_CONFIG]}
        return {name: texts.get(name) for name in ("username", "password")}

    def look(self) -> tuple[dict[str, LayerState], list[Action]]:
        """Return the cached bases by the name of the volume, and the pulls that are missing.

        :raises NotFound: the policy is ``Never``, and the cache lacks a disk.
        :raises TransferFailed, InvalidInput: a registry can't be read, or has no such image.
        """
        found, actions = {}, []
        for name, request in self._requests.items():
            outlook = self._cache.look(request)
            if outlook.disk is None:
                actions.append(Action("pull container disk", request.image.name, None, {"digest": outlook.digest}))
            else:
                found[name] = self._state(outlook.disk)
        return found, actions

    def obtain(self) -> tuple[dict[str, LayerState], list[Action]]:
        """Pull what is missing, and return all bases and the pulls that were made. Errors are those of :meth:`look`."""
        found, actions = {}, []
        for name, request in self._requests.items():
            outlook = self._cache.look(request)
            disk = self._cache.obtain(request, outlook)
            if outlook.disk is None:
                actions.append(Action("pull container disk", request.image.name, None, {"digest": disk.digest}))
            found[name] = self._state(disk)
        return found, actions

    def _state(self, disk: CachedDisk) -> LayerState:
        return LayerState(_layer_of(self._cache.store, disk), disk.virtual_size, False, BlockSize(512, 512))


def read_cached(store: DiskStore) -> dict[str, DiskLayer]:
    """Return the disks in a cache by path.

    :raises FileAccessFailed: the cache can't be read.
    """
    layers = (_layer_of(store, disk) for disk in store.read_records())
    return {layer.path: layer for layer in layers}


def _layer_of(store: DiskStore, disk: CachedDisk) -> DiskLayer:
    return DiskLayer(store.file(disk.checksum), False, disk.format, keeps_owner=True)


__all__ = ["ContainerDisks", "PullOptions", "read_cached"]
