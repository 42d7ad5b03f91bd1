# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Desired images, one or many (spec: storage-driver, virtiofs-datastore "Usage", shared-file-system "Persistent
Images").

The data of new images is made before the transaction that records them, so that nobody waits for a download. What a
killed run has made and not yet recorded is data without an image; the module datastore_check finds it.
"""

from __future__ import annotations

import contextlib
import functools
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from ..._catalog.attachments import ATTACHMENTS
from ..._catalog.images import IMAGES
from ..._core import records
from ..._core.arguments import ArgumentSpec
from ..._core.errors import (
    Conflict,
    DependencyMissing,
    DependencyNotFound,
    FileAccessFailed,
    InvalidInput,
    NoSpace,
    NotFound,
    PartlyDone,
    UnsupportedAction,
    VmstoreError,
    printable,
)
from ..._core.plain import to_plain
from ..._core.plan import Action, Plan, nothing
from ..._core.secrets import withheld
from ..._driver.datastore.base import TIMEOUT, CopiedImage, CopyOptions, DatastoreDriver
from ..._driver.registry import DATASTORE_DRIVERS, driver_class
from ..._model.attachment import Attachment
from ..._model.datastore import Datastore
from ..._model.image import Image
from ..._model.names import LONGEST_NAME
from ..catalog import CATALOG_OPTIONS, CatalogService
from ..datastore.desired import check_timeout
from ..prepared_action import prepared
from .data import EMPTY_TYPES, ImageData, grows
from .known import KnownImages
from .options import IMAGE_OPTIONS, MOUNT_OPTIONS, DataWish, ImageWish, read_wish
from .work import image_lock

IMAGE_SPEC = ArgumentSpec(
    {
        **IMAGE_OPTIONS,
        "images": {"type": "list", "elements": "dict", "options": IMAGE_OPTIONS},
        "timeout": {"type": "int", "default": TIMEOUT},
    },
    required_one_of=[["id", "name", "images"]],
    mutually_exclusive=[["images", name] for name in IMAGE_OPTIONS if "default" not in IMAGE_OPTIONS[name]],
    repeated=["images"],
).merge(CATALOG_OPTIONS)

#: Upper bound of the plans that are made because another program changed the catalog meanwhile.
MOST_ATTEMPTS = 10

#: What each type of datastore holds.
IMAGE_TYPES = {"image": ("os", "cdrom", "datablock", "filesystem"), "file": ("kernel", "ramdisk", "context")}


class ImageService(CatalogService):
    """Plans images of the catalog. An option that isn't given stays as it is, or is the default of a new image.

    Where the data of some of many images can't be made, the others are recorded all the same, as in a loop, and then
    the run fails.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options["catalog"])
        self.many = options["images"] is not None
        self._references: list[str] = []
        self.wishes: list[ImageWish] = []
        for number, one in enumerate(options["images"] if self.many else [options]):
            self._references.append(
                printable(withheld(str(one["name"] if one["id"] is None else one["id"]))[:LONGEST_NAME])
            )
            try:
                self.wishes.append(read_wish(one))
            except InvalidInput as error:
                raise self._located_error(number, error) from error
        self.timeout = options["timeout"]
        check_timeout(self.timeout)
        # What is looked up and made for wishes, by their place in the list, outlives the plan it was made for.
        self._looked: dict[int, tuple[object, CopiedImage]] = {}
        self._damage: dict[int, str | None] = {}
        self._data = ImageData(functools.partial(image_lock, self.path), self._tell)
        #: Whether data is removed before the catalog forgets its image, and the names of images without data for that
        #: reason.
        self._data_first = False
        self._emptied: list[str] = []

    def _tell(self, text: str) -> None:
        self.log(text)  # which is set once this service is made

    def converge(self) -> Plan:
        self._data.look = False
        recorded = False
        try:
            plan = self._recorded()
            recorded = True
        finally:
            self._data.discard(keep=recorded)
        errors = [self._located_error(number, error) for number, error in self._data.failed.items()]
        errors += self._remove_outdated()
        if errors:
            raise PartlyDone(" ".join(map(str, errors)), plan) if plan.changed or len(errors) > 1 else errors[0]
        return plan

    def _remove_outdated(self) -> list[VmstoreError]:
        """Remove data that no image has any more. Where that of one can't be removed, that of the others is."""
        errors: list[VmstoreError] = []
        with contextlib.ExitStack() as batches:
            drivers = {id(driver): driver for driver, _image in self._outdated}.values()
            for driver in drivers:
                batches.enter_context(driver.batch())
            for driver, image in self._outdated:
                if not self._known.is_at(image.path):
                    try:
                        self._remove_data(driver, image)
                    except FileAccessFailed as error:
                        errors.append(error)
            for driver in drivers:
                try:
                    driver.publish()
                except FileAccessFailed as error:
                    errors.append(error)
        return errors

    def _recorded(self) -> Plan:
        """Plan and commit.

        Where the catalog can't be written for lack of space, images make space for their own removal by that of their
        data.
        """
        try:
            return super().converge()
        except NoSpace:
            if not all(wish.absent for wish in self.wishes):
                raise
        self._data_first = True
        try:
            return super().converge()
        except VmstoreError as error:
            if not self._emptied:
                raise
            state = f"The data of {', '.join(map(repr, self._emptied))} is removed, but the catalog {self.path} still has the images"
            raise FileAccessFailed(f"{state}: remove them again when its file system has space. {error}") from error

    def rehearse(self) -> Plan:
        with _ended_by_exception():
            plan = self.plan()
            self._data.make()
        return plan

    def plan(self) -> Plan:
        for _attempt in range(MOST_ATTEMPTS - 1):
            try:
                return self._plan_once()
            except VmstoreError:
                if not self.renewed():
                    raise
        return self._plan_once()

    def _plan_once(self) -> Plan:
        self._known = KnownImages(self.catalog, timeout=self.timeout, log=self.log)
        self._data.start(self._known)
        self._data.look = self._data.look and not self.missing  # nothing is made without a catalog
        self._plan = Plan()
        self._claims: dict[int, int] = {}
        self._ahead: set[int] = set()
        self._outdated: list[tuple[DatastoreDriver, Image]] = []
        images = []
        for number, wish in enumerate(self.wishes):
            if number not in self._data.failed:
                try:
                    images.append(self._plan_image(number, wish))
                except DependencyMissing as error:
                    self.lack(
                        self._plan, error if not self.many else DependencyMissing(self._located(number, str(error)))
                    )
                except VmstoreError as error:
                    raise self._located_error(number, error) from error
        for number, warnings in self._data.warnings.items():
            for warning in warnings:
                self._plan.warn_once(self._located(number, warning))
        if self.missing and self._plan.changed:
            message = (
                f"There is no catalog at {self.path}; the module granary.vmstore.datastore makes it on the front-end."
            )
            self.lack(self._plan, DependencyNotFound(message), is_planned=True)
        if self._data_first and self._plan.changed:
            self._plan.actions[0] = prepared(self._plan.actions[0], self._remove_all_data_first, nothing)
        present = [image for image in images if image is not None]
        if self.many:
            self._plan.result["images"] = present
        elif present:
            self._plan.result["image"] = present[0]
        return self._plan

    def _located(self, number: int, text: str) -> str:
        """The text, and which of many images it is about."""
        return f"images[{number}] ({self._references[number]}): {text}" if self.many else text

    def _located_error(self, number: int, error: VmstoreError) -> VmstoreError:
        return VmstoreError(self._located(number, str(error))) if self.many else error

    def _plan_image(self, number: int, wish: ImageWish) -> dict[str, object] | None:
        """The image as it will be, for the result."""
        found = self._known.find(wish.reference)
        if found is not None:
            self._claim(number, found)
        if wish.absent:
            if found is not None:
                self._plan_removal(found, wish.force)
            return None
        datastore = self._datastore(wish, found)
        driver = self._known.driver(datastore)
        kind = self._kind(wish, found, driver)
        plan = self._plan_data if driver.info.stores_data else self._plan_directory
        image, size_mb = plan(number, wish, found, driver, kind)
        self._claim(number, image)
        self._known.put(image)
        row = image.as_dict(self._known.name_of)
        return {
            **row,
            "datastore": datastore.name,
            "path": image.path or None,
            "format": image.format or None,
            "size_mb": size_mb,
        }

    def _claim(self, number: int, image: Image) -> None:
        if self._claims.setdefault(image.id, number) != number:
            raise Conflict(f"The image {image.name!r} is in the list more than once.")

    def _datastore(self, wish: ImageWish, found: Image | None) -> Datastore:
        if found is None:
            if wish.id is not None:
                raise NotFound(
                    f"id: there is no image {wish.id} in the catalog {self.path}, and a new one gets its id by itself."
                )
            if wish.datastore is None:
                raise InvalidInput("datastore", None, "a new image needs one")
        reference = found.datastore_id if wish.datastore is None and found is not None else str(wish.datastore)
        datastore = self._known.datastore(reference)
        if datastore is None:
            raise DependencyNotFound(f"datastore: there is no datastore {reference!r} in the catalog {self.path}.")
        if found is not None and found.datastore_id != datastore.id:
            old = self._known.datastore(found.datastore_id)
            raise Conflict(
                f"datastore: the image {found.name!r} is in the datastore {old and old.name!r} and can't move to "
                f"{datastore.name!r}."
            )
        return datastore

    def _kind(self, wish: ImageWish, found: Image | None, driver: DatastoreDriver) -> str:
        """The type of the image."""
        if found is not None:
            if wish.type not in (None, found.type):
                raise Conflict(
                    f"type: the image {found.name!r} was registered as {found.type!r}, which can't change to "
                    f"{wish.type!r}."
                )
            return found.type
        datastore = driver.datastore
        served = sorted(driver.info.image_types.intersection(IMAGE_TYPES.get(datastore.type, ())))
        cloned = self._known.find(wish.data.clone_from) if wish.data.clone_from else None
        kind = wish.type or (cloned.type if cloned else served[0] if len(served) == 1 else None)
        if kind is None:
            if wish.data.clone_from is not None:
                self._known.source(wish.data.clone_from)  # which says that there is none
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
                f"{datastore.name!r}, a datastore of type "
                f"{datastore.type!r}; use a datastore of type {fitting!r} with the driver {' or '.join(able)}."
            )
        return kind

    # Images that are directories

    def _plan_directory(
        self, number: int, wish: ImageWish, found: Image | None, driver: DatastoreDriver, kind: str
    ) -> tuple[Image, int]:
        if wish.data.clone_from is not None:
            driver.require("clone")
        if wish.data.size is not None:
            driver.require("mkfs" if found is None else "resize")
        for name in ("checksum", "ca_path", "driver", "format", "fs", "sparse", "verify"):
            if getattr(wish.data, name) is not None:
                raise InvalidInput(
                    name, getattr(wish.data, name), f"an image of type {kind} is a directory, which stays as it is"
                )
        if wish.data.headers or wish.data.checksum_list is not None:
            option = "headers" if wish.data.headers else "checksum"
            raise InvalidInput(option, "...", f"an image of type {kind} is a directory, which stays as it is")
        if wish.data.origin != wish.data.shown or "://" in (wish.data.origin or ""):
            raise InvalidInput(
                "url", wish.data.shown, f"an image of type {kind} is a directory, which is given as path"
            )
        looked = None if wish.data.origin is None else self._look(number, wish.data.origin, driver, kind)
        if found is None:
            if looked is None:
                raise InvalidInput("path", None, "a new image needs one")
            new = self._known.next_id
            values = {
                "persistent": False,
                "read_only": False,
                "mount_tag": f"one-{new}",
                "mount_point": f"/mnt/one-fs-{new}",
                **wish.changes,
            }
            wanted = Image(new, str(wish.name), driver.datastore.id, kind, looked.source, looked.size_mb, **values)
            self._add("create image", None, wanted, self._insert)
        else:
            if looked is not None and looked.source != found.path:
                raise Conflict(
                    f"path: the image {found.name!r} was registered with {found.path!r}, which can't change to "
                    f"{looked.source!r}."
                )
            wanted = records.replace(found, name=wish.name or found.name, **wish.changes)
            if wanted != found:
                self._check_unused(found, "changed")
                wanted = wanted if looked is None else records.replace(wanted, size_mb=looked.size_mb)
                self._add("update image", found, wanted, self._update)
        return wanted, wanted.size_mb if looked is None else looked.size_mb

    def _look(self, number: int, path: str, driver: DatastoreDriver, kind: str) -> CopiedImage:
        rules = (driver.datastore, driver.protected)
        if number not in self._looked or self._looked[number][0] != rules:
            self._look_ahead(number, driver)
            self._looked[number] = (rules, driver.cp(path, CopyOptions(kind)))
        return self._looked[number][1]

    def _look_ahead(self, number: int, driver: DatastoreDriver) -> None:
        """Let the driver look at the directories of all images from ``number`` on that are declared in the same
        datastore.
        """
        if driver.datastore.id not in self._ahead:
            self._ahead.add(driver.datastore.id)
            alike = [
                wish.data.origin
                for wish in self.wishes[number:]
                if wish.datastore == self.wishes[number].datastore and not wish.absent
            ]
            if len(alike) > 1:
                driver.look_ahead([path for path in alike if path is not None and path.startswith("/")])

    # Images that are data in the datastore

    def _plan_data(
        self, number: int, wish: ImageWish, found: Image | None, driver: DatastoreDriver, kind: str
    ) -> tuple[Image, int | None]:
        check_options(wish, kind)
        if found is None:
            if not wish.force:
                self._known.check_mounted(driver.datastore)
            values = {"persistent": False, "read_only": kind == "cdrom", **wish.changes}
            empty = Image(self._known.next_id, str(wish.name), driver.datastore.id, kind, "", 0, **values)
            wanted = self._data.plan(number, wish.data, empty, driver)
            self._add("create image", None, wanted, self._insert, hidden=hidden(wish.data))
            return wanted, wanted.size_mb or None
        wanted = records.replace(found, name=wish.name or found.name, **wish.changes)
        wish = records.replace(wish, data=self._data.compared(number, wish.data, found))
        difference = self._data.difference(wish.data, found)
        lost = not self._known.has_data(found, driver.datastore)
        if lost and wish.data == DataWish():
            remedy = "say with path, url, clone_from or size how to make it again, or remove the image"
            raise NotFound(f"The data of the image {found.name!r} is not at {found.path}: {remedy}.")
        damage = self._damage_of(number, found, driver) if wish.remake and not lost else None
        if lost or difference or damage:
            if not lost and not damage and not wish.force:
                raise Conflict(difference)
            if lost and not wish.force:
                self._known.check_mounted(driver.datastore)
            if found.persistent and (lost or damage) and not wish.force:
                where = f"is damaged ({damage})" if damage else f"is not at {found.path}"
                gone = (
                    f"The data of the persistent image {found.name!r} {where}, and with it all that domains wrote there"
                )
                raise Conflict(
                    f"{gone}: restore it from a backup, or give force: true to make the image anew without that."
                )
            self._check_unused(found, "replaced", wish.force)
            self._check_data_unused(found, "replaced", wish.force)
            wanted = self._data.plan(number, completed(wish.data, found), wanted, driver)
            if not lost:
                self._outdated.append((driver, found))
            action = (
                "make lost data of image" if lost else "remake data of image" if damage else "replace data of image"
            )
            self._add(action, found, wanted, self._update, hidden=hidden(wish.data))
            return wanted, wanted.size_mb or None
        if wanted != found:
            self._check_unused(found, "changed")
        larger = grows(wish.data, found)
        if larger:
            self._check_unused(found, "grown")
            self._check_data_unused(found, "grown", True)
            wanted = self._data.grow(number, wish.data, wanted, driver)
        # A domain doesn't notice where the data once came from.
        wanted = records.replace(wanted, **self._data.moved(wish.data, found))
        if wanted != found:
            self._add("grow image" if larger else "update image", found, wanted, self._update)
        return wanted, wanted.size_mb

    def _damage_of(self, number: int, image: Image, driver: DatastoreDriver) -> str | None:
        """Return why the data of an image is wrong. That reads all of it, so it is asked once."""
        if number not in self._damage:
            self._damage[number] = driver.damage(image.path, image.format, None if image.persistent else image.checksum)
        return self._damage[number]

    # Actions

    def _add(
        self,
        name: str,
        before: Image | None,
        after: Image,
        apply: Callable[[Image], None],
        *,
        hidden: tuple[str, ...] = (),
    ) -> None:
        """
        :arg hidden: what isn't known before the data is made, and so is not part of the plan.
        """
        described = {field: value for field, value in after.as_dict(self._known.name_of).items() if field not in hidden}
        shown = self._shown(before, after)
        old = before and before.as_dict(self._known.name_of)
        self._plan.actions.append(
            Action(name, after.name, old, described, functools.partial(apply, after), shown=shown)
        )

    def _shown(
        self, before: Image | None, after: Image | None
    ) -> tuple[dict[str, object] | None, dict[str, object] | None]:
        """An image before and after a step, as the diff has it.

        What isn't known in check mode, such as the format of a download, is left out of both.
        """
        old, new = (one and self._state(one) for one in (before, after))
        if before and after and old and new:
            old["name"], new["name"] = before.name, after.name
        if new and not new["path"]:
            new["path"] = "(a new file)" if old else None
            for name in ("format", "size_mb"):
                if not new[name]:
                    new[name] = old and old[name]
        return old, new

    def _state(self, image: Image) -> dict[str, object]:
        """Without the name, because that is the subject of the step."""
        row = image.as_dict(self._known.name_of)
        datastore = self._known.datastore(image.datastore_id)
        return {
            "datastore": datastore and datastore.name,
            **{name: value for name, value in row.items() if name != "name"},
        }

    def _check_unused(self, image: Image, verb: str, force: bool = False) -> None:
        disks = self._known.disks(image)
        if disks and not force:
            raise Conflict(
                f"The image {image.name!r} can't be {verb} while it is used by {', '.join(map(str, disks))}."
            )

    def _check_data_unused(self, image: Image, verb: str, force: bool) -> None:
        """Refuse to lose data that is used, whatever the catalog knows of that.

        Who gives force to replace data has not said that a running program may lose it.
        """
        users = "" if force and verb == "removed" else self._known.data_users(image, running=force)
        if users:
            lost = "to take its data from it" if verb == "removed" else "to lose what the image holds"
            remedy = (
                "shut it down first"
                if force
                else f"shut it down and take the image from it first, or give force: true {lost}"
            )
            raise Conflict(f"The image {image.name!r} can't be {verb} while its data is used by {users}: {remedy}.")

    def _insert(self, image: Image) -> None:
        self.catalog.take_id("image")
        IMAGES.insert(self.catalog, image)

    def _update(self, image: Image) -> None:
        IMAGES.update(self.catalog, image)

    def _plan_removal(self, found: Image, force: bool) -> None:
        self._check_unused(found, "removed", force)
        self._check_data_unused(found, "removed", force)
        for disk in self._known.disks(found):
            subject = f"image {found.name!r} in domain {disk.domain!r} on host {disk.host!r}"
            self._plan.actions.append(
                Action("remove attachment", subject, _described(disk), None, functools.partial(self._release, disk))
            )
        before, remove = found.as_dict(self._known.name_of), functools.partial(IMAGES.delete, self.catalog, found.id)
        self._plan.actions.append(
            Action("remove image", found.name, before, None, remove, shown=self._shown(found, None))
        )
        datastore = self._known.datastore(found.datastore_id)
        if datastore is not None and self._known.driver(datastore).info.stores_data:
            self._outdated.append((self._known.driver(datastore), found))
        self._known.remove(found.id)

    def _remove_all_data_first(self) -> None:
        for driver, image in self._outdated:
            if not self._known.is_at(image.path):
                with image_lock(self.path, image.id):
                    driver.rm(image.path)
                self._emptied.append(image.name)
        self._outdated = []

    def _remove_data(self, driver: DatastoreDriver, image: Image) -> None:
        try:
            with image_lock(self.path, image.id):
                driver.rm(image.path)
        except VmstoreError as error:
            remains = f"The catalog has forgotten {image.path}, the data of the image {image.name!r}, but it could not be removed: {error}"
            raise FileAccessFailed(f"{remains} The module datastore_check removes it.") from error

    def _release(self, disk: Attachment) -> None:
        ATTACHMENTS.delete(self.catalog, disk.image_id, disk.host, disk.domain)


