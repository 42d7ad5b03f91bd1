# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The directory of a datastore's images: an image is ``<base path>/<32 hexadecimal digits>`` (spec: storage-driver)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from ..._core.digits import is_decimal
from ..._core.directory import opened_directory
from ..._core.errors import PathNotAllowed, os_errors
from ..._core.paths import absolute
from ..._core.records import TYPE_CHECKING
from ..._image.layout import is_image_name

if TYPE_CHECKING:
    from ..._image.batch import Batch
    from ..._image.new_image import NewImage
    from ..._model.datastore import Datastore


class Store:
    """The directory of the images of ``datastore``.

    :arg prepare: creates the directory if it is missing.
    """

    def __init__(self, datastore: Datastore, prepare: Callable[[], object] = bool) -> None:
        self.path = datastore.base_path
        self.batch: Batch | None = None
        self._datastore = datastore
        self._prepare = prepare
        self._is_swept = False

    def source(self, image: str) -> str:
        """Return the source of an image: its path, with the directory as the front-end writes it."""
        return f"{self.path}/{os.path.basename(image)}"

    def image(self, source: str, *, is_beside: bool = False) -> str:
        """Return the path of an image of this datastore.

        :arg is_beside: whether images of other datastores in the same location are accepted, too.
        :raises PathNotAllowed: ``source`` isn't the name of such an image.
        """
        path = absolute("source", source)
        directory, name = os.path.split(path)
        own, *location = (absolute("base_path", one) for one in self._datastore.directories())
        elsewhere = is_beside and os.path.dirname(directory) in location and is_decimal(os.path.basename(directory))
        if not (directory == own or elsewhere) or not is_image_name(name):
            where = " or of one beside it" if is_beside else ""
            raise PathNotAllowed(
                "source", source, f"an image of the datastore{where} is expected: {own}/<32 hexadecimal digits>"
            )
        return path

    def is_first_change(self) -> bool:
        """Return whether this is the first call.

        The first change sweeps the datastore. One sweep is enough for many images, because it reads the whole
        directory.
        """
        is_first, self._is_swept = not self._is_swept, True
        return is_first

    @contextlib.contextmanager
    def new_image(self) -> Iterator[NewImage]:
        """Create an image under a temporary name, and yield it.

        :raises VmstoreError: the image can't be created.
        """
        from ..._image.new_image import new_image

        self._prepare()
        with contextlib.ExitStack() as stack:
            with os_errors(f"look at {self.path}"):
                directory = stack.enter_context(opened_directory(self.path, option="base_path"))
                status = os.fstat(directory)
            # root creates images for the service user, who owns the directory.
            owner = (status.st_uid, status.st_gid) if os.geteuid() == 0 else None
            yield stack.enter_context(
                new_image(directory, owner=owner, sweeping=self.is_first_change(), batch=self.batch)
            )

    @contextlib.contextmanager
    def target(self) -> Iterator[int]:
        """Yield a descriptor of the directory for a new image or, if this directory is missing, of its parent
        directory.

        :raises VmstoreError: an image can't be created in the directory.
        """
        from ..._core.directory import descriptor_path, opened_parent, require_writable

        with contextlib.ExitStack() as stack:
            with os_errors(f"make the directory {self.path}"):
                try:
                    directory = stack.enter_context(opened_directory(self.path, option="base_path"))
                    doing = f"make an image in {os.readlink(descriptor_path(directory))}"
                except FileNotFoundError:
                    directory, _name = stack.enter_context(opened_parent(self.path, option="base_path"))
                    doing = f"make the directory {self.path}"
            with os_errors(doing):
                require_writable(directory)
            yield directory

    def capacity(self) -> int:
        """Return the size of the file system in bytes.

        :raises VmstoreError: the directory can't be created, or the file system can't be read.
        """
        from ..._image.room import capacity

        self._prepare()
        with os_errors(f"look at {self.path}"):
            return capacity(self.path)

    def room(self, target: int, *, is_whole: bool = False) -> int:
        """Return the upper bound in bytes of an image in the open directory or file ``target``.

        :arg is_whole: whether the bound is the size of the file system, because holes take no space.
        :raises VmstoreError: the file system can't be read.
        """
        from ..._image.room import capacity, room

        with os_errors(f"look at {self.path}"):
            return (capacity if is_whole else room)(target)


__all__ = ["Store"]
