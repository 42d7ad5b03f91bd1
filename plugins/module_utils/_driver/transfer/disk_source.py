# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of a disk or of an image as a tree for another host, under the name that they get there.

There are two forms (design: transfers):

* a file ``X``, with whole copies ``X.snap/<id>`` as snapshots
* layers ``X.snap/<k>``, qcow2 files each based on the one before, and ``X``, a link to the last one
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from ..._core.errors import NotFound, os_errors
from ..._image.image_files import ImageFiles
from ..._image.layout import snapshot_directory, snapshot_file
from ..._remote.tree import DIRECTORY, LINK, Entry, Source, Tree

#: Permission bits of a directory with snapshots.
DIRECTORY_MODE = 0o755


class FilesSource(Source):
    """Chosen files of a disk or of an image, as a tree.

    :arg files: the open files.
    :arg numbers: the files by their paths in the tree.
    :arg links: the targets of symbolic links by their paths in the tree.
    """

    def __init__(self, files: ImageFiles, numbers: Mapping[str, int | None], links: Mapping[str, str]) -> None:
        super().__init__(files.directory, os.path.dirname(files.image), {files.name: files.name})
        self._files = files
        self._numbers = numbers
        self._links = links

    def describe(self) -> Tree:
        with os_errors(f"read {self._files.image}"):
            entries = [entry for path, number in self._numbers.items() for entry in self._describe_file(path, number)]
        newest = max(entry.mtime for entry in entries)
        directories = {os.path.dirname(path) for path in (*self._numbers, *self._links)} - {""}
        entries += [Entry(path, DIRECTORY, DIRECTORY_MODE, newest) for path in directories]
        entries += [Entry(path, LINK, 0o777, newest, target=target) for path, target in self._links.items()]
        return tuple(sorted(entries, key=lambda entry: entry.path.split("/")))

    def _describe_file(self, path: str, number: int | None) -> list[Entry]:
        directory, name = self._files.place(number)
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError as error:
            raise NotFound(f"There is no {self._files.path(number)} to transfer.") from error
        if not stat.S_ISREG(status.st_mode):
            raise self.refuse(f"{self._files.path(number)} is not a regular file")
        return list(self.walk(directory, name, path))

    def locate(self, path: str) -> list[str]:
        number = self._numbers[path]
        return [self._files.name] if number is None else snapshot_file(self._files.name, number).split("/")


def disk_source(files: ImageFiles, format: str, name: str, *, layered: bool) -> FilesSource:
    """Return the files with the data and the snapshots of a disk or of an image.

    :arg format: ``raw`` or ``qcow2``.
    :arg name: the name that the disk or the image gets.
    :arg layered: whether a qcow2 file without snapshots becomes the first layer.
    :raises NotFound: there is no data.
    :raises Conflict: a file is based on another one than those of the disk.
    """
    snapshots = snapshot_directory(name)
    newest = files.active_number() if format == "qcow2" else None
    if newest is not None:
        files.chain_from(files.active())
        numbers: dict[str, int | None] = {
            f"{snapshots}/{number}": files.data_of(number) for number in files.numbers() if number <= newest
        }
    elif format == "qcow2" and layered and not files.numbers():
        newest, numbers = 0, {f"{snapshots}/0": None}
    else:
        numbers = {name: None, **{f"{snapshots}/{number}": number for number in files.numbers()}}
    links = {} if newest is None else {name: f"{snapshots}/{newest}", f"{snapshots}/{snapshots}": "."}
    return FilesSource(files, numbers, links)


__all__ = ["FilesSource", "disk_source"]
