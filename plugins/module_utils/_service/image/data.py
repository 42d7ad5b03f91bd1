# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The data of images that a plan is about: what it is made of, and whether what exists was made of that."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable

from ..._core import records
from ..._core.errors import Conflict, InvalidInput, NotFound, StaleState, UnsupportedAction, VmstoreError
from ..._driver.datastore.attributes import copy_options
from ..._driver.datastore.base import CopiedImage, CopyOptions, DatastoreDriver
from ..._image.datablock import check_datablock
from ..._model.image import Image, clone_origin, clone_source
from .known import KnownImages
from .options import DataWish
from .url_access import read_ca

#: Images that are made durable together. Each needs a descriptor until then.
BATCH = 100

#: Types of images that may begin empty.
EMPTY_TYPES = ("os", "datablock")


class ImageData:
    """What is made for a list of wishes, each known by its place in the list. It is made between two plans, and
    outlives the first.

    :arg lock: keeps other programs away from the data of the image with an id.
    :arg log: is told what goes on, one line a call.
    """

    def __init__(
        self, lock: Callable[[int], contextlib.AbstractContextManager[None]], log: Callable[[str], object]
    ) -> None:
        self._lock = lock
        self._log = log
        #: Whether what an image is to be made of is looked at while planning: in check mode nothing else does.
        self.look = True
        self.made: dict[int, CopiedImage] = {}
        self.failed: dict[int, VmstoreError] = {}
        #: What the user is to know of it.
        self.warnings: dict[int, tuple[str, ...]] = {}
        self._all_made = False
        #: How to make what the latest plan needs. In the order of the wishes, as one image can be a clone of another.
        self._to_make: dict[int, tuple[DatastoreDriver, Callable[[], CopiedImage]]] = {}
        #: How to grow images that exist, and which were grown to how many MiB. More room than the catalog knows of does
        #: no harm, so it isn't taken back.
        self._to_grow: dict[int, Callable[[], None]] = {}
        self._grown: dict[int, tuple[str, int]] = {}
        self._drivers: dict[int, DatastoreDriver] = {}
        #: What was made in a batch of its driver and isn't published yet.
        self._waiting: list[int] = []
        self._wish_of: dict[int, int] = {}
        # What a server or a file has, by what was asked for, outlives a plan.
        self._lists: dict[tuple[object, ...], bytes | VmstoreError] = {}
        self._authorities: dict[str, str] = {}

    def start(self, known: KnownImages) -> None:
        """A new plan is made."""
        self._known = known
        self._to_make = {}
        self._to_grow = {}
        self._wish_of = {}

    def make(self) -> None:
        """Make what the plan needs. What can't be made is kept in :attr:`failed`."""
        drivers = {id(driver): driver for driver, _make in self._to_make.values()}
        with contextlib.ExitStack() as batches:
            if len(self._to_make) > 1:
                for driver in drivers.values():
                    batches.enter_context(driver.batch())
            for number in sorted({*self._to_make, *self._to_grow}):
                try:
                    if number in self._to_grow:
                        self._to_grow[number]()
                    else:
                        self._drivers[number], make = self._to_make[number]
                        self.made[number] = make()
                        self._waiting.append(number)
                except VmstoreError as error:
                    self.failed[number] = error
                if len(self._waiting) >= BATCH:
                    self._publish()
            self._publish()
        self._all_made = True

    def _publish(self) -> None:
        """Let the drivers publish what was made since the last time."""
        waiting, self._waiting = self._waiting, []
        for driver in {id(self._drivers[number]): self._drivers[number] for number in waiting}.values():
            errors = driver.publish()
            for number in waiting:
                if self._drivers[number] is driver and self.made[number].source in errors:
                    self.failed[number] = errors[self.made.pop(number).source]

    def discard(self, *, keep: bool) -> None:
        """Remove what was made.

        :arg keep: but for what the latest plan has a place for.
        """
        with contextlib.ExitStack() as each:  # the others too where one can't be removed
            for number, made in self.made.items():
                if not (keep and number in self._to_make):
                    each.callback(self._drivers[number].rm, made.source)

    def plan(self, number: int, wish: DataWish, image: Image, driver: DatastoreDriver) -> Image:
        """``image`` with the data that was made for a wish; before that, with as much of it as is known: the path is
        empty, of copies the format, too.

        :raises StaleState: nothing was made for it, as there was no need for it when the first plan was made.
        :raises VmstoreError: the wish can't be granted.
        """
        wish = self.with_checksum(wish)
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
        # A datastore that was removed and made anew has another id, and other directories.
        if self._all_made and (made is None or self._drivers[number].datastore.id != driver.datastore.id):
            raise StaleState("Another program changed the catalog meanwhile; nothing was changed, run it again.")
        if made is not None and not self._known.has_data_at(made.source, driver.datastore):
            raise StaleState(
                f"The data of the image {image.name!r} was removed by another program while it was made; run it again."
            )
        self._wish_of[image.id] = number
        data = made or planned
        self.warnings[number] = data.warnings
        return records.replace(
            image,
            path=data.source,
            format=data.format,
            size_mb=data.size_mb,
            fs=wish.fs,
            origin=self._origin(wish),
            origin_checksum=wish.checksum,
            # Domains write to a persistent one.
            checksum=None if image.persistent else data.checksum,
        )

    def with_checksum(self, wish: DataWish) -> DataWish:
        """Return a wish with the checksum itself, of the file that has it. Each file is fetched once.

        :raises VmstoreError: the file can't be fetched, or has no such checksum.
        """
        if wish.checksum_list is None or wish.checksum is not None or wish.origin is None:
            return wish
        from ..._image.checksum_list import fetch_list, find_checksum

        algorithm, url = wish.checksum_list.algorithm, wish.checksum_list.url
        headers = wish.headers_for(url)
        key = (url, *sorted(headers.items()), wish.ca_path)
        if key not in self._lists:
            try:
                self._lists[key] = fetch_list(url, headers=headers, ca=self._authority(wish.ca_path), log=self._log)
            except VmstoreError as error:
                self._lists[key] = error
        content = self._lists[key]
        if isinstance(content, VmstoreError):
            raise content
        return records.replace(
            wish, checksum=f"{algorithm}:{find_checksum(content, algorithm, wish.origin, wish.checksum_list.shown)}"
        )

    def compared(self, number: int, wish: DataWish, found: Image) -> DataWish:
        """As :meth:`with_checksum`, of an image that exists. Where it was made of the same path or URL, it doesn't need
        the file, and a warning is enough.

        :raises VmstoreError: as :meth:`with_checksum`, where the image was made of something else.
        """
        try:
            return self.with_checksum(wish)
        except VmstoreError as error:
            if found.origin is None or found.origin != wish.shown:
                raise
            self.warnings[number] = (
                f"The image {found.name!r} stays as it is, and wasn't compared with its checksum: {error}",
            )
            return wish

    def _authority(self, path: str | None) -> str | None:
        if path is not None and path not in self._authorities:
            self._authorities[path] = read_ca("ca_path", path)
        return None if path is None else self._authorities[path]

    def difference(self, wish: DataWish, found: Image) -> str:
        """Why the data of an image isn't what is wanted, and what can be done; empty if it is, as far as the wish says
        anything.

        An image that only has to grow, or whose origin is elsewhere now, has no difference.
        """
        is_same = has_checksum(found, wish.checksum)
        origin = found.as_dict(self._known.name_of)["origin"]
        clone = (
            wish.clone_from
            and not self._is_source(wish.clone_from, found)
            and f"image:{self._known.source(wish.clone_from).name}"
        )
        pairs = {
            "clone_from": (clone or None, origin),
            "url" if "://" in (wish.shown or "") else "path": (None if is_same else wish.shown, origin),
            "checksum": (None if is_same else wish.checksum, found.origin_checksum),
            "size": (None if grows(wish, found) else wish.size, found.size_mb),
            # Of what an image was copied from, the format isn't kept.
            "format": (None if wish.origin else wish.format, found.format),
            "fs": (wish.fs, found.fs),
            "driver": (wish.driver, found.format),
        }
        for option, (wanted, current) in pairs.items():
            if wanted not in (None, current):
                made = "without one" if current is None else f"with {current!r}"
                keep = f"leave {option} out"
                if option in ("path", "url") and found.origin_checksum is not None and wish.checksum is None:
                    keep = f"leave {option} out, or give checksum: {found.origin_checksum} if the same is there,"
                where = f" of {wish.checksum_list.shown}" if option == "checksum" and wish.checksum_list else ""
                replaced = f"give force: true to lose all that it holds and get new data with {wanted!r}{where}"
                return f"{option}: the image {found.name!r} was made {made}; {keep} to keep its data, or {replaced}."
        return ""

    def moved(self, wish: DataWish, found: Image) -> dict[str, str | None]:
        """Return what changes in the row of an image whose origin is elsewhere now: the same checksum is the same data,
        wherever it comes from.
        """
        if wish.shown is None or not has_checksum(found, wish.checksum):
            return {}
        return {"origin": wish.shown, "origin_checksum": wish.checksum}

    def grow(self, number: int, wish: DataWish, found: Image, driver: DatastoreDriver) -> Image:
        """``found`` as large as a wish says. As all data, that is made between two plans.

        :raises StaleState: it wasn't grown, as there was no need for it when the first plan was made.
        :raises VmstoreError: it can't grow.
        """
        size = wish.size or 0
        driver.require("resize")
        check_datablock(format=found.format, size_mb=size, fs=None)
        if not self._all_made and driver.snapshots(found.path):
            raise Conflict(
                f"size: the image {found.name!r} can't grow while it has snapshots: remove them with the module "
                "image_snapshot first."
            )
        if self._all_made and self._grown.get(number) != (found.path, size):
            raise StaleState("Another program changed the catalog meanwhile; nothing was changed, run it again.")
        if found.fs is not None:
            kept = f"The {found.fs} in the image {found.name!r} keeps its {found.size_mb} MiB"
            self.warnings[number] = (
                f"{kept} until it is grown in a guest, such as with resize2fs, xfs_growfs or mkswap.",
            )
        options = self._copy_options(driver, wish, found.type)
        if self.look:
            driver.preview_resize(found.path, found.format, size, sparse=options.sparse)

        def grow() -> None:
            with self._lock(found.id):
                driver.resize(found.path, found.format, size, sparse=options.sparse)
            self._grown[number] = (found.path, size)

        self._to_grow[number] = grow
        return records.replace(found, size_mb=size, checksum=None)

    def _origin(self, wish: DataWish) -> str | None:
        return wish.shown if wish.clone_from is None else clone_origin(self._known.source(wish.clone_from))

    def _is_source(self, reference: str, found: Image) -> bool:
        """Return whether an image is a clone of another, which may have a new name, be removed, or be made anew under
        its name since.
        """
        recorded = clone_source(found.origin)
        if recorded is None:
            return False
        source = self._known.find(reference)
        if source is None:
            return reference in (recorded.name, str(recorded.id))
        return recorded.id == source.id or recorded.name == source.name

    def _plan_empty(
        self, number: int, size: int, wish: DataWish, driver: DatastoreDriver, options: CopyOptions
    ) -> CopiedImage:
        driver.require("mkfs")
        if options.image_type not in EMPTY_TYPES:
            accepted = f"an image of type {options.image_type} is made of a path or a url; those of type {' and '.join(EMPTY_TYPES)} can be empty"
            raise InvalidInput("size", size, accepted)
        image_format = wish.format or options.driver_format or "raw"
        driver.check_mkfs(size, image_format, wish.fs)
        if self.look:
            driver.preview_mkfs(size, image_format, wish.fs, sparse=options.sparse)
        self._to_make[number] = (
            driver,
            lambda: CopiedImage(driver.mkfs(size, image_format, wish.fs, sparse=options.sparse), image_format, size),
        )
        return CopiedImage("", image_format, size)

    def _plan_clone(self, number: int, reference: str, driver: DatastoreDriver, options: CopyOptions) -> CopiedImage:
        driver.require("clone")
        source = self._known.source(reference)
        if source.type not in driver.info.image_types:
            raise UnsupportedAction(
                f"clone_from: the image {source.name!r} is of type {source.type!r}, which the {driver.info.name} "
                "driver doesn't store."
            )
        wanted = options.driver_format if options.convert else None
        if options.image_type not in EMPTY_TYPES:
            # They are stored as they are, and nothing tells a domain that one is anything else than raw.
            wanted = "raw"
            if source.format not in ("raw", ""):
                accepted = f"an image of type {options.image_type} is a clone of a raw one, and {source.name!r} is {source.format}"
                raise InvalidInput("clone_from", reference, accepted)
        other = self._known.datastore(source.datastore_id)
        subject = f"clone_from: the image {source.name!r}"
        origin = None if other is None else driver.clone_origin(other, subject)
        named = {} if origin is None else {"origin": origin}
        maker = self._wish_of.get(source.id)

        def clone(clone: Callable[..., CopiedImage]) -> CopiedImage:
            if maker in self._waiting:
                self._publish()
            if maker is not None and maker not in self.made:
                raise NotFound(f"clone_from: the image {source.name!r} could not be made.")
            path, image_format = (
                (source.path, source.format) if maker is None else (self.made[maker].source, self.made[maker].format)
            )
            try:
                return clone(path, image_format, options, **named)
            except InvalidInput as error:  # which names an option of the driver
                raise InvalidInput(
                    "clone_from", reference, f"its data at {path} can't be used: {error.accepted}"
                ) from error

        self._to_make[number] = driver, functools.partial(clone, driver.clone)
        warnings = clone(driver.preview_clone).warnings if self.look and maker is None else ()
        return CopiedImage("", wanted or source.format, source.size_mb, warnings)

    def _copy_options(self, driver: DatastoreDriver, wish: DataWish, kind: str) -> CopyOptions:
        checksums = dict([wish.checksum.split(":")]) if wish.checksum else {}
        options = copy_options(driver.datastore.attributes, kind, checksums=checksums)
        given = {
            "driver_format": wish.driver,
            "sparse": wish.sparse,
            "convert": True if wish.driver else None,
            "verify": wish.verify,
        }
        if wish.origin:
            given.update(image_format=wish.format, headers=wish.headers, ca=self._authority(wish.ca_path))
        return records.replace(options, **{name: value for name, value in given.items() if value is not None})


def has_checksum(found: Image, checksum: str | None) -> bool:
    """Return whether an image is known to be made of something with this checksum.

    Domains write to a persistent one, so its own doesn't tell.
    """
    return checksum is not None and checksum in (found.origin_checksum, None if found.persistent else found.checksum)


def grows(wish: DataWish, found: Image) -> bool:
    """Return whether a wish is about an image that began empty and needs no more than to grow."""
    return wish.size is not None and wish.size > found.size_mb and found.origin is None and found.type in EMPTY_TYPES


__all__ = ["EMPTY_TYPES", "ImageData", "grows"]
