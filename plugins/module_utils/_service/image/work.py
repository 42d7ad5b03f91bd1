# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The base of services that work on the data of an image for hours. They hold a lock of the image, but no
transaction of the catalog.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..._catalog.attachments import ATTACHMENTS
from ..._catalog.catalog import Catalog, locate_catalog
from ..._catalog.datastores import DATASTORES
from ..._catalog.images import IMAGES
from ..._catalog.reserve import LOCK_SUFFIX
from ..._catalog.vms import DiskOfImage, disks_of
from ..._core.errors import CatalogFailed, Conflict, DependencyNotFound, NotFound
from ..._core.locks import locked
from ..._core.plan import Plan
from ..._driver.datastore.base import DatastoreDriver
from ..._model.image import Image
from ..catalog import CatalogService
from ..datastore.desired import driver_of


class ImageWorkService(CatalogService):
    """Plan work on the data of one image, which the option ``image`` names."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options["catalog"])
        self.options = options
        self.reference: str | int = options["image"]

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        self.reference = self.image().id
        with image_lock(self.path, self.reference):
            self._close()  # the lock may have waited for another run that changed the catalog
            yield

    @contextlib.contextmanager
    def recording(self, plan: Plan) -> Iterator[Plan]:
        """Open no transaction. Each action has its own, because the work in between takes too long for one."""
        yield plan

    def image(self) -> Image:
        """Return the image that the option ``image`` names.

        :raises DependencyNotFound: the image is missing.
        """
        found = IMAGES.find(self.catalog, self.reference)
        if found is None:
            raise DependencyNotFound(f"image: there is no image {self.options['image']!r} in the catalog {self.path}.")
        return found

    def driver(self, image: Image) -> DatastoreDriver:
        datastore = DATASTORES.find(self.catalog, image.datastore_id)
        if datastore is None:
            raise CatalogFailed(
                f"The catalog {self.path} has no datastore {image.datastore_id} of the image {image.name!r}, so "
                "restore it from a backup."
            )
        return driver_of(self.catalog, datastore, may_mount=not self.is_dry_run, log=self.log)


def check_snapshot(image: Image, snapshot: int, snapshots: Sequence[int]) -> None:
    """Require an existing snapshot.

    :raises NotFound: ``snapshot`` isn't one of the image's ``snapshots``.
    """
    if snapshot not in snapshots:
        known = f"it has {', '.join(map(str, snapshots))}" if snapshots else "it has none"
        raise NotFound(f"snapshot: the image {image.name!r} has no snapshot {snapshot}; {known}.")


def users_of(catalog: Catalog, image: Image) -> str:
    """Return the domains that use an image, and the disks that need its data, as the end of a sentence; empty without
    any.
    """
    disks = [one for one in disks_of(catalog, image.id) if one.disk.needs_image]
    return ", ".join(map(str, [*ATTACHMENTS.rows(catalog, image_id=image.id), *disks]))


def check_disks(image: Image, disks: Sequence[DiskOfImage], verb: str) -> None:
    """Refuse to change an image that disks of VMs need. No option allows it, because the disks would be lost.

    :arg verb: the change, after "can't".
    :raises Conflict: there is such a disk.
    """
    if disks:
        raise Conflict(
            f"The image {image.name!r} can't {verb} while it is used by {', '.join(map(str, disks))}: remove the disk "
            "with the module vm_disk first."
        )


@contextlib.contextmanager
def image_lock(catalog: str, image_id: int) -> Iterator[None]:
    """Lock the data of one image.

    All images of a catalog share one lock file, in which each has its own byte. The lock file is beside the catalog:
    the catalog is on a local file system, where locks are dependable, and a datastore holds nothing but images.

    :raises LockTimeout: another program works on the image.
    """
    place = locate_catalog(catalog)
    # A new file belongs to the owner of the catalog's directory, like the catalog itself.
    with locked(
        place.path + LOCK_SUFFIX,
        style=lambda descriptor, how: fcntl.lockf(descriptor, how, 1, image_id),
        identity=place.owner,
    ):
        yield


__all__ = ["ImageWorkService", "check_disks", "check_snapshot", "image_lock", "users_of"]
