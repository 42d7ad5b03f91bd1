# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Desired images of type filesystem: directories of hosts (spec: virtiofs-datastore, "Usage" and "Considerations")."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from .._catalog.datastores import Datastore, all_datastores, find_datastore
from .._catalog.images import Image, delete_image, find_image, find_images, image_with_tag, insert_image, update_image
from .._catalog.vm_disks import find_vm_disks
from .._core.arguments import ArgumentSpec
from .._core.errors import Conflict, InvalidInput, NotFound, UnsupportedAction
from .._core.idmap import ID_MAP_OPTION, read_id_maps
from .._core.mount_names import check_mount_point, check_mount_tag
from .._core.names import check_name
from .._core.plan import Action, Plan
from .._driver.base import TIMEOUT, CopiedImage, CopyOptions, DatastoreDriver
from .._driver.registry import DATASTORE_DRIVERS
from .catalog import CATALOG_OPTIONS, CatalogService, reading
from .datastore import check_timeout, driver_of
from .image_attachment import attachments

IMAGE_SPEC = ArgumentSpec(
    {
        "id": {"type": "int"},
        "name": {"type": "str"},
        "datastore": {"type": "str"},
        "type": {"type": "str", "choices": ["filesystem"]},
        "path": {"type": "str"},
        "persistent": {"type": "bool"},
        "read_only": {"type": "bool"},
        "mount_point": {"type": "str"},
        "mount_tag": {"type": "str"},
        "uid_map": ID_MAP_OPTION,
        "gid_map": ID_MAP_OPTION,
        "size": {"type": "int"},
        "clone_of": {"type": "str"},
        "timeout": {"type": "int", "default": TIMEOUT},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    },
    required_one_of=[["id", "name"]],
).merge(CATALOG_OPTIONS)

IMAGE_INFO_SPEC = ArgumentSpec({"name": {"type": "str"}, "datastore": {"type": "str"}}).merge(CATALOG_OPTIONS)