@contextlib.contextmanager
def _ended_by_exception() -> Iterator[None]:
    """A block that a signal ends by an exception, so that what was made is removed on the way out.

    Not to be used where the catalog is written.
    """

    def end(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    numbers = [number for number in (signal.SIGHUP, signal.SIGTERM) if signal.getsignal(number) == signal.SIG_DFL]
    try:
        for number in numbers:
            signal.signal(number, end)
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def check_options(wish: ImageWish, kind: str) -> None:
    """
    :raises InvalidInput: an option that images of this type don't have.
    """
    for name in MOUNT_OPTIONS:
        if name in wish.changes:
            raise InvalidInput(
                name, wish.changes[name], f"only images of type filesystem are mounted, and this is one of type {kind}"
            )
    if kind in IMAGE_TYPES["file"] and wish.changes.get("persistent"):
        raise InvalidInput("persistent", True, f"images of type {kind} are never changed by a domain")
    if kind not in EMPTY_TYPES and wish.data.driver is not None:
        raise InvalidInput("driver", wish.data.driver, f"images of type {kind} are stored as they are")
    if kind not in EMPTY_TYPES and wish.data.format == "qcow2":
        raise InvalidInput("format", "qcow2", f"images of type {kind} are stored as they are, and so are raw")


def completed(wish: DataWish, found: Image) -> DataWish:
    """A wish for an empty image instead of another: what isn't given is what that one was made with."""
    given = (wish.size, wish.format, wish.fs)
    if found.origin is not None or given == (None, None, None):
        return wish
    return records.replace(
        wish, size=wish.size or found.size_mb, format=wish.format or found.format, fs=wish.fs or found.fs
    )


def hidden(wish: DataWish) -> tuple[str, ...]:
    """What isn't known of data before it is made."""
    return ("path",) if wish.size is not None else ("path", "format", "size_mb", "checksum")


def _described(disk: Attachment) -> dict[str, object]:
    return dict(to_plain(disk))


__all__ = ["IMAGE_SPEC", "ImageService"]
