# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The cache of container disks on a host. It pulls each disk once, and shares the disk among all users of the image."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable

from ..._core.errors import NotFound
from ..._core.records import dataclass, field, replace
from ..new_image import new_image, sweep
from .authorization import Credentials
from .local import open_local
from .manifest import host_architecture
from .origin import Origin
from .reference import LocalImage, RegistryImage
from .registry import Registry
from .store import DAMAGED, DISK_MODE, LOOSE, SOUND, CachedDisk, DiskStore
from .unpack import unpack_disk

#: Values of KubeVirt's imagePullPolicy.
ALWAYS, IF_NOT_PRESENT, NEVER = "Always", "IfNotPresent", "Never"
POLICIES = (ALWAYS, IF_NOT_PRESENT, NEVER)


@dataclass(frozen=True)
class DiskRequest:
    """A request for the disk of an image.

    :arg policy: one of :data:`POLICIES`. ``None`` is KubeVirt's default: ``Always`` for an image that has the tag
        ``latest``, or neither tag nor digest. For other images it is ``IfNotPresent``.
    :arg path: the path of the disk in the image. Without a path, it is the only file in ``/disk``.
    :arg architecture: as images name it, such as ``amd64``. ``None`` stands for this host's.
    :arg credentials: the user for the registry.
    :arg insecure: see :class:`Registry`, also for ``ca``.
    """

    image: RegistryImage | LocalImage
    policy: str | None = None
    path: str | None = None
    architecture: str | None = None
    credentials: Credentials | None = field(default=None, repr=False)
    insecure: bool = False
    ca: str | None = field(default=None, repr=False)

    @property
    def variant(self) -> tuple[str, str | None]:
        """Return the requested variant, see :class:`CachedDisk`."""
        return self.architecture or host_architecture(), self.path

    @property
    def effective_policy(self) -> str:
        """Return the policy, or its default."""
        return self.policy or (ALWAYS if self.image.is_moving else IF_NOT_PRESENT)


@dataclass(frozen=True)
class Outlook:
    """The disk for a request before it is obtained.

    :arg digest: the digest of the image.
    :arg disk: the cached disk, or ``None`` if the disk has to be pulled.
    :arg previous: the disk that had the name of the image until now.
    :arg is_loose: whether another program may have changed the disk, whose content is right.
    :arg origin: the origin, if it was asked for the digest.
    """

    digest: str
    disk: CachedDisk | None = None
    previous: CachedDisk | None = None
    is_loose: bool = False
    origin: Origin | None = field(default=None, repr=False)

    @property
    def is_moved(self) -> bool:
        """Return whether the name stands for another disk now."""
        return self.previous is None or self.previous != self.disk


