# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalog's images while many of them are planned. They are read once, and each planned step changes them in
memory.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable

from ..._catalog.attachments import ATTACHMENTS
from ..._catalog.catalog import Catalog
from ..._catalog.datastores import DATASTORES
from ..._catalog.images import IMAGES
from ..._catalog.vms import DiskOfImage, disks_of
from ..._core.errors import Conflict, DependencyNotFound
from ..._driver.datastore.base import DatastoreDriver
from ..._model.attachment import Attachment
from ..._model.datastore import Datastore
from ..._model.image import Image
from ..datastore.desired import driver_of


class KnownImages:
    """The images with the changes that are planned so far.

    :arg timeout: seconds for one question to a file system.
    :arg may_mount: see :func:`driver_of`.
    :arg log: a callable that gets each log line of a driver.
    """

    def __init__(
        self, catalog: Catalog, *, timeout: float, may_mount: bool = False, log: Callable[[str], object]
    ) -> None:
        self.catalog = catalog
        self.path = catalog.path
        self._timeout = timeout
        self._may_mount = may_mount
        self._log = log
        self.next_id = catalog.next_id("image")
        self._datastores = DATASTORES.rows(catalog)
        self._by_id = {image.id: image for image in IMAGES.rows(catalog)}
        self._by_name = {image.name: image for image in self._by_id.values()}
        self._at = Counter(image.path for image in self._by_id.values())
        self._by_tag = {image.mount_tag: image for image in self._by_id.values() if image.mount_tag is not None}
        self._attachments: dict[int, list[Attachment]] = defaultdict(list)
        for attachment in ATTACHMENTS.rows(catalog):
            self._attachments[attachment.image_id].append(attachment)
        self._disks: dict[int, list[DiskOfImage]] = defaultdict(list)
        for used in disks_of(catalog):
            self._disks[used.image_id].append(used)
        self._drivers: dict[int, DatastoreDriver] = {}
        self._stored: dict[int, frozenset[str]] = {}
        # The recorded paths before any change is planned.
        self._recorded: dict[int, set[str]] = defaultdict(set)
        for image in self._by_id.values():
            self._recorded[image.datastore_id].add(image.path)

    def find(self, reference: str | int) -> Image | None:
        """Return the image with this id or this name. Text of digits only is an id, because no name has digits only."""
        text = str(reference)
        if re.fullmatch("[0-9]+", text) is None:
            return self._by_name.get(text)
        # The largest id of SQLite has 19 digits. Python refuses to convert thousands of digits.
        return self._by_id.get(int(text)) if len(text) < 20 else None

    def name_of(self, image_id: int) -> str | None:
        """Return the name that an image will have; ``None`` without an image with this id."""
        image = self._by_id.get(image_id)
        return None if image is None else image.name

    def source(self, reference: str) -> Image:
        """Return the image to clone.

        :raises DependencyNotFound: the image is missing.
        """
        found = self.find(reference)
        if found is None:
            raise DependencyNotFound(f"clone_from: there is no image {reference!r} in the catalog.")
        return found

    def is_at(self, path: str) -> bool:
        """Return whether the catalog has an image with its data at ``path``.

        Two images have the same data only in a catalog that was edited by hand.
        """
        return self._at[path] > 0

    def datastore(self, reference: str | int) -> Datastore | None:
        column = "id" if str(reference).isdigit() else "name"
        return next((one for one in self._datastores if str(getattr(one, column)) == str(reference)), None)

    def driver(self, datastore: Datastore) -> DatastoreDriver:
        if datastore.id not in self._drivers:
            self._drivers[datastore.id] = driver_of(
                self.catalog,
                datastore,
                self._timeout,
                datastores=self._datastores,
                may_mount=self._may_mount,
                log=self._log,
            )
        return self._drivers[datastore.id]

    def has_data(self, image: Image, datastore: Datastore) -> bool:
        """Return whether the data of an image exists. The driver must store data. The datastore is read once.

        :raises VmstoreError: the datastore can't be read.
        """
        return self.has_data_at(image.path, datastore)

    def has_data_at(self, path: str, datastore: Datastore) -> bool:
        """Return whether data exists at ``path``, like :meth:`has_data`, for an image that isn't recorded yet."""
        return path in self._data(datastore)

    def check_mounted(self, datastore: Datastore) -> None:
        """Refuse to create data where the data of all recorded images is missing. That is the state of a mount point
        without its mount.

        :raises Conflict: the datastore has images, and the data of all of them is missing.
        :raises VmstoreError: the datastore can't be read.
        """
        recorded = self._recorded[datastore.id]
        if recorded and recorded.isdisjoint(self._data(datastore)):
            seen = (
                f"The data of all images in the datastore {datastore.name!r} ({len(recorded)}) is missing from "
                f"{datastore.base_path}"
            )
            raise Conflict(
                f"{seen}: is its file system mounted? If the data is lost, force: true makes an image there "
                "nevertheless."
            )

    def _data(self, datastore: Datastore) -> frozenset[str]:
        if datastore.id not in self._stored:
            self._stored[datastore.id] = self.driver(datastore).stored()
        return self._stored[datastore.id]

    def put(self, image: Image) -> None:
        """Record the plan for a new or changed image.

        :raises Conflict: another image has its name or its mount tag.
        """
        other = self._by_name.get(image.name)
        if other is not None and other.id != image.id:
            raise Conflict(f"name: {image.name!r} belongs to the image {other.id}.")
        other = None if image.mount_tag is None else self._by_tag.get(image.mount_tag)
        if other is not None and other.id != image.id:
            raise Conflict(
                f"mount_tag: {image.mount_tag!r} belongs to the image {other.name!r}, and two images can't have one "
                "mount tag."
            )
        self.remove(image.id)
        self._by_id[image.id] = self._by_name[image.name] = image
        self._at[image.path] += 1
        if image.mount_tag is not None:
            self._by_tag[image.mount_tag] = image
        self.next_id = max(self.next_id, image.id + 1)

    def remove(self, image_id: int) -> None:
        image = self._by_id.pop(image_id, None)
        if image is not None:
            del self._by_name[image.name]
            self._at[image.path] -= 1
            if image.mount_tag is not None:
                self._by_tag.pop(image.mount_tag, None)

    def data_users(self, image: Image, *, running: bool) -> str:
        """Return the actual users of an image's data as text; empty without users.

        :arg running: as of :meth:`DatastoreDriver.users`.
        :raises VmstoreError: the datastore can't be read.
        """
        datastore = self.datastore(image.datastore_id)
        return "" if datastore is None else ", ".join(self.driver(datastore).users(image.path, running=running))

    def attachments(self, image: Image) -> list[Attachment]:
        return self._attachments[image.id]

    def disks(self, image: Image) -> list[DiskOfImage]:
        """Return the disks of VMs that are the image, or were cloned from the image."""
        return self._disks[image.id]


__all__ = ["KnownImages"]
