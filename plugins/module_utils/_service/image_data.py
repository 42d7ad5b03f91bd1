# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The data of images that a plan is about: what it is made of, and whether what exists was made of that."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable

from .._catalog.images import Image
from .._core.errors import InvalidInput, NotFound, StaleState, UnsupportedAction, VmstoreError
from .._driver.attributes import copy_options
from .._driver.base import CopiedImage, CopyOptions, DatastoreDriver
from .._image.datablock import check_datablock
from .image_wish import DataWish
from .known_images import KnownImages

#: Types of images that may begin empty.
EMPTY_TYPES = ("os", "datablock")


class ImageData:
    """What is made for a list of wishes, each known by its place in the list. It is made between two plans, and outlives the first."""

    def __init__(self) -> None:
        #: Whether what an image is to be made of is looked at while planning: in check mode nothing else does.
        self.look = True
        self.made: dict[int, CopiedImage] = {}
        self.failed: dict[int, VmstoreError] = {}
        #: What the user is to know of it.
        self.warnings: dict[int, tuple[str, ...]] = {}
        self._all_made = False
        #: How to make what the latest plan needs. In the order of the wishes, as one image can be a clone of another.
        self._to_make: dict[int, tuple[DatastoreDriver, Callable[[], CopiedImage]]] = {}
        self._drivers: dict[int, DatastoreDriver] = {}
        self._wish_of: dict[int, int] = {}

    def start(self, known: KnownImages) -> None:
        """A new plan is made."""
        self._known = known
        self._to_make = {}
        self._wish_of = {}

    def make(self) -> None:
        """Make what the plan needs. What can't be made is kept in :attr:`failed`."""
        for number, (driver, make) in self._to_make.items():
            self._drivers[number] = driver
            try:
                self.made[number] = make()
            except VmstoreError as error:
                self.failed[number] = error
        self._all_made = True

    def discard(self, *, keep: bool) -> None:
        """Remove what was made.

        :arg keep: but for what the latest plan has a place for.
        """
        with contextlib.ExitStack() as each:  # the others too where one can't be removed
            for number, made in self.made.items():
                if not (keep and number in self._to_make):
                    each.callback(self._drivers[number].rm, made.source)

    def plan(self, number: int, wish: DataWish, image: Image, driver: DatastoreDriver) -> Image:
        """``image`` with the data that was made for a wish; before that, with as much of it as is known: the path is empty, of copies the format, too.

        :raises StaleState: nothing was made for it, as there was no need for it when the first plan was made.
        :raises VmstoreError: the wish can't be granted.
        """
        options = self._copy_options(driver, wish, image.type)
        if wish.size is not None:
            planned = self._plan_empty(number, wish.size, wish, driver, options)
        elif wish.clone_from is not None:
            planned = self._plan_clone(number, wish.clone_from, driver, options)
        elif wish.origin is not None:
            self._to_make[number] = driver, functools.partial(driver.cp, wish.origin, options)
            planned = driver.preview(wish.origin, options) if self.look else CopiedImage("", "", 0)
        else:
            raise InvalidInput("path", None, "a new image needs a path, a url, a clone_from or a size")
        made = self.made.get(number)
        if self._all_made and made is None:
            raise StaleState("Another program changed the catalog meanwhile; nothing was changed, run it again.")
        if made is not None and not self._known.has_data_at(made.source, driver.datastore):
            raise StaleState(f"The data of the image {image.name!r} was removed by another program while it was made; run it again.")
        self._wish_of[image.id] = number
        data = made or planned
        self.warnings[number] = data.warnings
        return dataclasses.replace(
            image,
            path=data.source,
            format=data.format,
            size_mb=data.size_mb,
            fs=wish.fs,
            origin=self._origin(wish),
            origin_checksum=wish.checksum,
            checksum=None,
        )

    def difference(self, wish: DataWish, found: Image) -> str:
        """Why the data of an image isn't what is wanted; empty if it is, as far as the wish says anything."""
        pairs = {
            "clone_from": (self._origin(wish) if wish.clone_from else None, found.origin),
            "url" if "://" in (wish.shown or "") else "path": (wish.shown, found.origin),
            "checksum": (wish.checksum, found.origin_checksum),
            "size": (wish.size, found.size_mb),
            # Of what an image was copied from, the format isn't kept.
            "format": (None if wish.origin else wish.format, found.format),
            "fs": (wish.fs, found.fs),
            "driver": (wish.driver, found.format),
        }
        for option, (wanted, current) in pairs.items():
            if wanted not in (None, current):
                made = "without one" if current is None else f"with {current!r}"
                return f"{option}: the image {found.name!r} was made {made}; only force: true replaces its data by new data with {wanted!r}."
        return ""

    def _origin(self, wish: DataWish) -> str | None:
        """A clone's is the name of its source, which may be gone, or made anew, since."""
        if wish.clone_from is None:
            return wish.shown
        source = self._known.find(wish.clone_from)
        return f"image:{source.name if source else wish.clone_from}"

    def _plan_empty(self, number: int, size: int, wish: DataWish, driver: DatastoreDriver, options: CopyOptions) -> CopiedImage:
        driver.require("mkfs")
        if options.image_type not in EMPTY_TYPES:
            accepted = f"an image of type {options.image_type} is made of a path or a url; those of type {' and '.join(EMPTY_TYPES)} can be empty"
            raise InvalidInput("size", size, accepted)
        image_format = wish.format or options.driver_format or "raw"
        if not driver.datastore.bridge_list:
            settings = driver.settings
            fs_options = settings.fs_options.get(wish.fs or "", "")
            check_datablock(format=image_format, size_mb=size, fs=wish.fs, supported=settings.supported_fs, fs_options=fs_options)
        self._to_make[number] = driver, lambda: CopiedImage(driver.mkfs(size, image_format, wish.fs, sparse=options.sparse), image_format, size)
        return CopiedImage("", image_format, size)

    def _plan_clone(self, number: int, reference: str, driver: DatastoreDriver, options: CopyOptions) -> CopiedImage:
        driver.require("clone")
        source = self._known.source(reference)
        if source.type not in driver.info.image_types:
            raise UnsupportedAction(f"clone_from: the image {source.name!r} is of type {source.type!r}, which the {driver.info.name} driver doesn't store.")
        wanted = options.driver_format if options.convert else None
        if options.image_type not in EMPTY_TYPES:
            # They are stored as they are, and nothing tells a domain that one is anything else than raw.
            wanted = "raw"
            if source.format not in ("raw", ""):
                accepted = f"an image of type {options.image_type} is a clone of a raw one, and {source.name!r} is {source.format}"
                raise InvalidInput("clone_from", reference, accepted)
        maker = self._wish_of.get(source.id)

        def make() -> CopiedImage:
            if maker is None:
                return driver.clone(source.path, source.format, options)
            if maker not in self.made:
                raise NotFound(f"clone_from: the image {source.name!r} could not be made.")
            return driver.clone(self.made[maker].source, self.made[maker].format, options)

        self._to_make[number] = driver, make
        return CopiedImage("", wanted or source.format, source.size_mb)

    @staticmethod
    def _copy_options(driver: DatastoreDriver, wish: DataWish, kind: str) -> CopyOptions:
        checksums = dict([wish.checksum.split(":")]) if wish.checksum else {}
        options = copy_options(driver.datastore.attributes, kind, checksums=checksums)
        given = {"driver_format": wish.driver, "sparse": wish.sparse, "convert": True if wish.driver else None, "verify": wish.verify}
        if wish.origin:
            given["image_format"] = wish.format
        return dataclasses.replace(options, **{name: value for name, value in given.items() if value is not None})


__all__ = ["EMPTY_TYPES", "ImageData"]
