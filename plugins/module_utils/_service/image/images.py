# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The service of images, one or many (spec: storage-driver, virtiofs-datastore "Usage", shared-file-system "Persistent
Images").

The data of new images is created before the transaction that records them, so that no program waits for a download. A
killed run may leave data without an image; the module datastore_check finds such data.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, TypeVar

from ..._core.arguments import ArgumentSpec
from ..._core.errors import (
    DependencyMissing,
    DependencyNotFound,
    FileAccessFailed,
    InvalidInput,
    NoSpace,
    VmstoreError,
    printable,
)
from ..._core.plan import Plan
from ..._core.secrets import withhold
from ..._driver.datastore.base import TIMEOUT
from ..._model.names import LONGEST_NAME
from ..catalog import CATALOG_OPTIONS, CatalogService
from ..datastore.desired import check_timeout
from .actions import ImageActions
from .data import ImageData
from .known import KnownImages
from .options import IMAGE_OPTIONS, ImageSpec, parse_options
from .planner import Findings, ImagePlanner
from .work import image_lock

E = TypeVar("E", bound=VmstoreError)

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

#: Upper bound of the number of plans in one run. A plan is repeated when another program has changed the catalog.
MOST_ATTEMPTS = 10


class ImageService(CatalogService):
    """Plan images of the catalog. An option that isn't given keeps its value; a new image gets the default.

    If the data of some images can't be created, the other images are recorded all the same, like in a loop. Then the
    run fails.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options["catalog"])
        self._is_list = options["images"] is not None
        self._references: list[str] = []
        self._specs: list[ImageSpec] = []
        for number, one in enumerate(options["images"] if self._is_list else [options]):
            self._references.append(
                printable(withhold(str(one["name"] if one["id"] is None else one["id"]))[:LONGEST_NAME])
            )
            try:
                self._specs.append(parse_options(one))
            except InvalidInput as error:
                raise self._locate_error(number, error) from error
        self._timeout = options["timeout"]
        check_timeout(self._timeout)
        self._data = ImageData(functools.partial(image_lock, self.path), self._tell)
        self._findings = Findings()
        self._is_data_first = False

    def _tell(self, text: str) -> None:
        self.log(text)  # the log is assigned after the construction of the service

    def converge(self) -> Plan:
        """Reach the desired state, and return the plan that was run.

        If the catalog can't be written for lack of space, and all images are to be removed, their data is removed
        first.
        """
        try:
            return super().converge()
        except NoSpace:
            if not all(spec.absent for spec in self._specs):
                raise
        self._is_data_first = True
        try:
            return super().converge()
        except VmstoreError as error:
            if not self._actions.emptied:
                raise
            raise FileAccessFailed(
                f"The data of {', '.join(map(repr, self._actions.emptied))} is removed, but the catalog {self.path} "
                f"still has the images: remove them again when its file system has space. {error}"
            ) from error

    def plan(self) -> Plan:
        for _attempt in range(MOST_ATTEMPTS - 1):
            try:
                return self._plan_once()
            except VmstoreError:
                if not self.refresh():
                    raise
        return self._plan_once()

    def _plan_once(self) -> Plan:
        known = KnownImages(self.catalog, timeout=self._timeout, may_mount=not self.is_dry_run, log=self.log)
        # Without a catalog, the run fails before it creates data.
        self._data.start(known, look=not self.will_run and not self.missing)
        plan = Plan(preparing=self._data.preparing)
        self._actions = ImageActions(self.catalog, known, plan, is_data_first=self._is_data_first)
        planner = ImagePlanner(self._specs, known, self._data, self._findings, self._actions)
        images = [image for number in range(len(self._specs)) if (image := self._plan_image(plan, planner, number))]
        for number, warnings in self._data.warnings.items():
            for warning in warnings:
                plan.warn_once(self._locate(number, warning))
        if self.missing and plan.changed:
            message = (
                f"There is no catalog at {self.path}; the module granary.vmstore.datastore makes it on the front-end."
            )
            self.report_missing(plan, DependencyNotFound(message), is_planned=True)
        self._actions.complete()
        if self._is_list:
            plan.result["images"] = images
        elif images:
            plan.result["image"] = images[0]
        return plan

    def _plan_image(self, plan: Plan, planner: ImagePlanner, number: int) -> dict[str, object] | None:
        """Return the image after the plan; ``None`` for an image that is to be absent or has no data."""
        failure = self._data.error(number)
        if failure is not None:
            plan.errors.append(self._locate_error(number, failure))
            return None
        try:
            return planner.plan(number)
        except DependencyMissing as error:
            self.report_missing(plan, self._locate_error(number, error))
            return None
        except VmstoreError as error:
            raise self._locate_error(number, error) from error

    def _locate(self, number: int, text: str) -> str:
        """Return ``text`` with the place of the image in the list."""
        return f"images[{number}] ({self._references[number]}): {text}" if self._is_list else text

    def _locate_error(self, number: int, error: E) -> E:
        return error.with_message(self._locate(number, str(error)))


__all__ = ["IMAGE_SPEC", "ImageService"]
