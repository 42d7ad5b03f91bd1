# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Image files in a directory (spec: storage-driver): an image is ``<base path>/<32 hexadecimal digits>``, its
snapshots are in ``<image>.snap``.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from ..._core import records
from ..._core.block_device import is_block_device, length_of
from ..._core.digits import is_decimal, is_hexadecimal
from ..._core.directory import opened_directory
from ..._core.errors import Conflict, InvalidInput, LibvirtFailed, PathNotAllowed, StaleState, VmstoreError, os_errors
from ..._core.paths import absolute
from ..._core.records import TYPE_CHECKING
from ..._image.checksum import DIGEST_LENGTHS
from ..._image.disk_signs import disk_sign
from ..._image.image_file import HEAD_SIZE, disk_size, inspect, opened_file, qemu_name, virtual_size
from ..._image.magic import COMPRESSIONS, ENOUGH, QEMU_FORMATS, TAIL, is_packed, refusal, sniff
from ..._image.new_image import NewImage, new_image, sweep
from ..._image.vhd_tables import FOOTER, fixed_vhd_size, has_two_sizes
from .base import COPY_ATTRIBUTES, CopiedImage, CopyOptions, DatastoreDriver, DriverInfo, ExportedImage
from .directory import MEBIBYTE, DirectoryDriver
from .source_file import chunks_of, opened

if TYPE_CHECKING:
    import hashlib
    from typing import Any

    from ..._image.batch import Batch
    from ..._image.checked_image import CheckedImage
    from ..._image.image_chain import ImageChain, OpenChain
    from ..._image.inventory import Inventory
    from ..._image.still import StillFiles
    from ..._model.datastore import Datastore

#: Seconds for qemu-img to convert an image, or for mkfs: a day, which is more than any disk takes.
COPY_TIMEOUT = 86400

FORMATS = ("raw", "qcow2")
#: Seconds without a byte of a URL that is only looked at.
PREVIEW_TIMEOUT = 10

#: Who has QEMU's locks on an image, where nobody is known to have it open.
LOCKED = "a program such as QEMU, perhaps on another host that shares it"

#: What a front-end asks for when the data is put at the source by another action (save-as of a disk): only a name.
NAME_ONLY = "save_as"


#: FS_OPTS_<FS> of the file systems that most images have.
FS_OPTIONS = tuple(f"fs_opts_{fs}" for fs in ("btrfs", "ext2", "ext3", "ext4", "swap", "vfat", "xfs"))


