# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The datastore and the type of an image, as recorded or, for a new image, as desired."""

from __future__ import annotations

from ..._core.errors import Conflict, DependencyNotFound, InvalidInput, NotFound, UnsupportedAction
from ..._driver.datastore.base import DatastoreDriver
from ..._driver.datastore.registry import DATASTORE_DRIVERS, driver_class
from ..._model.datastore import Datastore
from ..._model.image import Image
from .known import KnownImages
from .options import ImageSpec

#: The types of images in each type of datastore.
IMAGE_TYPES = {"image": ("os", "cdrom", "datablock", "filesystem"), "file": ("kernel", "ramdisk", "context")}


def datastore_of(known: KnownImages, spec: ImageSpec, found: Image | None) -> Datastore:
    """Return the datastore of an image.

    :arg found: the recorded image; ``None`` for a new one.
    :raises VmstoreError: the catalog lacks the datastore, or the image is in another datastore.
    """
    if found is None:
        if spec.id is not None:
            raise NotFound(
                f"id: there is no image {spec.id} in the catalog {known.path}, and a new one gets its id by itself."
            )
        if spec.datastore is None:
            raise InvalidInput("datastore", None, "a new image needs one")
    reference = found.datastore_id if spec.datastore is None and found is not None else str(spec.datastore)
    datastore = known.datastore(reference)
    if datastore is None:
        raise DependencyNotFound(f"datastore: there is no datastore {reference!r} in the catalog {known.path}.")
    if found is not None and found.datastore_id != datastore.id:
        old = known.datastore(found.datastore_id)
        raise Conflict(
            f"datastore: the image {found.name!r} is in the datastore {old and old.name!r} and can't move to "
            f"{datastore.name!r}."
        )
    return datastore


def type_of(known: KnownImages, spec: ImageSpec, found: Image | None, driver: DatastoreDriver) -> str:
    """Return the type of an image.

    :arg found: the recorded image; ``None`` for a new one.
    :raises Conflict: ``spec`` has another type; :raises InvalidInput: a new image needs a type.
    :raises UnsupportedAction: the datastore stores no images of the type.
    """
    if found is not None:
        if spec.type not in (None, found.type):
            raise Conflict(
                f"type: the image {found.name!r} was registered as {found.type!r}, which can't change to {spec.type!r}."
            )
        return found.type
    datastore = driver.datastore
    served = sorted(driver.info.image_types.intersection(IMAGE_TYPES.get(datastore.type, ())))
    cloned = known.find(spec.data.clone_from) if spec.data.clone_from else None
    kind = spec.type or (cloned.type if cloned else served[0] if len(served) == 1 else None)
    if kind is None:
        if spec.data.clone_from is not None:
            known.source(spec.data.clone_from)  # the call raises, because the datastore has no type of images
        raise InvalidInput(
            "type",
            None,
            f"a new image in the datastore {datastore.name!r} needs one: "
            f"{', '.join(served) or 'but it takes no images'}",
        )
    if kind not in served:
        able = [name for name in DATASTORE_DRIVERS if kind in driver_class(name).info.image_types]
        fitting = next(name for name, kinds in IMAGE_TYPES.items() if kind in kinds)
        raise UnsupportedAction(
            f"datastore: images of type {kind!r} are not supported by the {driver.info.name} driver of "
            f"{datastore.name!r}, a datastore of type {datastore.type!r}; use a datastore of type {fitting!r} with the "
            f"driver {' or '.join(able)}."
        )
    return kind


__all__ = ["IMAGE_TYPES", "datastore_of", "type_of"]