class ImageService(CatalogService):
    """Plans one image of the catalog. An option that isn't given stays as it is, or is the default of a new image."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options["catalog"])
        self.options = options
        self.id: int | None = options["id"]
        self.name: str | None = options["name"]
        self.wish = read_wish(options)
        # What was found at the path, and under which rules: it is looked at once, before the transaction.
        self._copied: tuple[object, CopiedImage] | None = None
        check_timeout(options["timeout"])

    def plan(self) -> Plan:
        plan = Plan()
        found = find_image(self.catalog, self.name if self.id is None else self.id)
        if self.options["state"] == "absent":
            if found is not None:
                plan.actions.append(self._removal(found))
            return plan
        datastore = self._datastore(found)
        driver = driver_of(self.catalog, datastore, self.options["timeout"])
        self._refuse_unsupported(driver, found)
        copied = None if self.options["path"] is None else self._copy(driver)
        wanted = self._new(datastore, copied) if found is None else self._updated(found, copied)
        self._check_unique(wanted)
        if found is None:
            plan.actions.append(Action("create image", wanted.name, None, wanted.as_dict(), functools.partial(self._insert, wanted)))
        elif wanted != found:
            self._check_unused(found, "changed")
            wanted = wanted if copied is None else dataclasses.replace(wanted, size_mb=copied.size_mb)
            plan.actions.append(Action("update image", wanted.name, found.as_dict(), wanted.as_dict(), functools.partial(update_image, self.catalog, wanted)))
        current = wanted.size_mb if copied is None else copied.size_mb
        plan.result["image"] = {**wanted.as_dict(), "datastore": datastore.name, "size_mb": current}
        return plan

    def _datastore(self, found: Image | None) -> Datastore:
        reference = self.options["datastore"]
        if found is None:
            if self.id is not None:
                raise NotFound(f"id: there is no image {self.id} in the catalog {self.path}, and a new one gets its id by itself.")
            if reference is None:
                raise InvalidInput("datastore", None, "a new image needs one")
        datastore = find_datastore(self.catalog, found.datastore_id if reference is None and found is not None else reference)
        if datastore is None:
            raise NotFound(f"datastore: there is no datastore {reference!r} in the catalog {self.path}.")
        if found is not None and found.datastore_id != datastore.id:
            old = find_datastore(self.catalog, found.datastore_id)
            raise Conflict(f"datastore: the image {found.name!r} is in the datastore {old and old.name!r} and can't move to {datastore.name!r}.")
        return datastore

    def _refuse_unsupported(self, driver: DatastoreDriver, found: Image | None) -> None:
        kind = "filesystem"
        if kind not in driver.info.image_types:
            able = ", ".join(name for name, other in DATASTORE_DRIVERS.items() if kind in other.info.image_types)
            unable = f"the {driver.info.name} driver of {driver.datastore.name!r}"
            raise UnsupportedAction(f"datastore: images of type {kind!r} are not supported by {unable}; use one of {able}.")
        if self.options["clone_of"] is not None:
            driver.require("clone")
        if self.options["size"] is not None:
            driver.require("mkfs" if found is None else "resize")

    def _copy(self, driver: DatastoreDriver) -> CopiedImage:
        rules = (driver.datastore, driver.protected)
        if self._copied is None or self._copied[0] != rules:
            self._copied = (rules, driver.cp(self.options["path"], CopyOptions("filesystem")))
        return self._copied[1]

    def _new(self, datastore: Datastore, copied: CopiedImage | None) -> Image:
        if copied is None:
            raise InvalidInput("path", None, "a new image needs one")
        number = self.catalog.next_id("image")
        values = {"persistent": False, "read_only": False, "mount_tag": f"one-{number}", "mount_point": f"/mnt/one-fs-{number}", **self.wish}
        return Image(number, str(self.name), datastore.id, "filesystem", copied.source, copied.size_mb, **values)

    def _updated(self, found: Image, copied: CopiedImage | None) -> Image:
        if copied is not None and copied.source != found.path:
            raise Conflict(f"path: the image {found.name!r} was registered with {found.path!r}, which can't change to {copied.source!r}.")
        return dataclasses.replace(found, name=self.name or found.name, **self.wish)

    def _check_unique(self, wanted: Image) -> None:
        other = find_image(self.catalog, wanted.name)
        if other is not None and other.id != wanted.id:
            raise Conflict(f"name: {wanted.name!r} belongs to the image {other.id}.")
        other = image_with_tag(self.catalog, wanted.mount_tag)
        if other is not None and other.id != wanted.id:
            raise Conflict(f"mount_tag: {wanted.mount_tag!r} belongs to the image {other.name!r}, and two images can't have one mount tag.")

    def _check_unused(self, image: Image, verb: str) -> None:
        users = [f"the domain {disk.domain!r} on the host {disk.host!r}" for disk in find_vm_disks(self.catalog, image_id=image.id)]
        if users:
            raise Conflict(f"The image {image.name!r} can't be {verb} while it is used by {', '.join(users)}.")

    def _insert(self, image: Image) -> None:
        self.catalog.take_id("image")
        insert_image(self.catalog, image)

    def _removal(self, found: Image) -> Action:
        self._check_unused(found, "removed")
        return Action("remove image", found.name, found.as_dict(), None, functools.partial(delete_image, self.catalog, found.id))


def read_wish(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are given and can change, checked one by one, as values of :class:`Image`."""
    if options["name"] is not None:
        check_name("name", options["name"])
    wish = {name: options[name] for name in ("persistent", "read_only") if options[name] is not None}
    if options["mount_point"] is not None:
        wish["mount_point"] = check_mount_point("mount_point", options["mount_point"])
    if options["mount_tag"] is not None:
        wish["mount_tag"] = check_mount_tag("mount_tag", options["mount_tag"])
    for name in ("uid_map", "gid_map"):
        if options[name] is not None:
            wish[name] = read_id_maps(name, options[name])
    return wish


def image_info(options: Mapping[str, Any]) -> dict[str, object]:
    """Every image, those of one datastore, or one by name or id, each with the domains that use it.

    :raises NotFound: there is no such image or datastore.
    """
    with reading(options["catalog"]) as catalog:
        names = {one.id: one.name for one in all_datastores(catalog)}
        found = find_images(catalog)
        if options["datastore"] is not None:
            datastore = find_datastore(catalog, options["datastore"])
            if datastore is None:
                raise NotFound(f"datastore: there is no datastore {options['datastore']!r} in the catalog {options['catalog']}.")
            found = [one for one in found if one.datastore_id == datastore.id]
        if options["name"] is not None:
            one = find_image(catalog, options["name"])
            if one not in found:
                raise NotFound(f"name: there is no image {options['name']!r} in the catalog {options['catalog']}.")
            found = [one]
        return {
            "images": [
                {**one.as_dict(), "datastore": names.get(one.datastore_id), "attachments": [used.as_dict() for used in attachments(catalog, image_id=one.id)]}
                for one in found
            ]
        }


__all__ = ["IMAGE_INFO_SPEC", "IMAGE_SPEC", "ImageService", "image_info", "read_wish"]
