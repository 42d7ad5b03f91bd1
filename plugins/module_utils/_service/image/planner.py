# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The planning of one image after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..._core import records
from ..._core.errors import Conflict, InvalidInput, NotFound
from ..._core.plan import Preparation
from ..._driver.datastore.base import CopiedImage, CopyOptions, DatastoreDriver
from ..._model.image import Image
from .actions import ImageActions
from .data import DISK_TYPES, EMPTY_TYPES, ImageData, has_to_grow
from .known import KnownImages
from .options import MOUNT_OPTIONS, DataSpec, ImageSpec
from .placing import IMAGE_TYPES, datastore_of, type_of
from .saved_disk import refuse_other_types

#: Options of the data that an image which is a directory lacks.
DATA_OPTIONS = ("checksum", "ca_path", "driver", "format", "fs", "sparse", "verify")


class Findings:
    """The results of slow checks of images, by the number of the image in the list. They outlive a plan."""

    def __init__(self) -> None:
        self._directories: dict[int, tuple[object, CopiedImage]] = {}
        self._damage: dict[int, str | None] = {}

    def has_directory(self, number: int, driver: DatastoreDriver) -> bool:
        return number in self._directories and self._directories[number][0] == _rules_of(driver)

    def directory(self, number: int, path: str, driver: DatastoreDriver, kind: str) -> CopiedImage:
        """Return the directory as an image.

        :raises VmstoreError: the directory can't be an image.
        """
        if not self.has_directory(number, driver):
            self._directories[number] = _rules_of(driver), driver.cp(path, CopyOptions(kind))
        return self._directories[number][1]

    def damage(self, number: int, image: Image, driver: DatastoreDriver) -> str | None:
        """Return the damage of an image's data; ``None`` without any. The check reads all of the data."""
        if number not in self._damage:
            checksum = None if image.persistent else image.checksum
            self._damage[number] = driver.damage(image.path, image.format, checksum)
        return self._damage[number]


def _rules_of(driver: DatastoreDriver) -> object:
    return driver.datastore, driver.protected


