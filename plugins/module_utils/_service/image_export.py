# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An image, or what it was at a snapshot, as one file on the front-end that stands alone."""

from __future__ import annotations

import contextlib
import filecmp
import functools
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .._catalog.datastores import all_datastores
from .._core.arguments import ArgumentSpec
from .._core.errors import CommandFailed, Conflict, FileAccessFailed, InvalidInput, NoSpace, PathNotAllowed, StaleState, os_errors
from .._core.files import sync_directory
from .._core.paths import absolute, is_within
from .._core.plan import Action, Plan
from .._driver.source_file import chunks_of
from .._image.content import Content, copy_content, same_content
from .._image.image_file import inspect, opened_file
from .._image.new_image import new_image
from .catalog import CATALOG_OPTIONS
from .image_work import ImageWorkService, check_snapshot, users_of

IMAGE_EXPORT_SPEC = ArgumentSpec(
    {
        "image": {"type": "str", "required": True},
        "dest": {"type": "path", "required": True},
        "format": {"type": "str", "choices": ["raw", "qcow2"]},
        "snapshot": {"type": "int"},
        "force": {"type": "bool", "default": False},
    }
).merge(CATALOG_OPTIONS)

#: Of every file that is written: whoever may read images of virtual machines is told by the operator.
MODE = 0o600


class ImageExportService(ImageWorkService):
    """Plans the one file."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self.dest = absolute("dest", options["dest"])

    def plan(self) -> Plan:
        image = self.image()
        driver = self.driver(image)
        snapshot = self.options["snapshot"]
        if snapshot is not None:
            driver.require("snapshot")
            check_snapshot(image, snapshot, driver.snapshots(image.path))
        content = driver.content(image.path, image.format, snapshot)
        wanted = self.options["format"] or content.format
        plan = Plan({"dest": self.dest, "format": wanted, "size": None, "checksum": None})
        with self._directory() as target, target.errors():
            if target.holds(content, wanted):
                plan.result.update(target.measured())
                return plan
            if target.found is not None and not self.options["force"]:
                raise Conflict(f"dest: {self.dest!r} exists and is not {image.name!r} in the format {wanted}; force replaces it.")
            found = target.found
        before = None if found is None else {"dest": self.dest, "size": found.size}
        after = {"dest": self.dest, "format": wanted, "image": image.name, "snapshot": snapshot}
        plan.actions.append(Action("export image", image.name, before, after, functools.partial(self._write, plan, content, wanted, found)))
        users = users_of(self.catalog, image)
        if users and snapshot is None:
            plan.warn_once(f"The image {image.name!r} is used by {users}: what a running one writes meanwhile may be in {self.dest} in part.")
        return plan

    def _write(self, plan: Plan, content: Content, image_format: str, planned: FoundFile | None) -> None:
        with self._directory() as target, target.errors(), new_image(target.directory) as part:
            with os_errors(f"write {self.dest}"):
                os.fchmod(part.fd, MODE)
            copy_content(content, part, image_format)
            with os_errors(f"write {self.dest}"):
                os.fsync(part.fd)
                if target.look() != planned:
                    raise StaleState(f"dest: {self.dest!r} was changed by another program while the image was written; try again.")
                os.rename(part.path, target.path)
                part.done = True
            try:
                sync_directory(target.directory)
            except OSError as error:
                # Not NoSpace, which says that nothing was changed.
                raise FileAccessFailed(f"{self.dest} is written, but a crash could still undo that: {error.strerror}.") from error
            plan.result.update(target.measured())

    @contextlib.contextmanager
    def _directory(self) -> Iterator[Target]:
        """Where the file is to be. Its directory is opened before it is judged, so that no link of its path can lead elsewhere afterwards."""
        shown, name = os.path.split(self.dest)
        if not name:
            raise InvalidInput("dest", self.dest, "the path of a file is expected")
        with os_errors(f"open the directory {shown} of dest"):
            descriptor = os.open(shown, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Not /proc/self: qemu-img has another.
            directory = f"/proc/{os.getpid()}/fd/{descriptor}"
            target = Target(directory, name, self.dest, os.readlink(directory))
            self._check_place(os.path.join(target.real, name))
            target.found = target.look()
            yield target
        finally:
            os.close(descriptor)

    def _check_place(self, path: str) -> None:
        """
        :raises PathNotAllowed: it is the datastores' or the catalog's.
        """
        for datastore in all_datastores(self.catalog):
            for directory in datastore.directories():
                if is_within(path, os.path.realpath(directory)):
                    raise PathNotAllowed("dest", self.dest, f"a file outside of the directories of all datastores is expected, and {directory} is one")
        catalog = os.path.realpath(self.path)
        if path == catalog or path.startswith((f"{catalog}-", f"{catalog}.")):
            raise PathNotAllowed("dest", self.dest, "it is a file of the catalog")


@dataclass(frozen=True)
class FoundFile:
    """What tells whether a file is still the one that was looked at."""

    device: int
    inode: int
    size: int
    changed_ns: int


@dataclass
class Target:
    """A file that is or will be. ``directory`` leads to the directory that was opened, ``real`` is its path."""

    directory: str
    name: str
    dest: str
    real: str
    #: What was there, by :meth:`look`.
    found: FoundFile | None = None

    @property
    def path(self) -> str:
        return os.path.join(self.directory, self.name)

    def look(self) -> FoundFile | None:
        """
        :raises InvalidInput: there is something else than a regular file.
        """
        try:
            status = os.lstat(self.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FileAccessFailed(f"Could not look at {self.dest}: {error.strerror}.") from error
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput("dest", self.dest, "the path of a regular file is expected, or one where nothing is yet, and no symbolic link")
        return FoundFile(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def holds(self, content: Content, image_format: str) -> bool:
        """Whether the file is there already, in this format and standing alone."""
        if self.found is None:
            return False
        if image_format not in ("raw", "qcow2"):
            with os_errors(f"compare {self.dest} with the image"):
                return filecmp.cmp(content.files[0], self.path, shallow=False)
        if image_format == "qcow2" and not self._stands_alone():
            return False
        there = Content((self.path,), image_format)
        # One raw file is a copy of another to the byte, not only to the sector.
        if image_format == content.format == "raw" and there.virtual_size() != content.virtual_size():
            return False
        return same_content(content, there)

    def _stands_alone(self) -> bool:
        try:
            return inspect(self.path).format == "qcow2"
        except InvalidInput:
            return False

    def measured(self) -> dict[str, object]:
        """The file's size in bytes and its checksum."""
        sha256 = hashlib.sha256()
        with opened_file(self.path) as descriptor, os_errors(f"read {self.dest}"):
            for chunk in chunks_of(descriptor):
                sha256.update(chunk)
            size = os.fstat(descriptor).st_size
        return {"size": size, "checksum": f"sha256:{sha256.hexdigest()}"}

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Errors of a block say the directory by its path."""
        try:
            yield
        except (CommandFailed, FileAccessFailed, NoSpace) as error:
            raise type(error)(str(error).replace(self.directory, self.real)) from error


__all__ = ["IMAGE_EXPORT_SPEC", "ImageExportService"]
