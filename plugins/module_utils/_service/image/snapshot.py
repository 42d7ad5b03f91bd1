# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots of images: deleted, reverted to, or flattened (spec: storage-driver, snap_delete, snap_revert and
snap_flatten).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from ..._catalog.catalog import Catalog, open_catalog, read_catalog
from ..._catalog.images import IMAGES, image_name
from ..._core import records
from ..._core.arguments import ArgumentSpec
from ..._core.errors import Conflict, InvalidInput, StaleState
from ..._core.plan import Action, Plan
from ..._core.records import dataclass
from ..._driver.datastore.base import DatastoreDriver
from ..._model.image import Image
from ..catalog import CATALOG_OPTIONS
from .work import ImageWorkService, check_snapshot, users_of

IMAGE_SNAPSHOT_SPEC = ArgumentSpec(
    {
        "image": {"type": "str", "required": True},
        "snapshot": {"type": "int", "required": True},
        "state": {"type": "str", "choices": ["absent", "flattened", "reverted"], "required": True},
        "force": {"type": "bool", "default": False},
    }
).merge(CATALOG_OPTIONS)

#: The ids that a snapshot can have.
LARGEST_ID = 10**9 - 1


@dataclass(frozen=True)
class Outcome:
    """The image and its snapshots when all is done, and the name of the driver's part in that, if any."""

    image: Image
    snapshots: list[int]
    name: str = ""
    before: object = None
    after: object = None
    work: str | None = None


class ImageSnapshotService(ImageWorkService):
    """Plans what becomes of one snapshot."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self.snapshot: int = options["snapshot"]
        if not 0 <= self.snapshot <= LARGEST_ID:
            raise InvalidInput("snapshot", self.snapshot, f"an id from 0 to {LARGEST_ID} is expected")

    def plan(self) -> Plan:
        image = self.image()
        driver = self.driver(image)
        driver.require("snapshot")
        snapshots = driver.snapshots(image.path)
        name_of = functools.partial(image_name, self.catalog)
        wish = {"absent": self._absent, "flattened": self._flattened, "reverted": self._reverted}[self.options["state"]]
        outcome = wish(image, driver, snapshots)
        plan = Plan(
            {
                "image": {**outcome.image.as_dict(name_of), "datastore": driver.datastore.name},
                "snapshots": outcome.snapshots,
            }
        )
        # The row comes first: whatever happens then, it has no checksum of other data, and a repeat puts the rest
        # right.
        if outcome.image != image:
            record, undo = (
                functools.partial(self._record, *pair) for pair in ((image, outcome.image), (outcome.image, image))
            )
            plan.actions.append(
                Action("update image", image.name, image.as_dict(name_of), outcome.image.as_dict(name_of), record, undo)
            )
        if outcome.work is None:
            plan.afterwards.append(driver.sweep)
        else:
            self._check_unused(image)
            self._check_data_unused(image, driver)
            driver.preview_snapshot(outcome.work, image.path, image.format, self.snapshot)
            record = functools.partial(
                self._work,
                image,
                functools.partial(getattr(driver, outcome.work), image.path, image.format, self.snapshot),
            )
            plan.actions.append(Action(outcome.name, image.name, outcome.before, outcome.after, record))
        return plan

    def _absent(self, image: Image, driver: DatastoreDriver, snapshots: list[int]) -> Outcome:
        left = [one for one in snapshots if one != self.snapshot]
        if left == snapshots:
            return Outcome(image, snapshots)
        # What was based on the snapshot is based on another file then: the same data in other bytes.
        wanted = records.replace(image, checksum=None) if image.format == "qcow2" else image
        return Outcome(wanted, left, "delete snapshot", {"snapshots": snapshots}, {"snapshots": left}, "snap_delete")

    def _flattened(self, image: Image, driver: DatastoreDriver, snapshots: list[int]) -> Outcome:
        if not snapshots:
            return Outcome(image, snapshots)
        wanted = self._as_it_was(image, driver, snapshots)
        others = [str(one) for one in snapshots if one != self.snapshot]
        if others and not self.options["force"]:
            why = f"because the other snapshots ({', '.join(others)}) would be lost as well"
            raise Conflict(
                f"The image {image.name!r} can't be flattened to its snapshot {self.snapshot} without force, {why}."
            )
        before, after = (
            {"content": "as it is now", "snapshots": snapshots},
            {"content": f"snapshot {self.snapshot}", "snapshots": []},
        )
        return Outcome(wanted, [], "flatten image", before, after, "snap_flatten")

    def _reverted(self, image: Image, driver: DatastoreDriver, snapshots: list[int]) -> Outcome:
        wanted = self._as_it_was(image, driver, snapshots)
        if driver.snap_same(image.path, image.format, self.snapshot):
            return Outcome(records.replace(wanted, checksum=image.checksum), snapshots)
        return Outcome(
            wanted,
            snapshots,
            "revert image",
            {"content": "as it is now"},
            {"content": f"snapshot {self.snapshot}"},
            "snap_revert",
        )

    def _as_it_was(self, image: Image, driver: DatastoreDriver, snapshots: list[int]) -> Image:
        check_snapshot(image, self.snapshot, snapshots)
        return records.replace(image, size_mb=driver.snap_size(image.path, image.format, self.snapshot), checksum=None)

    def _check_unused(self, image: Image, catalog: Catalog | None = None) -> None:
        users = "" if self.options["force"] else users_of(catalog or self.catalog, image)
        if users:
            verb = {"absent": "lose a snapshot", "flattened": "be flattened", "reverted": "be reverted"}[
                self.options["state"]
            ]
            raise Conflict(f"The image {image.name!r} can't {verb} without force while it is used by {users}.")

    def _check_data_unused(self, image: Image, driver: DatastoreDriver) -> None:
        """Refuse to change data that is used, whatever the catalog knows of that."""
        users = "" if self.options["force"] else ", ".join(driver.users(image.path))
        if users:
            raise Conflict(
                f"The image {image.name!r} can't be changed without force while its data is used by {users}."
            )

    def _work(self, image: Image, work: Callable[[], None]) -> None:
        # Comparing can take long, and a domain may use the image since then.
        with read_catalog(self.path, missing_ok=False) as catalog:
            self._check_unused(image, catalog)
        work()

    def _record(self, old: Image, new: Image) -> None:
        with open_catalog(self.path, create=False) as catalog, catalog.transaction():
            if IMAGES.find(catalog, old.id) != old:
                raise StaleState(
                    f"The image {old.name!r} was changed in the catalog by another program meanwhile; try again."
                )
            IMAGES.update(catalog, new)


__all__ = ["IMAGE_SNAPSHOT_SPEC", "ImageSnapshotService"]