class ImagePlanner:
    """Plan the images of a list. Each image takes the plans for the images before into account."""

    def __init__(
        self,
        specs: Sequence[ImageSpec],
        known: KnownImages,
        data: ImageData,
        findings: Findings,
        actions: ImageActions,
    ) -> None:
        self._specs = specs
        self._known = known
        self._data = data
        self._findings = findings
        self._actions = actions
        #: The number of each planned image in the list, by the id of the image.
        self._number_of: dict[int, int] = {}
        #: The ids of datastores whose directories were measured together.
        self._looked: set[int] = set()

    def plan(self, number: int) -> dict[str, object] | None:
        """Return the image after the plan, for the result.

        :raises VmstoreError: the desired state can't be reached.
        """
        spec = self._specs[number]
        found = self._known.find(spec.reference)
        if found is not None:
            self._check_once(number, found)
        if spec.absent:
            if found is not None:
                self._actions.check_unused(found, "removed", spec.force)
                self._actions.check_data_unused(found, "removed", spec.force)
                self._actions.remove(found)
            return None
        datastore = datastore_of(self._known, spec, found)
        driver = self._known.driver(datastore)
        kind = type_of(self._known, spec, found, driver)
        plan = self._plan_data if driver.info.stores_data else self._plan_directory
        image, size_mb = plan(number, spec, found, driver, kind)
        self._check_once(number, image)
        self._known.put(image)
        return {
            **image.as_dict(self._known.name_of),
            "datastore": datastore.name,
            "path": image.path or None,
            "format": image.format or None,
            "size_mb": size_mb,
        }

    def _check_once(self, number: int, image: Image) -> None:
        if self._number_of.setdefault(image.id, number) != number:
            raise Conflict(f"The image {image.name!r} is in the list more than once.")

    # Images that are directories

    def _plan_directory(
        self, number: int, spec: ImageSpec, found: Image | None, driver: DatastoreDriver, kind: str
    ) -> tuple[Image, int]:
        if spec.data.clone_from is not None:
            driver.require("clone")
        if spec.data.from_disk is not None:
            refuse_other_types(kind, DISK_TYPES)
        if spec.data.size is not None:
            driver.require("mkfs" if found is None else "resize")
        _check_directory_options(spec.data, kind)
        looked = None if spec.data.origin is None else self._look(number, spec.data.origin, driver, kind)
        if found is None:
            if looked is None:
                raise InvalidInput("path", None, "a new image needs one")
            new = self._known.next_id
            values = {
                "persistent": False,
                "read_only": False,
                "mount_tag": f"one-{new}",
                "mount_point": f"/mnt/one-fs-{new}",
                **spec.changes,
            }
            wanted = Image(new, str(spec.name), driver.datastore.id, kind, looked.source, looked.size_mb, **values)
            self._actions.create(wanted)
        else:
            wanted = self._update_directory(spec, found, looked)
        return wanted, wanted.size_mb if looked is None else looked.size_mb

    def _update_directory(self, spec: ImageSpec, found: Image, looked: CopiedImage | None) -> Image:
        if looked is not None and looked.source != found.path:
            raise Conflict(
                f"path: the image {found.name!r} was registered with {found.path!r}, which can't change to "
                f"{looked.source!r}."
            )
        wanted = records.replace(found, name=spec.name or found.name, **spec.changes)
        if wanted != found:
            self._actions.check_unused(found, "changed")
            wanted = wanted if looked is None else records.replace(wanted, size_mb=looked.size_mb)
            self._actions.update("update image", found, wanted)
        return wanted

    def _look(self, number: int, path: str, driver: DatastoreDriver, kind: str) -> CopiedImage:
        """Measure a directory, together with the directories of all following images in the same datastore."""
        if not self._findings.has_directory(number, driver) and driver.datastore.id not in self._looked:
            self._looked.add(driver.datastore.id)
            alike = [
                spec.data.origin
                for spec in self._specs[number:]
                if spec.datastore == self._specs[number].datastore and not spec.absent
            ]
            if len(alike) > 1:
                driver.look_ahead([path for path in alike if path is not None and path.startswith("/")])
        return self._findings.directory(number, path, driver, kind)

    # Images that are data in the datastore

    def _plan_data(
        self, number: int, spec: ImageSpec, found: Image | None, driver: DatastoreDriver, kind: str
    ) -> tuple[Image, int | None]:
        _check_data_options(spec, kind)
        if found is None:
            return self._create_data(number, spec, driver, kind)
        spec = records.replace(spec, data=self._data.with_known_checksum(number, spec.data, found))
        difference = self._data.find_difference(spec.data, found)
        is_lost = not self._known.has_data(found, driver.datastore)
        if is_lost and spec.data == DataSpec():
            remedy = "give path, url, clone_from, from_disk or size to make it again, or remove the image"
            raise NotFound(f"The data of the image {found.name!r} is not at {found.path}: {remedy}.")
        damage = self._findings.damage(number, found, driver) if spec.remake and not is_lost else None
        if is_lost or difference or damage:
            return self._replace_data(number, spec, found, driver, is_lost, damage, difference)
        return self._update_data(number, spec, found, driver)

    def _create_data(
        self, number: int, spec: ImageSpec, driver: DatastoreDriver, kind: str
    ) -> tuple[Image, int | None]:
        if not spec.force:
            self._known.check_mounted(driver.datastore)
        values = {"persistent": False, "read_only": kind == "cdrom", **spec.changes}
        empty = Image(self._known.next_id, str(spec.name), driver.datastore.id, kind, "", 0, **values)
        wanted, prepare = self._data.plan(number, spec.data, empty, driver)
        self._actions.create(wanted, hidden=_hidden(spec.data), prepare=prepare)
        return wanted, wanted.size_mb or None

    def _replace_data(
        self,
        number: int,
        spec: ImageSpec,
        found: Image,
        driver: DatastoreDriver,
        is_lost: bool,
        damage: str | None,
        difference: str,
    ) -> tuple[Image, int | None]:
        if not spec.force:
            self._check_replaceable(found, driver, is_lost, damage, difference)
        self._actions.check_unused(found, "replaced", spec.force)
        self._actions.check_data_unused(found, "replaced", spec.force)
        wanted = records.replace(found, name=spec.name or found.name, **spec.changes)
        wanted, prepare = self._data.plan(number, _complete(spec.data, found), wanted, driver)
        name = "make lost data of image" if is_lost else "remake data of image" if damage else "replace data of image"
        outdated = None if is_lost else driver
        self._actions.update(name, found, wanted, hidden=_hidden(spec.data), prepare=prepare, outdated=outdated)
        return wanted, wanted.size_mb or None

    def _check_replaceable(
        self, found: Image, driver: DatastoreDriver, is_lost: bool, damage: str | None, difference: str
    ) -> None:
        """Refuse a replacement that needs ``force``.

        :raises Conflict: the replacement would lose data.
        """
        if not is_lost and not damage:
            raise Conflict(difference)
        if is_lost:
            self._known.check_mounted(driver.datastore)
        if found.persistent:
            where = f"is damaged ({damage})" if damage else f"is not at {found.path}"
            raise Conflict(
                f"The data of the persistent image {found.name!r} {where}, and with it all that domains wrote there: "
                "restore it from a backup, or give force: true to make the image anew without that."
            )

    def _update_data(
        self, number: int, spec: ImageSpec, found: Image, driver: DatastoreDriver
    ) -> tuple[Image, int | None]:
        wanted = records.replace(found, name=spec.name or found.name, **spec.changes)
        if wanted != found:
            self._actions.check_unused(found, "changed")
        name = "update image"
        prepare: tuple[Preparation, ...] = ()
        if has_to_grow(spec.data, found):
            self._actions.check_unused(found, "grown")
            self._actions.check_data_unused(found, "grown", True)
            name = "grow image"
            wanted, prepare = self._data.grow(number, spec.data, wanted, driver)
        wanted = self._data.with_new_origin(spec.data, found, wanted)
        if wanted != found:
            self._actions.update(name, found, wanted, prepare=prepare)
        return wanted, wanted.size_mb


