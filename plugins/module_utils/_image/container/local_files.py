# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of a directory or of a tar archive in which a container image lies.

The files are untrusted input. A name in them leads only to another file of the same directory or archive.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ..._core.chunks import CHUNK
from ..._core.directory import open_directory, open_directory_at, open_file_at
from ..._core.errors import TransferFailed, os_errors, printable
from ..image_file import opened_file
from .byte_stream import FileStream
from .manifest import MOST_BYTES
from .tar import FILE, BadArchive, read_entries

#: Upper bound of the entries of an archive.
_MOST_ENTRIES = 100_000


class LocalFiles:
    """The files of a directory, or of an archive without compression.

    :arg path: its absolute path.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def opened(self, name: str) -> contextlib.AbstractContextManager[tuple[int, int, int]]:
        """Return a block with a descriptor, and the offset and the length of a file.

        :raises TransferFailed: there is no such file.
        """
        raise NotImplementedError

    def size(self, name: str) -> int:
        """Return the length of a file in bytes.

        :raises TransferFailed: there is no such file.
        """
        with self.opened(name) as (_descriptor, _offset, size):
            return size

    def read(self, name: str) -> bytes:
        """Return the content of a document.

        :raises TransferFailed: the file is missing or too long.
        """
        if self.size(name) > MOST_BYTES:
            raise TransferFailed(f"Could not read {self.path}: {name} has more than {MOST_BYTES} bytes.")
        return b"".join(self.chunks(name))

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file.

        :raises TransferFailed: there is no such file; :raises FileAccessFailed: it can't be read.
        """
        with self.opened(name) as (descriptor, position, size), os_errors(f"read {self.path}"):
            end = position + size
            while position < end:
                data = os.pread(descriptor, min(CHUNK, end - position), position)
                if not data:
                    return
                position += len(data)
                yield data

    def missing(self, name: str) -> TransferFailed:
        """Return the error about a missing file."""
        return TransferFailed(f"Could not read {self.path}: it has no regular file {printable(name)[:200]!r}.")


class DirectoryFiles(LocalFiles):
    """The files of a directory. Links aren't followed."""

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[tuple[int, int, int]]:
        *directories, last = name.split("/")
        with contextlib.ExitStack() as stack:
            try:
                directory = open_directory(self.path, option="image")
                stack.callback(os.close, directory)
                for one in directories:
                    directory = open_directory_at(directory, one, os.O_PATH)
                    stack.callback(os.close, directory)
                descriptor = open_file_at(directory, last)
            except OSError as error:
                raise self.missing(name) from error
            stack.callback(os.close, descriptor)
            yield descriptor, 0, os.fstat(descriptor).st_size


class ArchiveFiles(LocalFiles):
    """The files of a tar archive, whose headers are read once.

    :raises InvalidInput, FileAccessFailed: the archive isn't a regular file, or can't be opened.
    :raises TransferFailed: the archive is damaged.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._places: dict[str, tuple[int, int]] = {}
        with opened_file(path) as descriptor, os_errors(f"read {path}"):
            stream = FileStream(descriptor)
            try:
                for entry in read_entries(stream, most=_MOST_ENTRIES):
                    if entry.kind == FILE and entry.sparse is None:
                        self._places[os.path.normpath(entry.name)] = stream.position, entry.stored
            except BadArchive as error:
                raise TransferFailed(
                    f"Could not read {path}: a tar archive without compression is expected, and {error}."
                ) from error

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[tuple[int, int, int]]:
        place = self._places.get(os.path.normpath(name))
        if place is None:
            raise self.missing(name)
        with opened_file(self.path) as descriptor:
            yield (descriptor, *place)


__all__ = ["ArchiveFiles", "DirectoryFiles", "LocalFiles"]