class ContainerDiskCache:
    """The cache in a directory of this host.

    :arg log: is called with lines of progress, without secrets.
    """

    def __init__(self, store: DiskStore, log: Callable[[str], object] = str) -> None:
        self.store = store
        self._log = log

    def look(self, request: DiskRequest) -> Outlook:
        """Return the disk for a request, without a change. The origin is asked for the digest only if the policy
        requires this.

        :raises NotFound: the policy is ``Never``, and the cache lacks the disk.
        :raises TransferFailed, InvalidInput: the origin can't be read, or has no such image.
        """
        self.store.check_directory()
        known = [one for one in self.store.read_records() if one.variant == request.variant]
        previous = next((one for one in known if request.image.name in one.names), None)
        state_of = functools.lru_cache(maxsize=None)(self._state_of)  # some checks read the whole disk
        digest, origin = self._find_digest(request, previous, state_of)
        state = state_of(found := next((one for one in known if one.digest == digest), None))
        if digest is None or (state == DAMAGED and request.effective_policy == NEVER):
            raise NotFound(
                f"The cache {self.store.directory} has no sound disk of {request.image.name}, and image_pull_policy is "
                f"{NEVER}."
            )
        return Outlook(digest, None if state == DAMAGED else found, previous, is_loose=state == LOOSE, origin=origin)

    def _state_of(self, disk: CachedDisk | None) -> str:
        """Return the state of a disk. A missing one is damaged."""
        return DAMAGED if disk is None else self.store.check(disk.checksum, disk.size)

    def _find_digest(
        self, request: DiskRequest, previous: CachedDisk | None, state_of: Callable[[CachedDisk | None], str]
    ) -> tuple[str | None, Origin | None]:
        """Return the digest of the image, and the origin if it was asked. Without a disk that the policy accepts, the
        digest is ``None``.

        :arg previous: the disk that has the name of the image now.
        """
        policy = request.effective_policy
        if request.image.digest is not None:
            return request.image.digest, None
        if policy != ALWAYS and previous is not None and state_of(previous) != DAMAGED:
            return previous.digest, None
        if policy == NEVER:
            return None, None
        origin = self._open(request)
        return origin.read_digest(), origin

    def obtain(self, request: DiskRequest, outlook: Outlook | None = None) -> CachedDisk:
        """Return the disk for a request. Pull the disk if the cache lacks it.

        :arg outlook: the result of :meth:`look` for the same request.
        :raises NotFound: the policy is ``Never``, and the cache lacks the disk.
        :raises InvalidInput: the image has no usable disk.
        :raises TransferFailed: the image can't be read.
        :raises NoSpace, FileAccessFailed, CommandFailed, LockTimeout: the disk can't be stored.
        """
        outlook = outlook or self.look(request)
        self.store.create()
        sweep(self.store.disks)
        disk = outlook.disk
        if disk is not None and outlook.is_loose:
            self.store.protect(disk.checksum, disk.size)
        if disk is not None:
            with self.store.changing():
                if self.store.check(disk.checksum, disk.size) == SOUND:
                    return self._record(request, disk)
        return self._pull(request, outlook.digest, outlook.origin or self._open(request))

    def _pull(self, request: DiskRequest, digest: str, origin: Origin) -> CachedDisk:
        architecture, path = request.variant
        manifest = origin.read_manifest(digest, architecture)
        with self.store.downloading(manifest.digests, path):
            with self.store.changing():
                same = self._find_layers(manifest.digests, path)
                if same is not None:
                    return self._record(request, replace(same, names=(), architecture=architecture, digest=digest))
            self._log(f"Pulling {origin.name}, {sum(layer.size for layer in manifest.layers) >> 20} MiB")
            with new_image(self.store.disks, mode=DISK_MODE, sweeping=False) as part:
                found = unpack_disk(origin, manifest, path, part)
                disk = CachedDisk(
                    (),
                    architecture,
                    path,
                    digest,
                    manifest.digests,
                    found.name,
                    found.checksum,
                    found.format,
                    found.virtual_size,
                    os.fstat(part.fd).st_size,
                    int(time.time()),
                )
                with self.store.changing():
                    self.store.publish(part, disk.checksum)
                    return self._record(request, disk)

    def _find_layers(self, layers: tuple[str, ...], path: str | None) -> CachedDisk | None:
        """Return a sound disk of the same layers, perhaps of an image with another name."""
        for one in self.store.read_records():
            if (one.layers, one.path) == (layers, path) and self.store.check(one.checksum, one.size) == SOUND:
                return one
        return None

    def _record(self, request: DiskRequest, disk: CachedDisk) -> CachedDisk:
        """Write the record of a disk, to which the name of the image is moved. The lock must be held."""
        name = request.image.name
        for other in self.store.read_records():
            if other.key == disk.key:
                disk = replace(disk, names=other.names)
                if name in other.names:
                    self.store.note_use(other)
                    return other
            elif other.variant == disk.variant and name in other.names:
                kept = tuple(one for one in other.names if one != name)
                self.store.write(replace(other, names=kept), self.store.last_use(other))
        disk = replace(disk, names=(*disk.names, name))
        self.store.write(disk)
        return disk

    def _open(self, request: DiskRequest) -> Origin:
        if isinstance(request.image, LocalImage):
            return open_local(request.image)
        return Registry(
            request.image,
            credentials=request.credentials,
            insecure=request.insecure,
            ca=request.ca,
            log=self._log,
        )


__all__ = ["ALWAYS", "IF_NOT_PRESENT", "NEVER", "POLICIES", "ContainerDiskCache", "DiskRequest", "Outlook"]
