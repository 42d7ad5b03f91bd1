# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A batch of images of one directory that get their names, or are removed, together. One fsync of the directory is
enough for all of them.

The order is that of a single image (:mod:`.new_image`). Images get their names after the data of all images is durable,
and are reported after the directory is durable. Each file has its own fsync(2). A single syncfs(2) isn't reliable: FUSE
file systems may ignore syncfs(2), and before Linux 5.8 it returns no errors.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from .._core.directory import sync_opened
from .._core.errors import FileAccessFailed, StaleState, VmstoreError, os_errors
from .._core.records import replace
from .new_image import NewImage


class Batch:
    def __init__(self) -> None:
        self._waiting: dict[str, NewImage] = {}
        self._failed: dict[str, VmstoreError] = {}
        #: Descriptor of the directory and its path for messages, or ``None`` until the first change.
        self._directory: tuple[int, str] | None = None

    def add(self, image: NewImage) -> None:
        """Take over a complete image.

        :raises OSError: the image can't be taken over.
        :raises StaleState: the image is in another directory than the earlier ones.
        """
        directory = self._in(image.directory, image.place)
        # Start to write the data to the disk. The file system can then allocate the blocks of many images in one
        # transaction.
        os.posix_fadvise(image.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        # The lock that prevents a sweep of the file belongs to the open file, so a duplicate of the descriptor keeps
        # the lock.
        self._waiting[image.path] = replace(image, directory=directory, fd=os.dup(image.fd))
        image.done = True

    def note_removal(self, directory: int, place: str) -> None:
        """Note that a file of an open directory is removed.

        :arg place: the path of the directory.

        :raises OSError, StaleState: see :meth:`add`.
        """
        self._in(directory, place)

    def publish(self) -> dict[str, VmstoreError]:
        """Give all images their names, and make names and removals durable. Return the errors by the path of the image.
        An image with an error is removed.

        :raises FileAccessFailed: removals aren't durable yet.
        """
        self._failed = {}
        try:
            self._each(NewImage.make_durable)
            self._each(lambda image: image.rename(image.directory, image.final))
            self._sync()
            return self._failed
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove the images without a final name, and those with an error."""
        waiting, self._waiting = self._waiting, {}
        for path, image in waiting.items():
            if path in self._failed or not image.done:
                with contextlib.suppress(OSError):
                    os.unlink(image.name, dir_fd=image.directory)
            with contextlib.suppress(OSError):
                os.close(image.fd)
        if self._directory is not None:
            os.close(self._directory[0])
            self._directory = None

    def _in(self, directory: int, place: str) -> int:
        if self._directory is None:
            self._directory = os.dup(directory), place
        elif not os.path.samestat(os.fstat(directory), os.fstat(self._directory[0])):
            raise StaleState(f"Another program replaced the directory {place} meanwhile.")
        return self._directory[0]

    def _each(self, act: Callable[[NewImage], None]) -> None:
        for path, image in self._waiting.items():
            if path not in self._failed:
                try:
                    with os_errors(f"write an image in {image.place}"):
                        act(image)
                except VmstoreError as error:
                    self._failed[path] = error

    def _sync(self) -> None:
        if self._directory is None:
            return
        directory, place = self._directory
        try:
            sync_opened(directory)
        except OSError as error:
            failure = FileAccessFailed(
                f"A change in {place} is made, but not yet durable: {error.strerror}; repeat it."
            )
            if not self._waiting:
                raise failure from error
            self._failed = {**dict.fromkeys(self._waiting, failure), **self._failed}


__all__ = ["Batch"]
