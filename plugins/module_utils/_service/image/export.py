# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The service that writes an image, or one of its snapshots, to a single file on the front-end without a backing
file.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..._catalog.datastores import DATASTORES
from ..._core.arguments import ArgumentSpec
from ..._core.chunks import read_chunks
from ..._core.directory import descriptor_path, opened_directory, opened_file_at, require_writable, sync_opened
from ..._core.errors import Conflict, FileAccessFailed, InvalidInput, PathNotAllowed, StaleState, os_errors
from ..._core.paths import absolute, is_within, real_path
from ..._core.plan import Action, Plan
from ..._core.records import dataclass
from ..._image.checked_image import missing_ends
from ..._image.copy import foresee_conversion, foresee_copy
from ..._image.image_chain import ImageChain, OpenChain, copy_chain, has_same_content
from ..._image.image_file import inspect
from ..._image.new_image import NewImage, new_image, sweep
from ..._image.qemu_img import as_one_image
from ..._image.snapshots import TIMEOUT
from ..catalog import CATALOG_OPTIONS
from .work import ImageWorkService, check_snapshot, users_of

IMAGE_EXPORT_SPEC = ArgumentSpec(
    {
        "image": {"type": "str", "required": True},
        "dest": {"type": "path", "required": True},
        "format": {"type": "str", "choices": ["raw", "qcow2"]},
        "snapshot": {"type": "int"},
        "force": {"type": "bool", "default": False},
    }
).merge(CATALOG_OPTIONS)

#: The mode of every file that is written. The operator decides which users may read images of virtual machines.
MODE = 0o600


