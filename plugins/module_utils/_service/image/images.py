# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Desired images, one or many (spec: storage-driver, virtiofs-datastore "Usage", shared-file-system "Persistent
Images").

The data of new images is made before the transaction that records them, so that nobody waits for a download. What a
killed run has made and not yet recorded is data without an image; the module datastore_check finds it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

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
from ..._core.secrets import withheld
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


class ImageService(CatalogService):
    """Plans images of the catalog. An option that isn't given stays as it is, or is the default of a new image.

    Where the data of some of many images can't be made, the others are recorded all the same, as in a loop, and then
    the run fails.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options["catalog"])
        self._is_list = options["images"] is not None
        self._references: list[str] = []
        self._specs: list[ImageSpec] = []
        for number, one in enumerate(options["images"] if self._is_list else [options]):
            self._references.append(
                printable(withheld(str(one["name"] if one["id"] is None else one["id"]))[:LONGEST_NAME])
            )
            try:
                self._specs.append(parse_options(one))
            except InvalidInput as error:
                raise self._located_error(number, error) from error
        self._timeout = options["timeout"]
        check_timeout(self._timeout)
        self._data = ImageData(functools.partial(image_lock, self.path), self._tell)
        self._findings = Findings()
        self._is_data_first = False

    def _tell(self, text: str) -> None:
        self.log(text)  # which is set once this service is made

    def converge(self) -> Plan:
        """As of :class:`Service`.

        Where the catalog can't be written for lack of space, images make space for their own removal by that of their
        data.
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
                if not self.renewed():
                    raise
        return self._plan_once()

    def _plan_once(self) -> Plan:
        known = KnownImages(self.catalog, timeout=self._timeout, log=self.log)
        # Nothing is made without a catalog.
        self._data.start(known, look=not self.will_run and not self.missing)
        plan = Plan(preparing=self._data.preparing)
        self._actions = ImageActions(self.catalog, known, plan, is_data_first=self._is_data_first)
        planner = ImagePlanner(self._specs, known, self._data, self._findings, self._actions)
        images = [image for number in range(len(self._specs)) if (image := self._plan_image(plan, planner, number))]
        for number, warnings in self._data.warnings.items():
            for warning in warnings:
                plan.warn_once(self._located(number, warning))
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
        """Return the image as it will be; ``None`` where there will be none, or no data could be made."""
        failure = self._data.error(number)
        if failure is not None:
            plan.errors.append(self._located_error(number, failure))
            return None
        try:
            return planner.plan(number)
        except DependencyMissing as error:
            self.report_missing(
                plan, error if not self._is_list else DependencyMissing(self._located(number, str(error)))
            )
            return None
        except VmstoreError as error:
            raise self._located_error(number, error) from error

    def _located(self, number: int, text: str) -> str:
        """Return ``text`` with the image of the list that it is about."""
        return f"images[{number}] ({self._references[number]}): {text}" if self._is_list else text

    def _located_error(self, number: int, error: VmstoreError) -> VmstoreError:
        return VmstoreError(self._located(number, str(error))) if self._is_list else error


__all__ = ["IMAGE_SPEC", "ImageService"]
