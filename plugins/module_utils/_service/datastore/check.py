# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The comparison of the catalog with the disk: data without an image, images without data, and data that differs.

The service repairs only what can lose no data. An image in creation has data before the catalog has its row, and an
unavailable file server seems to have no data. So data is removed, and an image forgotten, only where the user names it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..._catalog.images import IMAGES, image_name
from ..._catalog.vms import disks_of
from ..._core import records
from ..._core.arguments import ArgumentSpec
from ..._core.errors import Conflict, DependencyNotFound, InvalidInput, NotFound, VmstoreError
from ..._core.paths import absolute
from ..._core.plan import Action, Plan
from ..._driver.datastore.base import DatastoreDriver
from ..._image.checksum import DIGEST_LENGTHS
from ..._image.inventory import Inventory, StoredImage
from ..._image.layout import parse_name
from ..._model.image import Image
from ..catalog import CATALOG_OPTIONS, CatalogService
from ..image.work import check_disks, users_of
from .desired import check_timeout, driver_of
from .info import find_datastores, find_orphans, has_images

DATASTORE_CHECK_SPEC = ArgumentSpec(
    {
        "name": {"type": "str"},
        "checksums": {"type": "bool", "default": False},
        "repair": {"type": "bool", "default": False},
        "remove": {"type": "list", "elements": "str", "default": []},
        "timeout": {"type": "int", "default": 30},
    }
).merge(CATALOG_OPTIONS)

#: The algorithm of checksums that are recorded.
ALGORITHM = "sha256"

#: The attribute of a finding about damaged data.
DATA = "data"

Finding = dict[str, Any]


@records.dataclass
class Checked:
    """A datastore with its rows in the catalog and its inventory on disk."""

    driver: DatastoreDriver
    images: Sequence[Image]
    inventory: Inventory = records.field(default_factory=Inventory)
    #: The error because of which there is no inventory.
    error: str | None = None

    def __post_init__(self) -> None:
        self.stored = {one.path: one for one in self.inventory.images}
        self.orphaned = {one.path.rpartition(".")[0] for one in self.inventory.orphaned}
        self.orphans: list[Finding] = [{**one, "repaired": False} for one in find_orphans(self.inventory, self.images)]
        self.missing: list[Finding] = [
            {"id": image.id, "name": image.name, "path": image.path, "repaired": False}
            for image in self.images
            if self.error is None and image.path not in self.stored
        ]
        self.leftovers: list[Finding] = [
            {"path": one.path, "allocated_bytes": one.allocated, "repaired": False} for one in self.inventory.stale
        ]
        self.drift: list[Finding] = []

    def forget(self, reference: str, image: Image) -> None:
        """Record that an image is forgotten.

        :raises Conflict: the image has data.
        """
        if image.path in self.stored:
            raise Conflict(
                f"remove: {reference!r} is the image {image.name!r}, whose data is there; the module "
                "granary.vmstore.image removes it."
            )
        for finding in self.missing:
            if finding["id"] == image.id:
                finding["repaired"] = True

    def remove(self, reference: str, data: str) -> Finding | None:
        """Record that data is removed, and return the finding; ``None`` where the data is missing already.

        :raises Conflict: the data is used.
        """
        found = [finding for finding in self.orphans if find_image_path(finding["path"]) == data]
        for finding in found:
            finding["repaired"] = True
        users = self.driver.users(data)
        if users:
            raise Conflict(f"remove: {reference!r} can't be removed while it is used by {', '.join(users)}.")
        if found:
            return found[0]
        return {"path": data, "allocated_bytes": None} if data in self.orphaned else None

    def has_drift(self, image: Image) -> bool:
        return any(finding["id"] == image.id and not finding["repaired"] for finding in self.drift)

    def as_result(self) -> dict[str, object]:
        datastore = self.driver.datastore
        findings = {"orphans": self.orphans, "missing": self.missing, "drift": self.drift, "leftovers": self.leftovers}
        return {
            "id": datastore.id,
            "name": datastore.name,
            "error": self.error,
            "unknown": list(self.inventory.foreign),
            "consistent": self.error is None and all(one["repaired"] for kind in findings.values() for one in kind),
            **findings,
        }