def _check_directory_options(spec: DataSpec, kind: str) -> None:
    """Refuse the options that an image which is a directory lacks.

    :raises InvalidInput: one of these options is given.
    """
    given: Mapping[str, object] = {
        **{name: getattr(spec, name) for name in DATA_OPTIONS},
        "headers": "..." if spec.headers else None,
    }
    if spec.checksum_list is not None:
        given = {**given, "checksum": "..."}
    for name, value in given.items():
        if value is not None:
            raise InvalidInput(name, value, f"an image of type {kind} is a directory, which stays as it is")
    if spec.origin != spec.redacted or "://" in (spec.origin or ""):
        raise InvalidInput("url", spec.redacted, f"an image of type {kind} is a directory, which is given as path")


def _check_data_options(spec: ImageSpec, kind: str) -> None:
    """Refuse the options that an image of this type lacks.

    :raises InvalidInput: one of these options is given.
    """
    for name in MOUNT_OPTIONS:
        if name in spec.changes:
            raise InvalidInput(
                name, spec.changes[name], f"only images of type filesystem are mounted, and this is one of type {kind}"
            )
    if kind in IMAGE_TYPES["file"] and spec.changes.get("persistent"):
        raise InvalidInput("persistent", True, f"images of type {kind} are never changed by a domain")
    if kind not in EMPTY_TYPES and spec.data.driver is not None:
        raise InvalidInput("driver", spec.data.driver, f"images of type {kind} are stored as they are")
    if kind not in EMPTY_TYPES and spec.data.format == "qcow2":
        raise InvalidInput("format", "qcow2", f"images of type {kind} are stored as they are, and so are raw")


def _complete(spec: DataSpec, found: Image) -> DataSpec:
    """Return ``spec`` for a new empty image in place of ``found``. A value that isn't given is the old one."""
    given = (spec.size, spec.format, spec.fs)
    if found.origin is not None or given == (None, None, None):
        return spec
    return records.replace(
        spec, size=spec.size or found.size_mb, format=spec.format or found.format, fs=spec.fs or found.fs
    )


def _hidden(spec: DataSpec) -> tuple[str, ...]:
    """Return the columns that are unknown before the data exists."""
    return ("path",) if spec.size is not None else ("path", "format", "size_mb", "checksum")


__all__ = ["Findings", "ImagePlanner"]