class FsDriver(DirectoryDriver):
    info = DriverInfo(
        "fs",
        datastore_types=frozenset(["image", "file"]),
        image_types=frozenset(["os", "cdrom", "datablock", "kernel", "ramdisk", "context"]),
        tm_drivers=("local", "shared", "ssh"),
        actions=frozenset(["clone", "export", "mkfs", "resize", "snapshot"]),
        attributes=frozenset([*COPY_ATTRIBUTES, "qcow2_options", "supported_fs", *FS_OPTIONS]),
    )

    _is_swept = False
    _batch: Batch | None = None

    def __new__(cls, datastore: Datastore, **options: Any) -> DatastoreDriver:  # type: ignore[misc]
        """The driver that acts on one of the hosts of a BRIDGE_LIST, where the datastore has one."""
        if datastore.bridge_list:
            from .bridge import BridgedFsDriver

            return BridgedFsDriver(datastore, **options)
        return super().__new__(cls)

    def try_attributes(self) -> None:
        from .attributes import try_values

        try_values(self.datastore.attributes)

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        from ..._image.batch import Batch

        self._batch = Batch()
        try:
            yield
        finally:
            self._batch.discard()
            self._batch = None

    def publish(self) -> Mapping[str, VmstoreError]:
        errors = {} if self._batch is None else self._batch.publish()
        return {self._source(path): error for path, error in errors.items()}

    def cp(self, path: str, options: CopyOptions) -> CopiedImage:
        """Copy, fetch or decompress what is at ``path``, check it, and convert it where the datastore has a format.

        The files of a file datastore are stored as they are. What nothing tells to be a disk is stored with a
        warning.

        :raises PathNotAllowed: SAFE_DIRS and RESTRICTED_DIRS don't allow the path.
        :raises InvalidInput: empty, not an image, one that needs other files, an archive, or a checksum that doesn't
            match.
        :raises Conflict, StaleState: a program has a local file open for writing, or wrote to it meanwhile.
        :raises VmstoreError: it can't be read, fetched or stored. Nothing is left behind.
        """
        self.require_type(options.image_type)
        digests = Digests(options.checksums)
        warnings: list[str] = []
        with self._new_image() as part:
            if is_url(path):
                self._fetch(path, part.fd, options, digests, warnings.append)
            else:
                warnings += self._copy(path, part.fd, options, digests)
            verify(path, options.checksums, digests.came)
            with os_errors(f"read what was copied from {shown(path)}"):
                head, tail, _length = ends(part.fd, HEAD_SIZE)
            warnings += self._judged(head, tail, path, options)
            return with_warnings(
                self._finished(part, path, options.image_format, options, verify=options.verify, digests=digests),
                warnings,
            )

    @staticmethod
    def _checksum(image: str, checksums: Mapping[str, str]) -> str | None:
        """Return the checksum of an image by the first algorithm of ``checksums``, ``None`` where there is none."""
        if not checksums:
            return None
        with opened_file(image) as descriptor:
            return FsDriver._digests_of(descriptor, image, checksums).of_stored()

    @staticmethod
    def _digests_of(descriptor: int, path: str, checksums: Mapping[str, str]) -> Digests:
        """Return the digests of an open file, which isn't read where no checksum is asked for."""
        digests = Digests(checksums)
        if checksums:
            with os_errors(f"read {path}"):
                for _chunk in hashed(chunks_of(descriptor), digests.came):
                    pass
        return digests

    def clone(
        self, source: str, image_format: str | None, options: CopyOptions, origin: Datastore | None = None
    ) -> CopiedImage:
        """
        :arg source: an image of this datastore or, in the same location, of another.
        :arg origin: the datastore on this host that has the source, wherever it is.
        :arg image_format: what the image is; its own header isn't asked then, which whoever writes to a raw disk
            could have made.
        :raises VmstoreError: the source isn't such an image, or can't be copied. Nothing is left behind.
        """
        from ..._image.copy import convert, copy_local

        with (
            self._cloned(source, image_format, options, origin) as (content, still, warnings),
            self._new_image() as part,
        ):
            if len(content.reads) == 1:
                copy_local(content.first, part.fd, sparse=options.sparse)
                still.check()
                return with_warnings(self._finished(part, source, image_format, options), [*warnings, *still.warnings])
            wanted = self._format_of_clone(options)
            creation = self._creation_options(wanted)
            convert(
                content.image,
                "qcow2",
                part.fd,
                wanted,
                reads=content.reads,
                options=creation,
                sparse=options.sparse,
                timeout=COPY_TIMEOUT,
            )
            still.check()
            return with_warnings(self._finished(part, source, wanted, options), [*warnings, *still.warnings])

    @contextlib.contextmanager
    def _cloned(
        self, source: str, image_format: str | None, options: CopyOptions, origin: Datastore | None
    ) -> Iterator[tuple[OpenChain, StillFiles, list[str]]]:
        """Yield the open files of an image to clone, how they were at the beginning, and warnings about them."""
        from ..._image.checked_image import missing_ends
        from ..._image.image_chain import ImageChain
        from ..._image.still import StillFiles

        path = self._image(source, beside=True) if origin is None else FsDriver(origin)._image(source)
        files = self._files(path, image_format)
        with ImageChain(tuple(files), "qcow2" if len(files) > 1 else "raw").opened() as content:
            still = StillFiles(content.reads, verify=options.verify, words=self.words)
            damage = missing_ends(content.reads, "qcow2" if len(files) > 1 else image_format)
            if damage and options.verify:
                raise Conflict(
                    f"The image {source} is damaged: {damage}; {self.words.unverified} clones it nevertheless."
                )
            # A snapshot that was deleted, or reverted to, before all files were open makes them a chain that never
            # was.
            if len(files) > 1 and self._files(path, image_format) != files:
                raise StaleState(f"The snapshots of the image {source} changed while it was cloned; try again.")
            yield (
                content,
                still,
                [f"The image {source} is damaged, but cloned because {self.words.is_unverified}: {damage}."]
                if damage
                else [],
            )

    @staticmethod
    def _format_of_clone(options: CopyOptions) -> str:
        """Return the format that a chain of qcow2 files is merged into."""
        return options.driver_format if options.convert and options.driver_format else "qcow2"

    def mkfs(self, size_mb: int, image_format: str, fs: str | None, *, sparse: bool = True) -> str:
        """
        :arg fs: one of the supported file systems, ``swap``, or ``None`` for an empty image.
        :raises InvalidInput: a format, size or file system that isn't supported.
        :raises CommandFailed: the command that makes the file system is missing or failed. Nothing is left behind.
        """
        from ..._image.datablock import make_datablock

        if image_format == NAME_ONLY:
            self.prepare()
            return self._source(os.urandom(16).hex())
        with self._new_image() as part:
            make_datablock(part, **self._datablock(size_mb, image_format, fs, sparse), timeout=COPY_TIMEOUT)
            return self._source(part.commit())

    def _datablock(self, size_mb: int, image_format: str, fs: str | None, sparse: bool) -> dict[str, Any]:
        """Return the arguments of :func:`make_datablock`."""
        return {
            "format": image_format,
            "size_mb": size_mb,
            "fs": fs,
            "supported": self.settings.supported_fs,
            "fs_options": self.settings.fs_options.get(fs or "", ""),
            "qcow2_options": self.settings.qcow2_options,
            "sparse": sparse,
        }

    def resize(self, source: str, image_format: str, size_mb: int, *, sparse: bool = True) -> None:
        """
        :arg image_format: raw or qcow2.
        :raises Conflict: it has snapshots, or a program uses it.
        :raises VmstoreError: it isn't an image of this datastore, or can't be written.
        """
        from ..._image.resize import grow_image

        path, image_format = self._image_with_snapshots(source, image_format)
        grow_image(path, image_format, size_mb * MEBIBYTE, sparse=sparse, timeout=COPY_TIMEOUT)

    def rm(self, source: str) -> None:
        """
        :raises InvalidInput: ``source`` isn't an image of this datastore.
        """
        from ..._image.snapshots import remove_image

        remove_image(self._image(source), sweeping=self._is_first(), batch=self._batch)

    def stat(self, path: str, *, no_decompress: bool = False, any_content: bool = False) -> int:
        """By the beginning of the file alone where that tells the size: compressed raw data has to be counted.

        :raises VmstoreError: as :meth:`cp`.
        """
        options = CopyOptions("", no_decompress=no_decompress, any_content=any_content)
        if is_url(path):
            size = self._size_at_url(path, options)
        elif os.path.isdir(path):
            from ..._host.directory import Measuring, look

            return look(path, check=self.check, measuring=Measuring(self.timeout, self.log)).size_mb or 0
        else:
            with opened(path, self.check) as descriptor:
                head, tail, length = ends(descriptor, HEAD_SIZE)
                kind = sniff(head, tail)
                self._require_image(kind, path, options)
                if kind in QEMU_FORMATS and not self._keeps(options):
                    size = disk_size(descriptor, kind, path)
                else:
                    size = self._size(head, tail, length, chunks_of(descriptor), path, options)
        return in_mebibytes(size)

    def preview(self, path: str, options: CopyOptions) -> CopiedImage:
        """
        :raises VmstoreError: as :meth:`cp`.
        """
        self.require_type(options.image_type)
        if is_url(path):
            return self._previewed_at_url(path, options)
        from ..._image.copy import foresee_copy
        from ..._image.still import StillFiles

        with opened(path, self.check) as descriptor, self._target() as target:
            still = StillFiles({descriptor: path}, verify=options.verify, words=self.words)
            head, tail, length = ends(descriptor, HEAD_SIZE)
            kind = sniff(head, tail)
            self._require_image(kind, path, options)
            if self._unpacks(options) and kind in COMPRESSIONS:
                return with_warnings(self._previewed(chunks_of(descriptor), path, options), still.warnings)
            taken = foresee_copy(descriptor, target, sparse=options.sparse)
            verify(path, options.checksums, self._digests_of(descriptor, path, options.checksums).came)
            judged = self._judged(head, tail, path, options)
            if self.datastore.type == "file":
                return CopiedImage("", "", in_mebibytes(length), (*still.warnings, *judged))
            if is_block_device(descriptor) and kind in QEMU_FORMATS and not self._keeps(options):
                # qemu-img opens only files here. Of an image on a device, the header tells enough.
                return with_warnings(self._previewed_beginning(head, tail, length, path, options), still.warnings)
            image, warnings = self._checked(descriptor, path, options.image_format, options, options.verify)
            self._foresee_conversion(descriptor, image, path, options, target, taken)
            return CopiedImage("", "", in_mebibytes(image.virtual_size), (*still.warnings, *judged, *warnings))

    def _previewed(self, chunks: Iterable[bytes], path: str, options: CopyOptions) -> CopiedImage:
        """Return the preview of a file that is read once, from its beginning to its end."""
        from ..._image.copy import StoredSize, require_room_to_convert
        from ..._image.room import room

        digests = Digests(options.checksums)
        chunks = hashed(chunks, digests.came)
        if self._unpacks(options):
            chunks = self._unpacked(chunks, path, options)
        with self._target() as target:
            with os_errors(f"look at {self.datastore.base_path}"):
                size = StoredSize(limit=room(target), sparse=options.sparse, path=shown(path))
            head, tail, length = read_through(size.counted(chunks))
            verify(path, options.checksums, digests.came)
            found = self._previewed_beginning(head, tail, length, path, options)
            is_raw = self._keeps(options) or sniff(head) not in QEMU_FORMATS
            if (
                is_raw
                and self.datastore.type != "file"
                and self._wanted_format("raw", options, path, is_encrypted=False) != "raw"
            ):
                require_room_to_convert(
                    target, size.stored, taken=size.stored, names=shown(path), sparse=options.sparse
                )
            return found

    def _previewed_at_url(self, path: str, options: CopyOptions) -> CopiedImage:
        """Return the preview of what is at a URL, of which no more than the beginning is read."""
        from ..._image.room import capacity, room
        from ..._image.source import read_head

        with self._target() as target, os_errors(f"look at {self.datastore.base_path}"):
            limit = (capacity if options.sparse else room)(target)
        head, length = read_head(
            path, HEAD_SIZE, timeout=PREVIEW_TIMEOUT, limit=limit, headers=options.headers, ca=options.ca
        )
        kind = sniff(head)
        self._require_image(kind, path, options)
        if length == len(head):
            digests = Digests(options.checksums)
            for _chunk in hashed([head], digests.came):
                pass
            verify(path, options.checksums, digests.came)
        if self._unpacks(options) and kind in COMPRESSIONS:
            from ..._image.decompress import beginning

            head, length = beginning(head, HEAD_SIZE, path=path), None
            if not head:  # what there is of it is too little
                return CopiedImage("", "", 0)
        return self._previewed_beginning(head, b"", length, path, options)

    def _previewed_beginning(
        self, head: bytes, tail: bytes, length: int | None, path: str, options: CopyOptions
    ) -> CopiedImage:
        """Return the preview of what isn't compressed any more, by its beginning, its end and its length, as far as
        these are known.
        """
        from ..._image.image_file import is_encrypted, require_alone

        warnings = self._judged(head, tail, path, options)
        if not self._keeps(options) and options.image_type != "cdrom":
            require_alone(head, length if options.verify else None, path=shown(path))
            self._wanted_format(sniff(head), options, shown(path), is_encrypted=is_encrypted(head))
        if not self._keeps(options) and length is not None and sniff(head) not in QEMU_FORMATS:
            from ..._image.checked_image import check_beginning

            warnings += tuple(check_beginning(head, length, path=shown(path), verify=options.verify, words=self.words))
        return CopiedImage(
            "",
            "",
            in_mebibytes(self._disk_size(head, tail, length, path, options)) if length is not None else 0,
            warnings,
        )

    def preview_clone(
        self, source: str, image_format: str | None, options: CopyOptions, origin: Datastore | None = None
    ) -> CopiedImage:
        """
        :raises VmstoreError: as :meth:`clone`.
        """
        from ..._image.copy import foresee_conversion, foresee_copy

        with (
            self._cloned(source, image_format, options, origin) as (content, still, warnings),
            self._target() as target,
        ):
            found = [*warnings, *still.warnings]
            if len(content.reads) > 1:
                wanted = self._format_of_clone(options)
                creation = self._creation_options(wanted)
                foresee_conversion(
                    content.image,
                    "qcow2",
                    target,
                    wanted,
                    reads=content.reads,
                    options=creation,
                    sparse=options.sparse,
                    timeout=COPY_TIMEOUT,
                )
                return CopiedImage("", wanted, in_mebibytes(content.virtual_size()), tuple(found))
            taken = foresee_copy(content.first, target, sparse=options.sparse)
            image, more = self._checked(content.first, source, image_format, options, None)
            self._foresee_conversion(content.first, image, source, options, target, taken)
            return CopiedImage("", image.format, in_mebibytes(image.virtual_size), (*found, *more))

    def preview_mkfs(self, size_mb: int, image_format: str, fs: str | None, *, sparse: bool = True) -> None:
        """
        :raises VmstoreError: as :meth:`mkfs`.
        """
        from ..._image.trial import try_datablock

        with self._target() as target:
            try_datablock(target, **self._datablock(size_mb, image_format, fs, sparse))

    def preview_resize(self, source: str, image_format: str, size_mb: int, *, sparse: bool = True) -> None:
        """
        :raises VmstoreError: as :meth:`resize`.
        """
        from ..._image.resize import foresee_growth

        path, image_format = self._image_with_snapshots(source, image_format)
        foresee_growth(path, image_format, size_mb * MEBIBYTE, sparse=sparse)

    def preview_snapshot(self, action: str, source: str, image_format: str, snapshot: int) -> None:
        """
        :raises VmstoreError: as the action.
        """
        from ..._image.snapshots import foresee_change

        foresee_change(action, *self._image_with_snapshots(source, image_format), snapshot)

    def stored(self) -> frozenset[str]:
        """
        :raises NotFound: there is no such directory.
        :raises VmstoreError: it can't be read, or not in time.
        """
        from ..._core.deadline import run_with_deadline
        from ..._image.inventory import stored_images

        directory = self.datastore.base_path
        return frozenset(
            map(
                self._source,
                run_with_deadline(self.timeout, f"Reading the directory {directory}", lambda: stored_images(directory)),
            )
        )

    def inventory(self, checksums: Mapping[str, str] = MappingProxyType({}), *, whole: bool = False) -> Inventory:
        """
        :raises NotFound: there is no such directory.
        :raises VmstoreError: it, or data whose checksum is wanted, can't be read, or gives nothing for too long.
        """
        from ..._core.deadline import iterate_with_deadline
        from ..._image.inventory import Inventory, take_inventory

        directory = self.datastore.base_path
        found = Inventory()
        for answer in iterate_with_deadline(
            self.timeout,
            f"Reading the directory {directory}",
            lambda: take_inventory(directory, checksums, whole=whole),
        ):
            found = answer or found  # those without are signs of life
        return found

    def users(self, source: str, *, running: bool = False) -> Sequence[str]:
        """
        :raises VmstoreError: it isn't an image of this datastore.
        """
        from ..._image.snapshots import data_file
        from ..._image.still import is_used

        path = self._image(source)
        name = os.path.basename(path)
        programs = list(self._programs.get(name, ()))
        with contextlib.suppress(VmstoreError):  # there is no data
            if not programs:
                with opened_file(data_file(path)) as descriptor:
                    programs += [LOCKED] * is_used(descriptor)
        return (*(() if running else self._domains.get(name, ())), *programs)

    @functools.cached_property
    def _programs(self) -> Mapping[str, Sequence[str]]:
        """By the name of an image, the programs that have a file of it open."""
        from ..._host.open_files import open_files

        return self._by_image(open_files(os.path.realpath(self.datastore.base_path)))

    @functools.cached_property
    def _domains(self) -> Mapping[str, Sequence[str]]:
        """By the name of an image, the domains of this host's libvirt that have a file of it."""
        from ..._libvirt.devices.disk_files import files_of_local_domains

        try:
            found = files_of_local_domains()
        except LibvirtFailed as error:  # a host of images needs no libvirt, and this user may not be allowed to ask
            self.log(f"domains are not looked at: {error}")
            return {}
        return self._by_image(
            {file: [f"libvirt's domain {domain!r}" for domain in domains] for file, domains in found.items()}
        )

    def _by_image(self, files: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        """Return the users of files by the name of the image that a file belongs to."""
        prefix = f"{os.path.realpath(self.datastore.base_path)}/"
        found: dict[str, list[str]] = {}
        for file, users in files.items():
            if file.startswith(prefix):
                known = found.setdefault(file[len(prefix) :].partition("/")[0].partition(".snap")[0], [])
                known += [user for user in users if user not in known]
        return found

    def damage(self, source: str, image_format: str, checksum: str | None = None) -> str | None:
        """
        :raises NotFound: it has no data; :raises VmstoreError: it can't be read.
        """
        from ..._image.checked_image import missing_ends

        try:
            with self.content(source, image_format).opened() as content:
                damage = missing_ends(content.reads, image_format)
        except InvalidInput as error:
            return error.accepted
        if damage or checksum is None:
            return damage
        found = self._checksum(next(iter(content.reads.values())), dict([checksum.split(":")]))
        return None if found == checksum else f"its checksum is {found}, and not {checksum}"

    def sweep(self) -> None:
        sweep(self.datastore.base_path)

    def snap_delete(self, source: str, image_format: str, snapshot: int) -> None:
        from ..._image.snapshots import delete_snapshot

        delete_snapshot(*self._image_with_snapshots(source, image_format), snapshot)

    def snap_flatten(self, source: str, image_format: str, snapshot: int) -> None:
        from ..._image.snapshots import flatten_snapshot

        flatten_snapshot(*self._image_with_snapshots(source, image_format), snapshot)

    def snap_revert(self, source: str, image_format: str, snapshot: int) -> None:
        from ..._image.snapshots import revert_snapshot

        revert_snapshot(*self._image_with_snapshots(source, image_format), snapshot)

    def export(self, source: str, image_format: str | None) -> ExportedImage:
        """
        The front-end gets a path, and reads that one file itself. So the file has to have all the data, and a chain
        is refused: merging it here would leave another image in the datastore whenever the front-end never fetches
        it.

        :raises Conflict: the image is a chain of files.
        :raises VmstoreError: it isn't an image of this datastore, can't be read, or can't stand alone.
        """
        import hashlib

        path = self._image(source)
        files = self._files(path, image_format)
        with opened_file(files[0]) as descriptor:
            with os_errors(f"read {path}"):
                is_whole = len(files) == 1 and os.path.samestat(os.fstat(descriptor), os.stat(path))
            if not is_whole:
                unable = f"The image {source} can't be exported as one file, as its data is in {', '.join(files)}"
                raise Conflict(f"{unable}; flatten its snapshots, or export a clone of it.")
            md5 = hashlib.new("md5", usedforsecurity=False)
            for chunk in chunks_of(descriptor):
                md5.update(chunk)
            found = image_format or inspect(descriptor, path=path, option="source").format
            return ExportedImage(source, found, md5.hexdigest())

    def snapshots(self, source: str) -> list[int]:
        from ..._image.snapshots import list_snapshots

        return list_snapshots(self._image(source))

    def snap_size(self, source: str, image_format: str, snapshot: int) -> int:
        with self.content(source, image_format, snapshot).opened() as content:
            return in_mebibytes(content.virtual_size())

    def snap_same(self, source: str, image_format: str, snapshot: int) -> bool:
        from ..._image.image_chain import has_same_content

        with (
            self.content(source, image_format).opened() as now,
            self.content(source, image_format, snapshot).opened() as then,
        ):
            return has_same_content(now, then)

    def content(self, source: str, image_format: str, snapshot: int | None = None) -> ImageChain:
        from ..._image.image_chain import ImageChain
        from ..._image.snapshots import chain_files, data_file

        path = self._image(source)
        if image_format == "qcow2" or snapshot is not None:
            path, image_format = self._image_with_snapshots(source, image_format)
            return ImageChain(tuple(chain_files(path, image_format, snapshot)), image_format)
        file = data_file(path)
        if image_format != "raw":
            with opened_file(file) as descriptor:
                if inspect(descriptor, path=file, option="image").format != image_format:
                    raise InvalidInput(
                        "image", source, f"an image in the format {image_format!r} is expected, as the catalog says"
                    )
        return ImageChain((file,), image_format)

    def _files(self, image: str, image_format: str | None) -> list[str]:
        """The files that have the data of an image: itself, or a chain.

        Its own header tells whether it is qcow2 only where nothing else does.
        """
        from ..._image.snapshots import chain_files, data_file

        file = data_file(image)
        if image_format is None:
            with opened_file(file) as descriptor:
                image_format = sniff(os.pread(descriptor, HEAD_SIZE, 0))
        return chain_files(image, "qcow2") if image_format == "qcow2" else [file]

    @contextlib.contextmanager
    def _new_image(self) -> Iterator[NewImage]:
        self.prepare()
        place = self.datastore.base_path
        with contextlib.ExitStack() as stack:
            with os_errors(f"look at {place}"):
                directory = stack.enter_context(opened_directory(place, option="base_path"))
                status = os.fstat(directory)
            # root makes images for the service user, whose the directory is.
            owner = (status.st_uid, status.st_gid) if os.geteuid() == 0 else None
            yield stack.enter_context(new_image(directory, owner=owner, sweeping=self._is_first(), batch=self._batch))

    @contextlib.contextmanager
    def _target(self) -> Iterator[int]:
        """Yield a descriptor of the directory that an image would be made in or, where :meth:`prepare` would make
        that, of the one around it.

        :raises VmstoreError: as making the image would, where nothing can be made there.
        """
        from ..._core.directory import descriptor_path, opened_parent, require_writable

        place = self.datastore.base_path
        with contextlib.ExitStack() as stack:
            with os_errors(f"make the directory {place}"):
                try:
                    directory = stack.enter_context(opened_directory(place, option="base_path"))
                    doing = f"make an image in {os.readlink(descriptor_path(directory))}"
                except FileNotFoundError:
                    directory, _name = stack.enter_context(opened_parent(place, option="base_path"))
                    doing = f"make the directory {place}"
            with os_errors(doing):
                require_writable(directory)
            yield directory

    def _is_first(self) -> bool:
        """Return whether this driver changes the directory for the first time.

        A sweep reads all of it, so many images have one together.
        """
        first, self._is_swept = not self._is_swept, True
        return first

    def _source(self, image: str) -> str:
        return f"{self.datastore.base_path}/{os.path.basename(image)}"

    def _copy(self, path: str, target: int, options: CopyOptions, digests: Digests) -> Sequence[str]:
        """Copy or decompress a local file, and return the warnings about it."""
        from ..._image.still import StillFiles

        with opened(path, self.check) as descriptor:
            still = StillFiles({descriptor: path}, verify=options.verify, words=self.words)
            head, tail, _length = ends(descriptor, ENOUGH)
            kind = sniff(head, tail)
            self._require_image(kind, path, options)
            if self._unpacks(options) and kind in COMPRESSIONS:
                self._store(chunks_of(descriptor), path, target, options, digests)
            else:
                from ..._image.copy import copy_local

                copy_local(
                    descriptor,
                    target,
                    digests=list(digests.came.values()),
                    sparse=options.sparse,
                    bandwidth=options.bandwidth,
                )
            still.check()
            return still.warnings

    def _fetch(
        self, path: str, target: int, options: CopyOptions, digests: Digests, warn: Callable[[str], object]
    ) -> None:
        from ..._image.room import capacity, room
        from ..._image.source import open_source

        with os_errors(f"look at {self.datastore.base_path}"):
            limit = (capacity if options.sparse else room)(target)
        how: dict[str, Any] = {
            "bandwidth": options.bandwidth,
            "limit": limit,
            "verify": options.verify,
            "headers": options.headers,
            "ca": options.ca,
        }
        how["words"] = self.words
        with open_source(path, **how, downloader=self.settings.downloader, log=self.log, warn=warn) as chunks:
            self._store(chunks, path, target, options, digests)

    def _store(self, chunks: Iterable[bytes], path: str, target: int, options: CopyOptions, digests: Digests) -> None:
        from ..._image.copy import write_stream
        from ..._image.room import room

        stored: Sequence[hashlib._Hash] = ()
        if self._unpacks(options):
            from ..._image.decompress import peek

            kind, chunks = peek(chunks)
            if kind in COMPRESSIONS:
                stored = digests.unpacking()
            chunks = self._unpacked(hashed(chunks, digests.came), path, options)
        else:
            chunks = hashed(chunks, digests.came)
        with os_errors(f"look at {self.datastore.base_path}"):
            limit = room(target)
        write_stream(chunks, target, digests=stored, sparse=options.sparse, limit=limit, path=shown(path))

    def _keeps(self, options: CopyOptions) -> bool:
        """Return whether an image is stored as it is, whatever it looks like."""
        return self.datastore.type == "file" or options.image_format == "raw"

    def _unpacks(self, options: CopyOptions) -> bool:
        return not (options.no_decompress or self._keeps(options))

    def _require_image(self, kind: str, path: str, options: CopyOptions) -> None:
        """Refuse what is no image.

        :arg kind: as :func:`sniff` names it.
        :raises InvalidInput: it is no image, and neither the datastore nor the user wants it as it is.
        """
        if self._keeps(options) or (options.no_decompress and is_packed(kind)):
            return
        why = refusal(kind, is_remote=is_url(path), words=self.words)
        if why and options.any_content:
            self.log(f"{shown(path)}: {why}")
            why = None
        if options.image_type == "cdrom" and kind in QEMU_FORMATS:
            why = f"images of type cdrom are stored as they are, and this is a {kind} image: convert it with qemu-img convert -O raw"
        if why:
            raise InvalidInput("path", shown(path), why)

    def _judged(self, head: bytes, tail: bytes, path: str, options: CopyOptions) -> tuple[str, ...]:
        """Return warnings about what is to be stored, by its beginning and its end.

        :raises InvalidInput: it is empty, no image, or not of the format that it is said to have.
        """
        if not head and options.image_type != "context":
            raise InvalidInput("path", shown(path), "an image is expected, and this is empty")
        kind = sniff(head, tail)
        self._require_image(kind, path, options)
        if self._keeps(options):
            return ()
        if options.image_format not in (None, kind):
            raise InvalidInput("format", options.image_format, f"{shown(path)} is {kind}")
        if options.any_content or kind != "raw" or disk_sign(head) or head == bytes(len(head)):
            return ()
        nothing = "no boot sector, partition table, file system or volume, and it does not begin with zeros"
        return (
            f"{shown(path)} is stored as a raw disk, though nothing in it is recognised ({nothing}); "
            f"{self.words.raw} "
            "says that it is one.",
        )

    def _unpacked(self, chunks: Iterable[bytes], path: str, options: CopyOptions) -> Iterator[bytes]:
        """What expands beyond the whole file system is no image for it."""
        from ..._image.decompress import decompressed

        return decompressed(
            chunks,
            limit=self._capacity(),
            path=path,
            require_image=lambda kind: self._require_image(kind, path, options),
        )

    def _capacity(self) -> int:
        from ..._image.room import capacity

        self.prepare()
        directory = self.datastore.base_path
        with os_errors(f"look at {directory}"):
            return capacity(directory)

    def _finished(
        self,
        part: NewImage,
        path: str,
        image_format: str | None,
        options: CopyOptions,
        *,
        verify: bool | None = None,
        digests: Digests | None = None,
    ) -> CopiedImage:
        """The image in ``part``, checked, converted where that is wanted, under its final name.

        :arg image_format: what it is, whatever it looks like; ``None`` lets its content tell.
        :arg verify: as :func:`checked_image` takes it. An image of a datastore was checked when it was made.
        :arg digests: those of what was written to ``part``.
        """
        length = os.fstat(part.fd).st_size
        digests = digests or Digests({})
        if self.datastore.type == "file":
            return CopiedImage(self._source(part.commit()), "raw", in_mebibytes(length), checksum=digests.of_stored())
        # What is looked at is our copy: nobody can make it refer to other files afterwards. The user knows the image
        # by the path it came from.
        name = shown(path)
        image, warnings = self._checked(part.fd, name, image_format, options, verify)
        if image.format == "raw":
            with os_errors(f"write an image in {part.place}"):
                os.truncate(part.fd, image.virtual_size)  # without the footer of a fixed VHD
        size = in_mebibytes(image.virtual_size)
        wanted = self._conversion(part.fd, image, name, options)
        if wanted is None:
            is_whole = os.fstat(part.fd).st_size == length
            checksum = (digests if is_whole else self._digests_of(part.fd, name, digests.checksums)).of_stored()
            return CopiedImage(self._source(part.commit()), image.format, size, warnings, checksum)
        from ..._image.copy import convert

        with self._new_image() as converted:
            convert(
                qemu_name(part.fd, image.format, name),
                image.format,
                converted.fd,
                wanted,
                data=image.data,
                reads={part.fd: name},
                options=self._creation_options(wanted),
                sparse=options.sparse,
                timeout=COPY_TIMEOUT,
            )
            checksum = self._digests_of(converted.fd, name, digests.checksums).of_stored()
            return CopiedImage(self._source(converted.commit()), wanted, size, warnings, checksum)

    def _conversion(self, descriptor: int, image: CheckedImage, path: str, options: CopyOptions) -> str | None:
        """Return the format that an open image is to be converted to, ``None`` where it is stored as it is.

        :raises InvalidInput: as :meth:`_wanted_format`.
        """
        wanted = self._wanted_format(image.format, options, path, is_encrypted=image.is_encrypted)
        if wanted == "vpc" and has_two_sizes(os.pread(descriptor, FOOTER, 0)):
            wanted = "raw"  # as a VHD it would lose its end in guests of some hosts
        return None if wanted == image.format and not image.has_snapshots_to_leave_out else wanted

    @staticmethod
    def _wanted_format(image_format: str, options: CopyOptions, path: str, *, is_encrypted: bool) -> str:
        """Return the format that an image is to have.

        :raises InvalidInput: it would have to be converted, and is encrypted.
        """
        wanted = (
            image_format
            if options.driver_format is None or not options.convert or options.image_type == "cdrom"
            else options.driver_format
        )
        if is_encrypted and wanted != image_format:
            accepted = f"to be converted to {wanted}, an image without encryption is expected, because qemu-img has no key; {image_format} keeps it as it is"
            raise InvalidInput("path", path, accepted)
        return wanted

    def _foresee_conversion(
        self, descriptor: int, image: CheckedImage, path: str, options: CopyOptions, target: int, taken: int
    ) -> None:
        """Refuse a copy that can't be converted.

        :arg target: descriptor of the directory of the image.
        :arg taken: bytes of the copy.
        """
        from ..._image.copy import foresee_conversion, require_room_to_convert

        wanted = self._conversion(descriptor, image, path, options)
        if wanted is not None and is_block_device(descriptor):  # which qemu-img doesn't open here
            require_room_to_convert(target, taken, taken=taken, names=path, sparse=options.sparse)
        elif wanted is not None:
            name, creation = qemu_name(descriptor, image.format, path), self._creation_options(wanted)
            how: dict[str, Any] = {
                "reads": {descriptor: path},
                "options": creation,
                "sparse": options.sparse,
                "taken": taken,
                "timeout": COPY_TIMEOUT,
            }
            foresee_conversion(name, image.format, target, wanted, **how)

    def _checked(
        self, descriptor: int, path: str, image_format: str | None, options: CopyOptions, verify: bool | None
    ) -> tuple[CheckedImage, tuple[str, ...]]:
        from ..._image.checked_image import checked_image

        known = "raw" if options.image_type == "cdrom" else image_format
        return checked_image(descriptor, path=path, image_format=known, verify=verify, words=self.words)

    def _creation_options(self, image_format: str) -> str | None:
        return self.settings.qcow2_options or None if image_format == "qcow2" else None

    def _size(
        self, head: bytes, tail: bytes, length: int, chunks: Iterable[bytes], path: str, options: CopyOptions
    ) -> int:
        """In bytes, of a file by its beginning, its end, its length and, where these don't tell, all of it."""
        if self._unpacks(options) and sniff(head) in COMPRESSIONS:
            return self._measured(self._unpacked(chunks, path, options), path, options)
        return self._disk_size(head, tail, length, path, options)

    def _measured(self, chunks: Iterable[bytes], path: str, options: CopyOptions) -> int:
        if self._keeps(options):
            return self._disk_size(b"", b"", sum(map(len, chunks)), path, options)
        head, tail, length = measure(chunks)
        self._require_image(sniff(head, tail), path, options)
        return self._disk_size(head, tail, length, path, options)

    def _disk_size(self, head: bytes, tail: bytes, length: int | None, path: str, options: CopyOptions) -> int:
        """In bytes, of what isn't compressed any more."""
        keeps = self._keeps(options)
        size = virtual_size(b"" if keeps else head, length, path=shown(path))
        return size if keeps or length is None or sniff(head) in QEMU_FORMATS else fixed_vhd_size(tail, length) or size

    def _size_at_url(self, path: str, options: CopyOptions) -> int:
        from ..._image.decompress import limited
        from ..._image.source import Source, open_source, read_head

        unpack, limit = self._unpacks(options), self._capacity()
        downloader = self.settings.downloader
        if Source(path, downloader).is_for_downloader:
            from ..._image.downloader import read_to_end

            # It is started only once: the beginning could cost as much as the whole.
            with open_source(path, downloader=downloader, log=self.log) as chunks:
                size = self._measured(
                    self._unpacked(chunks, path, options) if unpack else limited(chunks, limit=limit, path=path),
                    path,
                    options,
                )
                read_to_end(chunks, size)
                return size
        head, length = read_head(path, HEAD_SIZE)
        self._require_image(sniff(head), path, options)
        # A footer counts only where it makes a difference in mebibytes.
        may_have_footer = (
            length is not None and length % MEBIBYTE == FOOTER and sniff(head) == "raw" and not self._keeps(options)
        )
        if length is None or (unpack and sniff(head) in COMPRESSIONS) or may_have_footer:
            with open_source(path, limit=limit, log=self.log) as chunks:
                return self._measured(
                    self._unpacked(chunks, path, options) if unpack else limited(chunks, limit=limit, path=path),
                    path,
                    options,
                )
        return self._disk_size(head, b"", length, path, options)

    def _image(self, source: str, *, beside: bool = False) -> str:
        """The path of an image of this datastore or, ``beside`` it, of another one in the same location.

        :raises PathNotAllowed: it isn't named like one.
        """
        path = absolute("source", source)
        directory, name = os.path.split(path)
        own, *location = (absolute("base_path", one) for one in self.datastore.directories())
        elsewhere = beside and os.path.dirname(directory) in location and is_decimal(os.path.basename(directory))
        if not (directory == own or elsewhere) or not is_hexadecimal(name, 32):
            where = " or of one beside it" if beside else ""
            raise PathNotAllowed(
                "source", source, f"an image of the datastore{where} is expected: {own}/<32 hexadecimal digits>"
            )
        return path

    def _image_with_snapshots(self, source: str, image_format: str) -> tuple[str, str]:
        if image_format not in FORMATS:
            raise InvalidInput("format", image_format, "raw or qcow2 is expected")
        return self._image(source), image_format


def with_warnings(copied: CopiedImage, warnings: Sequence[str]) -> CopiedImage:
    return records.replace(copied, warnings=(*warnings, *copied.warnings))


#: What may be in the scheme of a URL beside letters and digits (RFC 3986, 3.1), to be left out.
_PUNCTUATION = dict.fromkeys(map(ord, "+.-"))


def is_url(path: str) -> bool:
    scheme, separator, _rest = path.partition("://")
    return bool(separator) and scheme[:1].isalpha() and scheme.isascii() and scheme.translate(_PUNCTUATION).isalnum()


def ends(descriptor: int, size: int) -> tuple[bytes, bytes, int]:
    """The first ``size`` bytes of a file or a block device, its last :data:`TAIL`, and its length in bytes.

    :raises OSError: it can't be read.
    """
    length = length_of(descriptor)
    return os.pread(descriptor, size, 0), os.pread(descriptor, TAIL, max(length - TAIL, 0)), length


def in_mebibytes(size: int) -> int:
    """``size`` bytes, rounded up."""
    return -(-size // MEBIBYTE)


def measure(chunks: Iterable[bytes]) -> tuple[bytes, bytes, int | None]:
    """The beginning of a stream, and its end and its length where the beginning doesn't tell what a virtual size
    needs.
    """
    head, tail, length = b"", b"", 0
    for chunk in chunks:
        length += len(chunk)
        if len(head) < HEAD_SIZE:
            head += chunk
        elif sniff(head) in QEMU_FORMATS:
            return head, b"", None
        tail = (tail + chunk[-TAIL:])[-TAIL:]
    return head, tail, length


def read_through(chunks: Iterable[bytes]) -> tuple[bytes, bytes, int]:
    """The beginning of a stream, its end and its length."""
    head, tail, length = b"", b"", 0
    for chunk in chunks:
        length += len(chunk)
        if len(head) < HEAD_SIZE:
            head += chunk
        tail = (tail + chunk[-TAIL:])[-TAIL:]
    return head, tail, length


class Digests:
    """Digests by algorithm of what comes from a source and of what is stored of it, which is the same unless it is
    decompressed.

    :arg checksums: as :class:`CopyOptions` has them.
    :raises InvalidInput: as :func:`new_digests`.
    """

    def __init__(self, checksums: Mapping[str, str]) -> None:
        self.checksums = checksums
        self.came = self._stored = new_digests(checksums)

    def unpacking(self) -> Sequence[hashlib._Hash]:
        """Return digests of their own for what is stored."""
        self._stored = new_digests(self.checksums)
        return list(self._stored.values())

    def of_stored(self) -> str | None:
        """Return the checksum of what was stored, ``None`` where none was asked for."""
        return next((f"{name}:{digest.hexdigest()}" for name, digest in self._stored.items()), None)


def new_digests(checksums: Mapping[str, str]) -> dict[str, hashlib._Hash]:
    """
    :raises InvalidInput: a checksum of another length than its algorithm's, or an algorithm that isn't supported.
    """
    for name, expected in checksums.items():
        if name not in DIGEST_LENGTHS:
            raise InvalidInput("checksum", name, f"one of {', '.join(DIGEST_LENGTHS)} is expected")
        if not is_hexadecimal(expected.lower(), DIGEST_LENGTHS[name]):
            raise InvalidInput(name, expected, f"{DIGEST_LENGTHS[name]} hexadecimal digits are expected")
    if not checksums:
        return {}
    import hashlib

    # A checksum that is published beside a file guards against damage, also where policy forbids MD5 for secrets.
    return {name: hashlib.new(name, usedforsecurity=False) for name in checksums}


def hashed(chunks: Iterable[bytes], digests: Mapping[str, hashlib._Hash]) -> Iterator[bytes]:
    """``chunks``, each counted into the ``digests`` as it passes."""
    for chunk in chunks:
        for digest in digests.values():
            digest.update(chunk)
        yield chunk


def verify(path: str, checksums: Mapping[str, str], digests: Mapping[str, hashlib._Hash]) -> None:
    """
    :raises InvalidInput: a digest isn't the expected one.
    """
    for name, expected in checksums.items():
        found = digests[name].hexdigest()
        if found != expected.lower():
            raise InvalidInput(name, expected, f"the {name} of what is at {shown(path)} is {found}")


def shown(path: str) -> str:
    """``path`` without what a URL may hold in secret."""
    if not is_url(path):
        return path
    from ..._image.source import redact

    return redact(path)


__all__ = ["FsDriver"]