class DatastoreCheckService(CatalogService):
    """Plan the repair of one datastore or of all. Without ``repair``, the plan is empty and has only a result."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options["catalog"])
        self.options = options
        self.repair: bool = options["repair"]
        check_timeout(options["timeout"])
        if options["remove"] and not self.repair:
            raise InvalidInput("remove", options["remove"], "nothing is removed without repair=true")
        self.remove = [absolute("remove", one) if one.startswith("/") else one for one in options["remove"]]
        # Data is read before the transaction. These outlive the plan: the checksums, by the identity of the data, and
        # the errors of datastores that could not be read.
        self._checksums: dict[tuple[str, int, int], str] = {}
        self._has_read_data = False
        self._failed: dict[int, str] = {}

    def plan(self) -> Plan:
        if self.missing:
            raise DependencyNotFound(
                f"There is no catalog at {self.path}; the module granary.vmstore.datastore makes it on the front-end."
            )
        self._plan = Plan()
        read_data = self.options["checksums"] and not self._has_read_data
        self._has_read_data = True
        checked = [
            self._check(driver, read_data)
            for driver in (
                driver_of(self.catalog, one, self.options["timeout"], may_mount=not self.is_dry_run, log=self.log)
                for one in find_datastores(self.catalog, self.options["name"])
            )
            # A datastore that the user names is checked even without data, so that its driver reports the reason.
            if has_images(driver.info) or self.options["name"] is not None
        ]
        if any(one.missing for one in checked) and self.refresh():
            return self.plan()  # another program removed the datastore since the catalog was read
        for one in checked:
            self._compare(one)
        self._plan_removals(checked)
        if self.repair:
            for one in checked:
                self._sweep(one)
        result = [one.as_result() for one in checked]
        self._plan.result = {"datastores": result, "consistent": all(one["consistent"] for one in result)}
        return self._plan

    def _check(self, driver: DatastoreDriver, read_data: bool) -> Checked:
        datastore = driver.datastore
        images = IMAGES.rows(self.catalog, datastore_id=datastore.id)
        wanted = {image.path: choose_algorithm(image) for image in images if not image.persistent} if read_data else {}
        try:
            if datastore.id not in self._failed:
                inventory = driver.inventory(wanted, whole=True)
                self._checksums.update(
                    {_identify(one): one.checksum for one in inventory.images if one.checksum is not None}
                )
                return Checked(driver, images, inventory)
        except VmstoreError as error:
            if isinstance(error, NotFound) and not images:
                return Checked(driver, images)  # the driver creates the directory with the first image
            if self.options["name"] is not None:
                raise
            self._failed[datastore.id] = str(error)
        self._plan.warn_once(f"The datastore {datastore.name!r} could not be checked: {self._failed[datastore.id]}")
        return Checked(driver, images, error=self._failed[datastore.id])

    def _compare(self, checked: Checked) -> None:
        """Find the errors in the rows of images that have data."""
        for image in checked.images:
            stored = checked.stored.get(image.path)
            if stored is None:
                continue
            changes: dict[str, Any] = {}
            for attribute, found in self._differences(image, stored):
                # Other differences are no error of the catalog, because something has changed the data.
                repaired = self.repair and attribute == "size_mb" and found is not None
                if repaired:
                    changes[attribute] = found
                row = {
                    "id": image.id,
                    "name": image.name,
                    "path": image.path,
                    "attribute": attribute,
                    "recorded": vars(image).get(attribute),
                    "found": found,
                }
                error = stored.flaw if attribute == DATA else stored.error if found is None else None
                checked.drift.append({**row, "error": error, "repaired": repaired})
            checksum = self._checksum(image, stored)
            if (
                self.repair
                and checksum is not None
                and image.checksum is None
                and _can_record(image, checksum)
                and not checked.has_drift(image)
            ):
                changes["checksum"] = checksum
            if changes:
                before = {name: getattr(image, name) for name in changes}
                record = functools.partial(IMAGES.update, self.catalog, records.replace(image, **changes))
                self._plan.actions.append(Action("correct image", image.name, before, changes, record))

    def _differences(self, image: Image, stored: StoredImage) -> Iterator[tuple[str, object]]:
        """Yield the attributes that differ, each with the value on disk; ``None`` where that value is unknown."""
        size = stored.virtual_size(image.format)
        if stored.format is None or image.format not in ("raw", stored.format):
            yield "format", stored.format
        elif size is None or -(-size // 2**20) != image.size_mb:
            yield "size_mb", None if size is None else -(-size // 2**20)
        if stored.flaw is not None and size is not None and image.format == stored.format:
            yield DATA, None
        checksum = self._checksum(image, stored)
        if checksum is not None and image.checksum not in (None, checksum):
            yield "checksum", checksum

    def _checksum(self, image: Image, stored: StoredImage) -> str | None:
        digest = None if image.persistent else self._checksums.get(_identify(stored))
        return digest and f"{choose_algorithm(image)}:{digest}"

    def _plan_removals(self, checked: Sequence[Checked]) -> None:
        forgotten: dict[int, Image] = {}
        removed: dict[str, tuple[Checked, Finding]] = {}
        for reference in self.remove:
            one, image, data = self._find_named(reference, checked)
            if one is None:
                continue
            if image is not None:
                one.forget(reference, image)
                forgotten[image.id] = image
            if data is not None:
                finding = one.remove(reference, data)
                if finding is not None:
                    removed[data] = one, finding
        for image in forgotten.values():
            self._forget(image)
        # The removal comes last, because it can't be undone. It runs in the transaction, so that nobody records the
        # data meanwhile. Data without a row needs no change of the catalog.
        for data, (one, finding) in removed.items():
            before = {"allocated_bytes": finding["allocated_bytes"]}
            self._plan.actions.append(
                Action(
                    "remove data without image", finding["path"], before, None, functools.partial(one.driver.rm, data)
                )
            )

    def _find_named(
        self, reference: str, checked: Sequence[Checked]
    ) -> tuple[Checked | None, Image | None, str | None]:
        """Return the datastore, the image and the path of the data to remove. The image is ``None`` without a row in
        the catalog, and the path is ``None`` where ``reference`` isn't a path.
        """
        accepted = "the path of data in a datastore that is checked, or the name or id of an image there, is expected"
        data = find_image_path(reference) if reference.startswith("/") else None
        image = IMAGES.find(self.catalog, reference) if data is None else None
        if data is None and image is None and not reference.startswith("/"):
            return None, None, None  # the image is forgotten already
        for one in checked:
            datastore = one.driver.datastore
            if (
                image is not None
                and image.datastore_id == datastore.id
                or data is not None
                and os.path.dirname(data) == datastore.base_path
            ):
                if one.error is not None:
                    raise Conflict(
                        f"remove: {reference!r} can't be removed, as the datastore {datastore.name!r} could not be "
                        f"checked: {one.error}"
                    )
                if data is not None and os.path.basename(reference) in one.inventory.foreign:
                    break
                return one, image or next((image for image in one.images if image.path == data), None), data
        raise InvalidInput("remove", reference, accepted)

    def _forget(self, image: Image) -> None:
        check_disks(image, disks_of(self.catalog, image.id), "be forgotten")
        users = users_of(self.catalog, image)
        if users:
            raise Conflict(f"remove: the image {image.name!r} can't be forgotten while it is used by {users}.")
        before = image.as_dict(functools.partial(image_name, self.catalog))
        self._plan.actions.append(
            Action("forget image", image.name, before, None, functools.partial(IMAGES.delete, self.catalog, image.id))
        )

    def _sweep(self, checked: Checked) -> None:
        if checked.leftovers:
            for finding in checked.leftovers:
                finding["repaired"] = True
            before = {"paths": [finding["path"] for finding in checked.leftovers]}
            self._plan.actions.append(
                Action("remove leftovers", checked.driver.datastore.base_path, before, None, checked.driver.sweep)
            )


def _can_record(image: Image, checksum: str) -> bool:
    """Return whether a checksum can be recorded. Data that is stored unchanged must have the checksum of its origin,
    because other data may be damaged.
    """
    return image.origin_checksum in (None, checksum)


def choose_algorithm(image: Image) -> str:
    """Return the algorithm of the image's recorded checksum, or of the checksum to record."""
    algorithm = (image.checksum or image.origin_checksum or "").partition(":")[0]
    return algorithm if algorithm in DIGEST_LENGTHS else ALGORITHM


def find_image_path(path: str) -> str | None:
    """Return the path of the image file that ``path`` names or belongs to."""
    directory, name = os.path.split(path)
    found = parse_name(name)
    return None if found is None else os.path.join(directory, found[0])


def _identify(stored: StoredImage) -> tuple[str, int, int]:
    return stored.path, stored.length, stored.modified


__all__ = ["DATASTORE_CHECK_SPEC", "DatastoreCheckService"]
