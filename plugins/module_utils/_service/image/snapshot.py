# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The service of an image's snapshot: deleted, reverted to, or flattened (spec: storage-driver, snap_delete,
snap_revert and snap_flatten).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from ..._catalog.catalog import Catalog, open_catalog, read_catalog
from ..._catalog.images import IMAGES, image_name
from ..._catalog.vms import disks_of
from ..._core import records
from ..._core.arguments import ArgumentSpec
from ..._core.errors import Conflict, InvalidInput, StaleState
from ..._core.plan import Action, Plan
from ..._core.records import dataclass
from ..._driver.datastore.base import DatastoreDriver
from ..._model.image import Image
from ..catalog import CATALOG_OPTIONS
from .work import ImageWorkService, check_disks, check_snapshot, users_of

IMAGE_SNAPSHOT_SPEC = ArgumentSpec(
    {
        "image": {"type": "str", "required": True},
        "snapshot": {"type": "int", "required": True},
        "state": {"type": "str", "choices": ["absent", "flattened", "reverted"], "required": True},
        "force": {"type": "bool", "default": False},
    }
).merge(CATALOG_OPTIONS)

#: The bounds of a snapshot's id.
LARGEST_ID = 10**9 - 1


@dataclass(frozen=True)
class Outcome:
    """The image and its snapshots after the plan. ``work`` is the driver's operation; ``None`` without one."""

    image: Image
    snapshots: list[int]
    name: str = ""
    before: object = None
    after: object = None
    work: str | None = None


class ImageSnapshotService(ImageWorkService):
    """Plan the desired state of one snapshot."""

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
        plan_state = {"absent": self._delete, "flattened": self._flatten, "reverted": self._revert}[
            self.options["state"]
        ]
        outcome = plan_state(image, driver, snapshots)
        plan = Plan(
            {
                "image": {**outcome.image.as_dict(name_of), "datastore": driver.datastore.name},
                "snapshots": outcome.snapshots,
            }
        )
        # The row is updated first. After a failure, it then has no outdated checksum, and a repetition completes the
        # rest.
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

    def _delete(self, image: Image, driver: DatastoreDriver, snapshots: list[int]) -> Outcome:
        left = [one for one in snapshots if one != self.snapshot]
        if left == snapshots:
            return Outcome(image, snapshots)
        # Files that were based on the snapshot get another base. Their content stays, but their bytes change.
        wanted = records.replace(image, checksum=None) if image.format == "qcow2" else image
        return Outcome(wanted, left, "delete snapshot", {"snapshots": snapshots}, {"snapshots": left}, "snap_delete")

    def _flatten(self, image: Image, driver: DatastoreDriver, snapshots: list[int]) -> Outcome:
        if not snapshots:
            return Outcome(image, snapshots)
        wanted = self._restore_values(image, driver, snapshots)
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

    def _revert(self, image: Image, driver: DatastoreDriver, snapshots: list[int]) -> Outcome:
        wanted = self._restore_values(image, driver, snapshots)
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

    def _restore_values(self, image: Image, driver: DatastoreDriver, snapshots: list[int]) -> Image:
        check_snapshot(image, self.snapshot, snapshots)
        return records.replace(image, size_mb=driver.snap_size(image.path, image.format, self.snapshot), checksum=None)

    def _check_unused(self, image: Image, catalog: Catalog | None = None) -> None:
        verb = {"absent": "lose a snapshot", "flattened": "be flattened", "reverted": "be reverted"}[
            self.options["state"]
        ]
        disks = disks_of(catalog or self.catalog, image.id)
        check_disks(image, [one for one in disks if one.disk.needs_image], verb)
        users = "" if self.options["force"] else users_of(catalog or self.catalog, image)
        if users:
            raise Conflict(f"The image {image.name!r} can't {verb} without force while it is used by {users}.")

    def _check_data_unused(self, image: Image, driver: DatastoreDriver) -> None:
        """Refuse to change data that is used, whether or not the catalog has an attachment."""
        users = "" if self.options["force"] else ", ".join(driver.users(image.path))
        if users:
            raise Conflict(
                f"The image {image.name!r} can't be changed without force while its data is used by {users}."
            )

    def _work(self, image: Image, work: Callable[[], None]) -> None:
        # The comparison can take long, so a domain may use the image by now.
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
