# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The actions of a plan about images."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

from ..._catalog.attachments import ATTACHMENTS
from ..._catalog.catalog import Catalog
from ..._catalog.images import IMAGES
from ..._core import records
from ..._core.errors import Conflict, FileAccessFailed, VmstoreError
from ..._core.plain import to_plain
from ..._core.plan import Action, Plan, Preparation, nothing
from ..._driver.datastore.base import DatastoreDriver
from ..._model.attachment import Attachment
from ..._model.image import Image
from .known import KnownImages
from .work import check_disks, image_lock


class ImageActions:
    """The actions of one plan.

    :arg is_data_first: whether the data of images is removed before their rows, to free space for the catalog.
    """

    def __init__(self, catalog: Catalog, known: KnownImages, plan: Plan, *, is_data_first: bool = False) -> None:
        self._catalog = catalog
        self._known = known
        self._plan = plan
        self._is_data_first = is_data_first
        #: Data that belongs to no image after the plan.
        self._outdated: list[tuple[DatastoreDriver, Image]] = []
        #: The names of images whose data was removed first.
        self.emptied: list[str] = []
        plan.finishing = self._batch_removals

    def create(self, image: Image, *, hidden: tuple[str, ...] = (), prepare: tuple[Preparation, ...] = ()) -> None:
        """Add the action that creates an image.

        :arg hidden: the columns that are unknown before the data exists. The plan lacks these columns.
        """

        def record() -> None:
            self._catalog.take_id("image")
            IMAGES.insert(self._catalog, image)

        self._plan.actions.append(
            Action(
                "create image",
                image.name,
                None,
                self._columns(image, hidden),
                record,
                diff=self._diff(None, image),
                prepare=prepare,
            )
        )

    def update(
        self,
        name: str,
        before: Image,
        after: Image,
        *,
        hidden: tuple[str, ...] = (),
        prepare: tuple[Preparation, ...] = (),
        outdated: DatastoreDriver | None = None,
    ) -> None:
        """Add the action that changes an image.

        :arg hidden: as of :meth:`create`.
        :arg outdated: the driver of the old data, where the action replaces the data.
        """
        self._plan.actions.append(
            Action(
                name,
                after.name,
                self._columns(before),
                self._columns(after, hidden),
                functools.partial(IMAGES.update, self._catalog, after),
                diff=self._diff(before, after),
                prepare=prepare,
                finish=nothing if outdated is None else functools.partial(self._remove_data, outdated, before),
            )
        )
        if outdated is not None:
            self._outdated.append((outdated, before))

    def remove(self, image: Image) -> None:
        """Add the actions that remove an image, its attachments and its data."""
        for attachment in self._known.attachments(image):
            subject = f"image {image.name!r} in domain {attachment.domain!r} on host {attachment.host!r}"
            self._plan.actions.append(
                Action(
                    "remove attachment",
                    subject,
                    _as_dict(attachment),
                    None,
                    functools.partial(ATTACHMENTS.delete, self._catalog, image.id, attachment.host, attachment.domain),
                )
            )
        before, diff = self._columns(image), self._diff(image, None)
        datastore = self._known.datastore(image.datastore_id)
        finish: Callable[[], None] = nothing
        if datastore is not None and self._known.driver(datastore).info.stores_data:
            driver = self._known.driver(datastore)
            self._outdated.append((driver, image))
            finish = nothing if self._is_data_first else functools.partial(self._remove_data, driver, image)
        record = functools.partial(IMAGES.delete, self._catalog, image.id)
        self._plan.actions.append(Action("remove image", image.name, before, None, record, diff=diff, finish=finish))
        self._known.remove(image.id)

    def complete(self) -> None:
        """Complete the plan. Where data is removed first, the first action removes the data before anything is
        recorded.
        """
        if not self._is_data_first or not self._plan.actions:
            return
        first = self._plan.actions[0]

        def record() -> None:
            for driver, image in self._outdated:
                if not self._known.is_at(image.path):
                    with image_lock(self._known.path, image.id):
                        driver.rm(image.path)
                    self.emptied.append(image.name)
            self._outdated.clear()
            first.record()

        self._plan.actions[0] = records.replace(first, record=record)

    def check_unused(self, image: Image, verb: str, force: bool = False) -> None:
        """Refuse to change an image that is attached, or that is the disk of a VM. A full clone needs its image only
        to exist, because the catalog names it.

        :raises Conflict: the image has attachments, or disks of VMs.
        """
        disks = self._known.disks(image)
        check_disks(image, [one for one in disks if one.disk.needs_image or verb == "removed"], f"be {verb}")
        attachments = self._known.attachments(image)
        if attachments and not force:
            raise Conflict(
                f"The image {image.name!r} can't be {verb} while it is used by {', '.join(map(str, attachments))}."
            )

    def check_data_unused(self, image: Image, verb: str, force: bool) -> None:
        """Refuse to lose data that is used, whether or not the catalog has an attachment.

        Force to replace data is no permission to lose the data of a running program.

        :raises Conflict: the data is used.
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

    @contextlib.contextmanager
    def _batch_removals(self) -> Iterator[None]:
        """Remove outdated data in a block, in batches of the drivers."""
        drivers = {id(driver): driver for driver, _image in self._outdated}.values()
        with contextlib.ExitStack() as batches:
            for driver in drivers:
                batches.enter_context(driver.batch())
            yield
            for driver in drivers:
                try:
                    driver.publish()
                except FileAccessFailed as error:
                    self._plan.errors.append(error)

    def _remove_data(self, driver: DatastoreDriver, image: Image) -> None:
        if self._known.is_at(image.path):
            return
        try:
            with image_lock(self._known.path, image.id):
                driver.rm(image.path)
        except VmstoreError as error:
            remains = (
                f"The catalog has forgotten {image.path}, the data of the image {image.name!r}, but it could not be "
                f"removed: {error}"
            )
            raise FileAccessFailed(f"{remains} The module datastore_check removes it.") from error

    def _columns(self, image: Image, hidden: tuple[str, ...] = ()) -> dict[str, object]:
        columns = image.as_dict(self._known.name_of)
        return {name: value for name, value in columns.items() if name not in hidden}

    def _diff(
        self, before: Image | None, after: Image | None
    ) -> tuple[dict[str, object] | None, dict[str, object] | None]:
        """Return an image before and after an action, for the diff.

        A value that check mode can't know, such as the format of a download, is missing in both.
        """
        old, new = (None if one is None else self._state(one) for one in (before, after))
        if before and after and old and new:
            old["name"], new["name"] = before.name, after.name
        if new and not new["path"]:
            new["path"] = "(a new file)" if old else None
            for name in ("format", "size_mb"):
                if not new[name]:
                    new[name] = old and old[name]
        return old, new

    def _state(self, image: Image) -> dict[str, object]:
        """Return all columns but the name, because the name is the subject of the action."""
        datastore = self._known.datastore(image.datastore_id)
        return {"datastore": datastore and datastore.name, **self._columns(image, hidden=("name",))}


def _as_dict(attachment: Attachment) -> dict[str, object]:
    return dict(to_plain(attachment))


__all__ = ["ImageActions"]