class ImageExportService(ImageWorkService):
    """Plan the file with the content of an image."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self.dest = absolute("dest", options["dest"])

    def plan(self) -> Plan:
        image = self.image()
        driver = self.driver(image)
        driver.require("content")
        snapshot = self.options["snapshot"]
        if snapshot is not None:
            driver.require("snapshot")
            check_snapshot(image, snapshot, driver.snapshots(image.path))
        content = driver.content(image.path, image.format, snapshot)
        wanted = self.options["format"] or content.format
        plan = Plan({"dest": self.dest, "format": wanted, "size": None, "checksum": None})
        with self._open_target() as target, content.opened() as opened:
            damage = missing_ends(opened.reads, content.format)
            if damage:
                raise Conflict(f"The image {image.name!r} is damaged and not exported: {damage}.")
            if target.holds(opened, wanted):
                plan.result.update(target.measure())
                plan.afterwards.append(functools.partial(sweep, os.path.dirname(self.dest)))
                return plan
            if target.found is not None and not self.options["force"]:
                raise Conflict(
                    f"dest: {self.dest!r} exists and is not {image.name!r} in the format {wanted}; force replaces it."
                )
            found = target.found
            self._foresee(content, opened, wanted, target.directory)
        before = None if found is None else {"dest": self.dest, "size": found.size}
        after = {"dest": self.dest, "format": wanted, "image": image.name, "snapshot": snapshot}
        # The open files of the copy, which stay open until the file has its name.
        opened_copy = contextlib.ExitStack()
        copies: list[tuple[Target, NewImage]] = []

        def prepare() -> Callable[[], None]:
            with contextlib.ExitStack() as stack:
                target = stack.enter_context(self._open_target())
                part = stack.enter_context(new_image(target.directory, mode=MODE))
                for warning in copy_chain(content, part, wanted):
                    plan.warn_once(warning)
                copies.append((target, part))
                opened_copy.push(stack.pop_all())
            return opened_copy.close

        def record() -> None:
            with opened_copy:
                plan.result.update(self._publish(*copies[0], found))

        plan.actions.append(Action("export image", image.name, before, after, record, prepare=(prepare,)))
        users = users_of(self.catalog, image)
        if users and snapshot is None:
            plan.warn_once(
                f"The image {image.name!r} is used by {users}: what a running one writes meanwhile may be in "
                f"{self.dest} in part."
            )
        return plan

    def _publish(self, target: Target, part: NewImage, planned: FoundFile | None) -> dict[str, object]:
        """Give a copy its name. Return its size and its checksum.

        :raises StaleState: ``dest`` isn't the file that was ``planned`` to be replaced.
        """
        with os_errors(f"write {self.dest}"):
            if target.look() != planned:
                raise StaleState(
                    f"dest: {self.dest!r} was changed by another program while the image was written; try again."
                )
            part.publish(target.directory, target.name)
        try:
            sync_opened(target.directory)
        except OSError as error:
            # The error isn't NoSpace, whose message is that nothing was changed.
            raise FileAccessFailed(
                f"{self.dest} is written, but a crash could still undo that: {error.strerror}."
            ) from error
        return measure(part.fd, self.dest)

    @staticmethod
    def _foresee(content: ImageChain, opened: OpenChain, image_format: str, directory: int) -> None:
        """Refuse a file that can't be written.

        :raises VmstoreError: as writing would.
        """
        with os_errors(f"make an image in {os.readlink(descriptor_path(directory))}"):
            require_writable(directory)
        if content.format == image_format and len(content.files) == 1:
            foresee_copy(opened.first, directory)
        else:
            foresee_conversion(
                opened.image, content.format, directory, image_format, reads=opened.reads, timeout=TIMEOUT
            )

    @contextlib.contextmanager
    def _open_target(self) -> Iterator[Target]:
        """Yield the place of the file.

        The directory is opened before it is checked, so that no link of its path can lead elsewhere afterwards.
        """
        shown, name = os.path.split(self.dest)
        if not name:
            raise InvalidInput("dest", self.dest, "the path of a file is expected")
        with contextlib.ExitStack() as stack:
            with os_errors(f"open the directory {shown} of dest"):
                directory = stack.enter_context(opened_directory(shown, option="dest"))
            self._check_place(os.path.join(os.readlink(descriptor_path(directory)), name))
            yield Target(directory, name, self.dest, stack)

    def _check_place(self, path: str) -> None:
        """Refuse a place in a datastore or the catalog.

        :raises PathNotAllowed: ``path`` belongs to a datastore or the catalog.
        """
        for datastore in DATASTORES.rows(self.catalog):
            for directory in datastore.directories():
                if is_within(path, real_path(directory)):
                    raise PathNotAllowed(
                        "dest",
                        self.dest,
                        f"a file outside of the directories of all datastores is expected, and {directory} is one",
                    )
        catalog = real_path(self.path)
        if path == catalog or path.startswith((f"{catalog}-", f"{catalog}.")):
            raise PathNotAllowed("dest", self.dest, "it is a file of the catalog")


@dataclass(frozen=True)
class FoundFile:
    """The properties by which an existing file is recognized later."""

    device: int
    inode: int
    size: int
    changed_ns: int


class Target:
    """A file that exists or will be created, in an open directory. An existing file stays open as long as ``stack``.

    :raises InvalidInput: something other than a regular file has the name.
    """

    def __init__(self, directory: int, name: str, dest: str, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self.name = name
        self.dest = dest
        self.found = self.look()
        #: Descriptor of the existing file.
        self.fd = -1
        if self.found is not None:
            with os_errors(f"read {dest}"):
                self.fd = stack.enter_context(opened_file_at(directory, name))

    def look(self) -> FoundFile | None:
        """Return the properties of the file; ``None`` while it is missing.

        :raises InvalidInput: something other than a regular file has the name.
        """
        try:
            status = os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FileAccessFailed(f"Could not look at {self.dest}: {error.strerror}.") from error
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput(
                "dest",
                self.dest,
                "the path of a regular file is expected, or one where nothing is yet, and no symbolic link",
            )
        return FoundFile(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def holds(self, content: OpenChain, image_format: str) -> bool:
        """Return whether the file exists with this content and this format, and without a backing file."""
        if self.found is None:
            return False
        if image_format not in ("raw", "qcow2"):
            return all(
                one == other for one, other in itertools.zip_longest(read_chunks(content.first), read_chunks(self.fd))
            )
        if image_format == "qcow2" and not self._is_standalone():
            return False
        # The owner of the file can still give it a backing file, such as a socket that never responds. So a backing
        # file is ignored.
        image = as_one_image([self.fd]) if image_format == "qcow2" else descriptor_path(self.fd)
        there = OpenChain(image, image_format, {self.fd: self.dest})
        # Two raw files must have the same length in bytes, not only the same sectors.
        if image_format == content.format == "raw" and there.virtual_size() != content.virtual_size():
            return False
        return has_same_content(content, there)

    def _is_standalone(self) -> bool:
        try:
            return inspect(self.fd, path=self.dest).format == "qcow2"
        except InvalidInput:
            return False

    def measure(self) -> dict[str, object]:
        return measure(self.fd, self.dest)


def measure(descriptor: int, dest: str) -> dict[str, object]:
    """Return an open file's size in bytes and its checksum."""
    sha256 = hashlib.sha256()
    with os_errors(f"read {dest}"):
        for chunk in read_chunks(descriptor):
            sha256.update(chunk)
        size = os.fstat(descriptor).st_size
    return {"size": size, "checksum": f"sha256:{sha256.hexdigest()}"}


__all__ = ["IMAGE_EXPORT_SPEC", "ImageExportService"]
