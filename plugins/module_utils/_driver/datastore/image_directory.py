# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Image files in a directory (spec: storage-driver): an image is ``<base path>/<32 hexadecimal digits>``, its
snapshots are in ``<image>.snap``.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ..._core.errors import InvalidInput, os_errors
from ..._core.records import TYPE_CHECKING
from ..._model.datastore import NFS_AUTO
from ..info import DriverInfo
from .base import COPY_ATTRIBUTES, CopiedImage, CopyOptions, ExportedImage
from .directory import MEBIBYTE, DirectoryDriver, in_mebibytes
from .store import Store

if TYPE_CHECKING:
    from typing import Any

    from ..._image.image_chain import ImageChain
    from ..._image.inventory import Inventory
    from ..._model.datastore import Datastore
    from .image_source import ImageSource
    from .users import ImageUsers

FORMATS = ("raw", "qcow2")

#: The format of an image whose data another action writes to the source (save-as of a disk): only a name is requested.
NAME_ONLY = "save_as"

#: The attributes FS_OPTS_<FS> of common file systems.
FS_OPTIONS = tuple(f"fs_opts_{fs}" for fs in ("btrfs", "ext2", "ext3", "ext4", "swap", "vfat", "xfs"))


class ImageDirectoryDriver(DirectoryDriver):
    """The operations of the ``fs`` driver on the host that has the data: the front-end or a bridge."""

    info = DriverInfo(
        "fs",
        datastore_types=frozenset(["image", "file"]),
        image_types=frozenset(["os", "cdrom", "datablock", "kernel", "ramdisk", "context"]),
        tm_drivers=("local", "shared", "ssh"),
        is_directory=True,
        actions=frozenset(["clone", "content", "export", "mkfs", "resize", "snapshot"]),
        attributes=frozenset([*COPY_ATTRIBUTES, "qcow2_options", "supported_fs", *FS_OPTIONS, *NFS_AUTO]),
    )

    def __init__(self, datastore: Datastore, **options: Any) -> None:
        super().__init__(datastore, **options)
        self._store = Store(datastore, self.prepare)

    @property
    def store(self) -> Store:
        """Return the directory of the images, once its shared file system is certain to be there.

        :raises VmstoreError: see :meth:`require_store`.
        """
        self.require_store()
        return self._store

    def source_at(self, path: str, options: CopyOptions) -> ImageSource:
        """Return the source of an image at a path or a URL.

        :raises InvalidInput: a malformed checksum.
        """
        raise NotImplementedError

    def cp(self, path: str, options: CopyOptions) -> CopiedImage:
        """Copy, fetch or decompress the source at ``path``, check the data, and convert the data to the format of the
        datastore.

        A file datastore stores files unchanged. Data that isn't recognised as a disk is stored with a warning.

        :raises PathNotAllowed: SAFE_DIRS and RESTRICTED_DIRS don't allow the path.
        :raises InvalidInput: the source is empty, not an image, an image that needs other files, or an archive. A
            checksum that doesn't match raises this, too.
        :raises Conflict, StaleState: a program has a local file open for writing, or wrote to the file meanwhile.
        :raises VmstoreError: the source can't be read, fetched or stored. No file is left behind.
        """
        from ..._image.image_file import HEAD_SIZE
        from .conversion import with_warnings
        from .image_source import read_ends

        self.require_type(options.image_type)
        source = self.source_at(path, options)
        with self.store.new_image() as part:
            warnings = source.copy(part.fd)
            source.digests.verify(source.name)
            with os_errors(f"read what was copied from {source.name}"):
                head, tail, _length = read_ends(part.fd, HEAD_SIZE)
            warnings = (*warnings, *source.judge(head, tail))
            return with_warnings(source.conversion.finish(part, source.digests), warnings)

    def clone(
        self, source: str, image_format: str | None, options: CopyOptions, origin: Datastore | None = None
    ) -> CopiedImage:
        """Create another image with the data of an image.

        :raises VmstoreError: see :func:`clone_image`. No file is left behind.
        """
        from .cloning import clone_image

        return clone_image(self, source, image_format, options, origin)

    def mkfs(self, size_mb: int, image_format: str, fs: str | None, *, sparse: bool = True) -> str:
        """Create an empty image, perhaps with a file system.

        :arg fs: one of the supported file systems, ``swap``, or ``None`` for an empty image.
        :raises InvalidInput: a format, size or file system that isn't supported.
        :raises CommandFailed: the mkfs command is missing or failed. No file is left behind.
        """
        from ..._image.datablock import make_datablock
        from .conversion import COPY_TIMEOUT

        if image_format == NAME_ONLY:
            self.prepare()
            return self.store.source(os.urandom(16).hex())
        with self.store.new_image() as part:
            make_datablock(part, **self._datablock(size_mb, image_format, fs, sparse), timeout=COPY_TIMEOUT)
            return self.store.source(part.commit())

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
        """Grow an image.

        :arg image_format: raw or qcow2.
        :raises Conflict: the image has snapshots, or a program uses it.
        :raises VmstoreError: ``source`` isn't an image of this datastore, or can't be written.
        """
        from ..._image.resize import grow_image
        from .conversion import COPY_TIMEOUT

        path, image_format = self._image_with_snapshots(source, image_format)
        grow_image(path, image_format, size_mb * MEBIBYTE, sparse=sparse, timeout=COPY_TIMEOUT)

    def rm(self, source: str) -> None:
        """
        :raises InvalidInput: ``source`` isn't an image of this datastore.
        """
        from ..._image.snapshots import remove_image

        path = self.store.image(source)
        remove_image(path, sweeping=self.store.is_first_change(), batch=self.store.batch)

    def stat(self, path: str, *, no_decompress: bool = False, any_content: bool = False) -> int:
        """Return the size in MiB, rounded up, of an image made of ``path``.

        Only the beginning of the source is read if the beginning shows the size. Compressed raw data is read entirely.

        :raises VmstoreError: see :meth:`cp`.
        """
        return in_mebibytes(
            self.source_at(path, CopyOptions("", no_decompress=no_decompress, any_content=any_content)).size()
        )

    def preview(self, path: str, options: CopyOptions) -> CopiedImage:
        self.require_type(options.image_type)
        return self.source_at(path, options).preview()

    def preview_clone(
        self, source: str, image_format: str | None, options: CopyOptions, origin: Datastore | None = None
    ) -> CopiedImage:
        from .cloning import preview_clone

        return preview_clone(self, source, image_format, options, origin)

    def preview_mkfs(self, size_mb: int, image_format: str, fs: str | None, *, sparse: bool = True) -> None:
        from ..._image.trial import try_datablock

        with self.store.target() as target:
            try_datablock(target, **self._datablock(size_mb, image_format, fs, sparse))

    def preview_resize(self, source: str, image_format: str, size_mb: int, *, sparse: bool = True) -> None:
        from ..._image.resize import foresee_growth

        path, image_format = self._image_with_snapshots(source, image_format)
        foresee_growth(path, image_format, size_mb * MEBIBYTE, sparse=sparse)

    def preview_snapshot(self, action: str, source: str, image_format: str, snapshot: int) -> None:
        from ..._image.snapshots import foresee_change

        foresee_change(action, *self._image_with_snapshots(source, image_format), snapshot)

    def stored(self) -> frozenset[str]:
        """
        :raises NotFound: there is no such directory.
        :raises VmstoreError: the directory can't be read, or the deadline passed.
        """
        from ..._core.deadline import run_with_deadline
        from ..._image.inventory import stored_images

        self.require_store()
        directory = self.datastore.base_path
        return frozenset(
            map(
                self._store.source,
                run_with_deadline(self.timeout, f"Reading the directory {directory}", lambda: stored_images(directory)),
            )
        )

    def inventory(self, checksums: Mapping[str, str] = MappingProxyType({}), *, whole: bool = False) -> Inventory:
        """
        :raises NotFound: there is no such directory.
        :raises VmstoreError: the directory, or data that needs a checksum, can't be read, or the deadline passed.
        """
        from ..._core.deadline import iterate_with_deadline
        from ..._image.inventory import Inventory, take_inventory

        self.require_store()
        directory = self.datastore.base_path
        found = Inventory()
        for answer in iterate_with_deadline(
            self.timeout,
            f"Reading the directory {directory}",
            lambda: take_inventory(directory, checksums, whole=whole),
        ):
            found = answer or found  # items without an answer only extend the deadline
        return found

    def users(self, source: str, *, running: bool = False) -> Sequence[str]:
        """
        :raises VmstoreError: ``source`` isn't an image of this datastore.
        """
        return self.image_users.of(self.store.image(source), is_running=running)

    @functools.cached_property
    def image_users(self) -> ImageUsers:
        """Return the users of all images."""
        from .users import ImageUsers

        return ImageUsers(self.datastore.base_path, self.log)

    def damage(self, source: str, image_format: str, checksum: str | None = None) -> str | None:
        from .stored_image import find_damage

        return find_damage(self, source, image_format, checksum)

    def sweep(self) -> None:
        from ..._image.new_image import sweep

        self.require_store()
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
        """Return the one file that the front-end reads itself.

        :raises VmstoreError: see :func:`export_image`.
        """
        from .stored_image import export_image

        return export_image(self.store, source, image_format)

    def snapshots(self, source: str) -> list[int]:
        from ..._image.snapshots import list_snapshots

        return list_snapshots(self.store.image(source))

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
        from .stored_image import find_content

        path = self.store.image(source) if snapshot is None else self._image_with_snapshots(source, image_format)[0]
        return find_content(path, image_format, snapshot)

    def _image_with_snapshots(self, source: str, image_format: str) -> tuple[str, str]:
        if image_format not in FORMATS:
            raise InvalidInput("format", image_format, "raw or qcow2 is expected")
        return self.store.image(source), image_format


__all__ = ["ImageDirectoryDriver"]
