# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The new disks of VMs: their rows, checked against the image, the drivers and the room on the host."""

from __future__ import annotations

import os
from collections.abc import Callable

from ..._core.errors import Conflict, InvalidInput, NotFound, UnsupportedAction
from ..._driver.datastore.attributes import settings_of
from ..._driver.transfer.hosts import is_this_host
from ..._image.datablock import check_datablock
from ..._image.room import stores_all
from ..._model.datastore import Datastore
from ..._model.declared_vm import NEW, DeclaredDisk, DeclaredVm
from ..._model.image import Image
from ..._model.place import Place
from .known import KnownVms
from .options import DiskSpec
from .transfers import Transfers

#: Types of images that a VM has as a disk.
DISK_TYPES = ("os", "datablock", "cdrom")

#: Formats of disks.
FORMATS = ("raw", "qcow2")


class NewDisks:
    """The rows of new disks.

    :arg has_data: returns whether the data of an image exists.
    """

    def __init__(self, known: KnownVms, transfers: Transfers, has_data: Callable[[Image, Datastore], bool]) -> None:
        self._known = known
        self._transfers = transfers
        self._has_data = has_data

    def row(self, vm: DeclaredVm, spec: DiskSpec) -> DeclaredDisk:
        """Return the row of a new disk, without a device.

        :raises DependencyNotFound: the image is missing.
        :raises InvalidInput: an option is missing or invalid.
        :raises UnsupportedAction: the drivers can't create such a disk.
        :raises NotFound: the data of the image is missing.
        """
        return self._empty(vm, spec) if spec.image is None else self._of_image(vm, spec, self._known.image(spec.image))

    def _empty(self, vm: DeclaredVm, spec: DiskSpec) -> DeclaredDisk:
        if spec.size is None:
            raise InvalidInput("size", None, f"the new disk {spec.disk_id} needs a size, or an image")
        system = self._known.datastore_of(vm)
        is_swap = spec.fs == "swap"
        self._transfers.require(None, system, "mkswap" if is_swap else "mkimage")
        image_format = spec.format or "raw"
        if not is_swap:
            supported = settings_of(system.attributes).supported_fs
            check_datablock(format=image_format, size_mb=spec.size, fs=spec.fs, supported=supported)
        return DeclaredDisk(
            vm.id,
            spec.disk_id,
            "swap" if is_swap else "fs",
            image_format,
            spec.size,
            fs=spec.fs,
            state=NEW,
        )

    def _of_image(self, vm: DeclaredVm, spec: DiskSpec, image: Image) -> DeclaredDisk:
        if image.type not in DISK_TYPES or image.format not in FORMATS:
            remedy = "; the module virtiofs_export gives it to a domain" if image.type == "filesystem" else ""
            raise UnsupportedAction(
                f"image: {image.name!r} is of type {image.type!r} and format {image.format!r}, and disks are of images "
                f"of type {', '.join(DISK_TYPES)} and format {' or '.join(FORMATS)}{remedy}."
            )
        system = self._known.datastore_of(vm)
        self._transfers.require(image, system, "ln" if image.persistent else "clone")
        size = image.size_mb if spec.size is None else spec.size
        if size < image.size_mb:
            accepted = f"the image {image.name!r} has {image.size_mb} MiB, and a disk of it is as large or larger"
            raise InvalidInput("size", f"{size}M", accepted)
        if size > image.size_mb:
            self._transfers.require(image, system, "resize")
        datastore = self._known.datastore_of(image)
        if not self._has_data(image, datastore):
            raise NotFound(
                f"The data of the image {image.name!r} is not at {image.path}: make it again with the module image "
                "first."
            )
        return DeclaredDisk(
            vm.id,
            spec.disk_id,
            "cdrom" if image.type == "cdrom" else "file",
            image.format,
            size,
            image_id=image.id,
            persistent=image.persistent,
            linked=self._is_linked(spec, image, system),
            state=NEW,
        )

    def _is_linked(self, spec: DiskSpec, image: Image, system: Datastore) -> bool:
        """Return whether a new disk is an overlay of its image.

        :raises InvalidInput: the disk can't be what ``clone`` requests.
        """
        if image.persistent:
            if spec.linked is not None:
                value = "linked" if spec.linked else "full"
                raise InvalidInput("clone", value, f"the image {image.name!r} is persistent, so the disk is no clone")
            return False
        can_link = image.format == "qcow2" and self._transfers.info(image, system).has_overlays
        if spec.linked and not can_link:
            driver = self._transfers.info(image, system).name
            raise InvalidInput(
                "clone",
                "linked",
                f"full is expected: the image {image.name!r} is {image.format}, its transfer driver is {driver}, and a "
                "linked clone needs a qcow2 image on storage that the hosts share",
            )
        return can_link if spec.linked is None else spec.linked


def data_size(image: Image, place: Place) -> int:
    """Return the bytes that a copy of an image certainly takes; 0 if they aren't known here.

    :arg place: the directory of the VM.
    """
    try:
        with open(image.path, "rb") as file:
            found = os.fstat(file.fileno())
            directory = os.path.dirname(os.path.dirname(place.path))
            if is_this_host(place.host) and found.st_dev == os.stat(directory).st_dev:
                opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    return found.st_blocks * 512 if stores_all(file.fileno(), opened) else 0
                finally:
                    os.close(opened)
    except OSError:
        return 0
    return found.st_blocks * 512


def check_recorded(known: KnownVms, disk: DeclaredDisk, spec: DiskSpec) -> None:
    """Refuse a disk that was created otherwise than is desired.

    :raises Conflict: naming the option.
    """
    image = known.image_of(disk)
    wanted = None if spec.image is None else known.find_image(spec.image)
    if spec.image is not None and (wanted is None or image is None or wanted.id != image.id):
        _refuse(disk, "image", "an empty disk" if image is None else f"made of the image {image.name!r}", spec.image)
    if spec.format not in (None, disk.format):
        _refuse(disk, "format", f"made as {disk.format}", spec.format)
    current = "swap" if disk.type == "swap" else disk.fs
    if spec.fs not in (None, current):
        _refuse(disk, "fs", f"made with {current}" if current else "made without a file system", spec.fs)
    if spec.linked not in (None, disk.linked) and not disk.persistent:
        _refuse(disk, "clone", f"a {'linked' if disk.linked else 'full'} clone", "linked" if spec.linked else "full")


def _refuse(disk: DeclaredDisk, option: str, current: str, wanted: str | None) -> None:
    raise Conflict(
        f"{option}: the disk {disk.disk_id} is {current}, which can't change to {wanted!r}; to lose all that the disk "
        "holds, remove it with state=absent first."
    )


__all__ = ["DISK_TYPES", "NewDisks", "check_recorded", "data_size"]
