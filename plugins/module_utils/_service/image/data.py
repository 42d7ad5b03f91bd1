# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The data of the images of a plan: its creation, and its comparison with existing data."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from ..._core import records
from ..._core.errors import Conflict, InvalidInput, NotFound, StaleState, UnsupportedAction, VmstoreError
from ..._core.plan import Preparation
from ..._driver.datastore.attributes import copy_options
from ..._driver.datastore.base import CopiedImage, CopyOptions, DatastoreDriver
from ..._image.datablock import check_datablock
from ..._model.image import Image, clone_origin, clone_source
from .known import KnownImages
from .making import Batch, Growth, NewData
from .options import DataSpec
from .saved_disk import SavedDisks, refuse_other_types
from .url_access import read_ca

#: Types of images that may begin empty.
EMPTY_TYPES = ("os", "datablock")

#: Types of images that can be made of a disk of a VM.
DISK_TYPES = ("os", "datablock", "cdrom")


class ImageData:
    """The data of a list of images, each identified by its number in the list. A new plan reuses the data that was
    created or fetched for the previous plan.

    :arg lock: returns the lock on the data of the image with an id.
    :arg log: a callable that gets each log line.
    """

    def __init__(
        self, lock: Callable[[int], contextlib.AbstractContextManager[None]], log: Callable[[str], object]
    ) -> None:
        self._lock = lock
        self._log = log
        self._planned: dict[int, NewData | Growth] = {}
        self._done: dict[int, NewData | Growth] = {}
        self._batch = Batch()
        # Downloaded lists of checksums and certificates of CAs, by their source.
        self._lists: dict[tuple[object, ...], bytes | VmstoreError] = {}
        self._authorities: dict[str, str] = {}

    def start(self, known: KnownImages, *, look: bool) -> None:
        """Begin a new plan.

        :arg look: whether planning reads the origins of images, because no data will be created.
        """
        self._known = known
        self._look = look
        self._done.update({number: one for number, one in self._planned.items() if one.is_done})
        self._planned = {}
        #: The number of a new image in the list, by the id of the image.
        self._number_of: dict[int, int] = {}
        #: Warnings for the user, by the number of the image.
        self.warnings: dict[int, tuple[str, ...]] = {}

    def error(self, number: int) -> VmstoreError | None:
        """Return the error because of which an image has no data."""
        done = self._done.get(number)
        return None if done is None else done.error

    def preparing(self) -> contextlib.AbstractContextManager[None]:
        """Return a block in which the data of the plan is created."""
        return self._batch.open([one for one in self._planned.values() if isinstance(one, NewData)])

    def plan(
        self, number: int, spec: DataSpec, image: Image, driver: DatastoreDriver
    ) -> tuple[Image, tuple[Preparation, ...]]:
        """Return ``image`` with its data, and the preparations that create the data.

        Before the data exists, the image has only the known values: the path is empty, and so is the format of a copy.

        :raises StaleState: the data was created, and another program removed it.
        :raises VmstoreError: the data can't be created as requested.
        """
        spec = self.with_checksum(spec)
        options = self._copy_options(driver, spec, image.type)
        make, found = self._source(spec, driver, options)
        planned = self._done.get(number)
        # A datastore that was removed and created again has another id, and other directories.
        if not isinstance(planned, NewData) or planned.driver.datastore.id != driver.datastore.id:
            planned = NewData(driver, make, self._batch)
        elif planned.made is not None:
            found = planned.made
            if not self._known.has_data_at(found.source, driver.datastore):
                raise StaleState(
                    f"The data of the image {image.name!r} was removed by another program while it was made; run it "
                    "again."
                )
        self._planned[number] = planned
        self._number_of[image.id] = number
        self.warnings[number] = found.warnings
        image = records.replace(
            image,
            path=found.source,
            format=found.format,
            size_mb=found.size_mb,
            fs=spec.fs,
            origin=self._origin(spec),
            origin_checksum=spec.checksum,
            # Domains change the data of a persistent image.
            checksum=None if image.persistent else found.checksum,
        )
        return image, (planned.prepare,)

    def _source(
        self, spec: DataSpec, driver: DatastoreDriver, options: CopyOptions
    ) -> tuple[Callable[[], CopiedImage], CopiedImage]:
        """Return the function that creates the data, and the known values of the data."""
        if spec.size is not None:
            return self._empty(spec.size, spec, driver, options)
        if spec.clone_from is not None:
            return self._clone(spec.clone_from, driver, options)
        if spec.from_disk is not None:
            refuse_other_types(options.image_type, DISK_TYPES)
            return self._disks().plan(spec.from_disk, driver, look=self._look)
        if spec.origin is None:
            raise InvalidInput("path", None, "a new image needs a path, a url, a clone_from, a from_disk or a size")
        known = driver.preview(spec.origin, options) if self._look else CopiedImage("", "", 0)
        return functools.partial(driver.cp, spec.origin, options), known

    def with_checksum(self, spec: DataSpec) -> DataSpec:
        """Return ``spec`` with the checksum from the list of checksums. Each list is fetched once.

        :raises VmstoreError: the list can't be fetched, or lacks the checksum.
        """
        if spec.checksum_list is None or spec.checksum is not None or spec.origin is None:
            return spec
        from ..._image.checksum_list import fetch_list, find_checksum

        algorithm, url = spec.checksum_list.algorithm, spec.checksum_list.url
        headers = spec.headers_for(url)
        key = (url, *sorted(headers.items()), spec.ca_path)
        if key not in self._lists:
            try:
                self._lists[key] = fetch_list(url, headers=headers, ca=self._authority(spec.ca_path), log=self._log)
            except VmstoreError as error:
                self._lists[key] = error
        content = self._lists[key]
        if isinstance(content, VmstoreError):
            raise content
        return records.replace(
            spec, checksum=f"{algorithm}:{find_checksum(content, algorithm, spec.origin, spec.checksum_list.redacted)}"
        )

    def with_known_checksum(self, number: int, spec: DataSpec, found: Image) -> DataSpec:
        """Return ``spec`` with the checksum from the list of checksums, for an existing image.

        Where the image has the same path or URL as its origin, a list that can't be fetched is a warning only.

        :raises VmstoreError: the list can't be fetched, or lacks the checksum, and the origin is another one.
        """
        try:
            return self.with_checksum(spec)
        except VmstoreError as error:
            if found.origin is None or found.origin != spec.redacted:
                raise
            self.warnings[number] = (
                f"The image {found.name!r} stays as it is, and wasn't compared with its checksum: {error}",
            )
            return spec

    def _authority(self, path: str | None) -> str | None:
        if path is not None and path not in self._authorities:
            self._authorities[path] = read_ca("ca_path", path)
        return None if path is None else self._authorities[path]

    def find_difference(self, spec: DataSpec, found: Image) -> str:
        """Return the first difference between the data of an image and ``spec``, with the possible remedies; empty
        without one.

        An image that only has to grow, or whose origin has another address now, has no difference.
        """
        is_same = has_checksum(found, spec.checksum)
        origin = found.as_dict(self._known.name_of)["origin"]
        clone = (
            spec.clone_from
            and not self._is_source(spec.clone_from, found)
            and f"image:{self._known.source(spec.clone_from).name}"
        )
        pairs = {
            "clone_from": (clone or None, origin),
            "from_disk": (spec.from_disk and self._disks().origin(spec.from_disk), origin),
            "url" if "://" in (spec.redacted or "") else "path": (None if is_same else spec.redacted, origin),
            "checksum": (None if is_same else spec.checksum, found.origin_checksum),
            "size": (None if has_to_grow(spec, found) else spec.size, found.size_mb),
            # The recorded format isn't that of the file the image was copied from.
            "format": (None if spec.origin else spec.format, found.format),
            "fs": (spec.fs, found.fs),
            "driver": (spec.driver, found.format),
        }
        for option, (wanted, current) in pairs.items():
            if wanted not in (None, current):
                made = "without one" if current is None else f"with {current!r}"
                keep = f"leave {option} out"
                if option in ("path", "url") and found.origin_checksum is not None and spec.checksum is None:
                    keep = f"leave {option} out, or give checksum: {found.origin_checksum} if the same is there,"
                where = f" of {spec.checksum_list.redacted}" if option == "checksum" and spec.checksum_list else ""
                replaced = f"give force: true to lose all that it holds and get new data with {wanted!r}{where}"
                return f"{option}: the image {found.name!r} was made {made}; {keep} to keep its data, or {replaced}."
        return ""

    def with_new_origin(self, spec: DataSpec, found: Image, wanted: Image) -> Image:
        """Return ``wanted`` with the new address of its origin, where the checksum is the same.

        The address of the origin makes no difference to a domain.
        """
        if spec.redacted is None or not has_checksum(found, spec.checksum):
            return wanted
        return records.replace(wanted, origin=spec.redacted, origin_checksum=spec.checksum)

    def grow(
        self, number: int, spec: DataSpec, found: Image, driver: DatastoreDriver
    ) -> tuple[Image, tuple[Preparation, ...]]:
        """Return ``found`` with the requested size, and the preparations that enlarge the data.

        :raises VmstoreError: the data can't grow.
        """
        size = spec.size or 0
        driver.require("resize")
        check_datablock(format=found.format, size_mb=size, fs=None)
        grown = self._done.get(number)
        if grown is None and driver.snapshots(found.path):
            raise Conflict(
                f"size: the image {found.name!r} can't grow while it has snapshots: remove them with the module "
                "image_snapshot first."
            )
        if found.fs is not None:
            kept = f"The {found.fs} in the image {found.name!r} keeps its {found.size_mb} MiB"
            self.warnings[number] = (
                f"{kept} until it is grown in a guest, such as with resize2fs, xfs_growfs or mkswap.",
            )
        sparse = self._copy_options(driver, spec, found.type).sparse
        if self._look:
            driver.preview_resize(found.path, found.format, size, sparse=sparse)

        def grow() -> None:
            with self._lock(found.id):
                driver.resize(found.path, found.format, size, sparse=sparse)

        if not isinstance(grown, Growth) or grown.target != (found.path, size):
            grown = Growth(found.path, size, grow)
        self._planned[number] = grown
        return records.replace(found, size_mb=size, checksum=None), (grown.prepare,)

    def _disks(self) -> SavedDisks:
        return SavedDisks(self._known.catalog, self._log)

    def _origin(self, spec: DataSpec) -> str | None:
        if spec.from_disk is not None:
            return self._disks().origin(spec.from_disk)
        return spec.redacted if spec.clone_from is None else clone_origin(self._known.source(spec.clone_from))

    def _is_source(self, reference: str, found: Image) -> bool:
        """Return whether ``found`` is a clone of the image ``reference``. Since the cloning, that image may have
        been renamed, removed, or created again under its name.
        """
        recorded = clone_source(found.origin)
        if recorded is None:
            return False
        source = self._known.find(reference)
        if source is None:
            return reference in (recorded.name, str(recorded.id))
        return recorded.id == source.id or recorded.name == source.name

    def _empty(
        self, size: int, spec: DataSpec, driver: DatastoreDriver, options: CopyOptions
    ) -> tuple[Callable[[], CopiedImage], CopiedImage]:
        driver.require("mkfs")
        if options.image_type not in EMPTY_TYPES:
            accepted = (
                f"an image of type {options.image_type} is made of a path or a url; those of type "
                f"{' and '.join(EMPTY_TYPES)} can be empty"
            )
            raise InvalidInput("size", size, accepted)
        image_format = spec.format or options.driver_format or "raw"
        driver.check_mkfs(size, image_format, spec.fs)
        if self._look:
            driver.preview_mkfs(size, image_format, spec.fs, sparse=options.sparse)

        def make() -> CopiedImage:
            return CopiedImage(driver.mkfs(size, image_format, spec.fs, sparse=options.sparse), image_format, size)

        return make, CopiedImage("", image_format, size)

    def _clone(
        self, reference: str, driver: DatastoreDriver, options: CopyOptions
    ) -> tuple[Callable[[], CopiedImage], CopiedImage]:
        driver.require("clone")
        source = self._known.source(reference)
        if source.type not in driver.info.image_types:
            raise UnsupportedAction(
                f"clone_from: the image {source.name!r} is of type {source.type!r}, which the {driver.info.name} "
                "driver doesn't store."
            )
        wanted = options.driver_format if options.convert else None
        if options.image_type not in EMPTY_TYPES:
            # Such images are stored unchanged, and a domain has no information about another format than raw.
            wanted = "raw"
            if source.format not in ("raw", ""):
                accepted = (
                    f"an image of type {options.image_type} is a clone of a raw one, and {source.name!r} is "
                    f"{source.format}"
                )
                raise InvalidInput("clone_from", reference, accepted)
        other = self._known.datastore(source.datastore_id)
        subject = f"clone_from: the image {source.name!r}"
        origin = None if other is None else driver.clone_origin(other, subject)
        named = {} if origin is None else {"origin": origin}
        maker = self._planned.get(self._number_of.get(source.id, -1))

        def clone(clone: Callable[..., CopiedImage]) -> CopiedImage:
            path, image_format = self._find_data(source, maker)
            try:
                return clone(path, image_format, options, **named)
            except InvalidInput as error:  # the error names an option of the driver
                raise InvalidInput(
                    "clone_from", reference, f"its data at {path} can't be used: {error.accepted}"
                ) from error

        warnings = clone(driver.preview_clone).warnings if self._look and maker is None else ()
        return functools.partial(clone, driver.clone), CopiedImage(
            "", wanted or source.format, source.size_mb, warnings
        )

    def _find_data(self, source: Image, maker: NewData | Growth | None) -> tuple[str, str]:
        """Return the path and the format of the data that a clone is made of.

        :arg maker: the data, where the same plan creates it.
        :raises NotFound: the data could not be created.
        """
        if not isinstance(maker, NewData):
            return source.path, source.format
        if self._batch.holds(maker):
            self._batch.publish()
        if maker.made is None:
            raise NotFound(f"clone_from: the image {source.name!r} could not be made.")
        return maker.made.source, maker.made.format

    def _copy_options(self, driver: DatastoreDriver, spec: DataSpec, kind: str) -> CopyOptions:
        checksums = dict([spec.checksum.split(":")]) if spec.checksum else {}
        options = copy_options(driver.datastore.attributes, kind, checksums=checksums)
        given: dict[str, Any] = {
            "driver_format": spec.driver,
            "sparse": spec.sparse,
            "convert": True if spec.driver else None,
            "verify": spec.verify,
        }
        if spec.origin:
            given.update(image_format=spec.format, headers=spec.headers, ca=self._authority(spec.ca_path))
        return records.replace(options, **{name: value for name, value in given.items() if value is not None})


def has_checksum(found: Image, checksum: str | None) -> bool:
    """Return whether the origin or the data of an image is known to have this checksum.

    The checksum of a persistent image's data isn't compared, because domains change that data.
    """
    return checksum is not None and checksum in (found.origin_checksum, None if found.persistent else found.checksum)


def has_to_grow(spec: DataSpec, found: Image) -> bool:
    """Return whether an image began empty and only has to grow to the desired size."""
    return spec.size is not None and spec.size > found.size_mb and found.origin is None and found.type in EMPTY_TYPES


__all__ = ["EMPTY_TYPES", "ImageData", "has_to_grow"]
