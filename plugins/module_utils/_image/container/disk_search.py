# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The search for the disk in the layers of an image, from the highest layer down. Nothing is unpacked: the names in the
archives are enough.

A file of a higher layer replaces that of a lower layer, and marks in a higher layer remove names of the lower layers
("whiteouts" of OCI's image specification).
"""

from __future__ import annotations

from ..._core.errors import InvalidInput
from .tar import DIRECTORY, FILE, HARD_LINK, SYMBOLIC_LINK, TarEntry

#: The directory of the disk, unless the user gives a path.
DISK_DIRECTORY = "disk"

#: Prefix of the marks that remove a name of the lower layers, and the mark that removes all of their names in its
#: directory.
_REMOVAL = ".wh."
_OPAQUE = ".wh..wh..opq"
#: Prefix of other marks, which remove nothing.
_OTHER_MARK = ".wh..wh."

#: Upper bound of the marks beside the disk in a layer.
_MOST_MARKS = 10_000
#: Upper bound of the length of a name in an archive in characters (PATH_MAX).
_LONGEST_NAME = 4096

#: Descriptions of the types that aren't regular files.
_KINDS = {
    DIRECTORY: "a directory",
    HARD_LINK: "a hard link",
    SYMBOLIC_LINK: "a symbolic link",
    "3": "a device",
    "4": "a device",
    "6": "a FIFO",
}


class DiskSearch:
    """The search for the only file in ``/disk``, or for the file at a path.

    :arg path: the path of the disk in the image, or ``None``.
    :arg image: the image, for messages.
    """

    def __init__(self, path: str | None, image: str) -> None:
        self._image = image
        self._path = path
        *around, name = (path or f"{DISK_DIRECTORY}/").lstrip("/").split("/")
        self._directory, self._name = tuple(around), name or None
        #: The found name, and whether the lower layers can't have the disk.
        self._found: str | None = None
        self._is_over = False
        #: Names that higher layers have or remove, and those of the current layer. ``None`` stands for all names.
        self._hidden: set[str] = set()
        self._hides: set[str] = set()
        self._hides_all = False

    @property
    def found(self) -> str:
        """Return the path of the disk in the image.

        :raises InvalidInput: there was none.
        """
        if self._found is None:
            where = f"the folder /{DISK_DIRECTORY}" if self._path is None else f"the path {self._path}"
            raise InvalidInput(
                "image" if self._path is None else "path",
                self._image if self._path is None else self._path,
                f"an image with one disk is expected, and there is no file in {where} of {self._image}",
            )
        return "/" + "/".join((*self._directory, self._found))

    @property
    def is_over(self) -> bool:
        """Return whether further layers make no difference."""
        return self._is_over

    def end_layer(self) -> None:
        """Let the names and the marks of the current layer hide the names of the lower layers."""
        self._hidden |= self._hides
        self._is_over = self._hides_all or (self._name is not None and self._name in self._hidden)
        self._hides = set()

    def is_disk(self, entry: TarEntry) -> bool:
        """Return whether an entry of the current layer is the disk.

        :raises InvalidInput: the archive has a name that leads out of the image, the disk isn't a regular file, or the
            folder has several files.
        """
        parts = self._split(entry.name)
        depth = len(parts)
        if depth <= len(self._directory):
            self._look_around(parts, entry)
            return False
        if parts[: len(self._directory)] != self._directory:
            self._look_for_marks(parts)
            return False
        name = parts[len(self._directory)]
        if name == _OPAQUE:
            self._hides_all = True
            return False
        if name.startswith(_REMOVAL):
            self._note_removal(name)
            return False
        if name in self._hidden or self._name not in (None, name):
            return False
        return self._is_new(name, entry, is_below=depth > len(self._directory) + 1)

    def _note_removal(self, mark: str) -> None:
        if not mark.startswith(_OTHER_MARK):
            self._hides.add(mark[len(_REMOVAL) :])
        if len(self._hides) > _MOST_MARKS:
            raise self._refused(f"a layer that removes at most {_MOST_MARKS} files of a directory is expected")

    def _is_new(self, name: str, entry: TarEntry, *, is_below: bool) -> bool:
        if is_below or entry.kind != FILE:
            what = "a directory" if is_below else _KINDS.get(entry.kind, "no regular file")
            raise self._refused(f"a regular file is expected, and {self._show(name)} is {what}")
        if self._found is not None:
            raise self._refused(
                f"one file is expected in /{'/'.join(self._directory)}, and there is more than one: "
                f"{self._show(self._found)} and {self._show(name)}"
            )
        if not name.isprintable():  # bytes that aren't UTF-8 aren't printable, either
            raise self._refused(f"a name in UTF-8 without control characters is expected, and it is {self._show(name)}")
        self._found = name
        self._hides.add(name)
        return True

    def _split(self, name: str) -> tuple[str, ...]:
        """Return the components of a name in the archive."""
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if (name.startswith("/") and parts) or ".." in parts or len(name) > _LONGEST_NAME:
            raise self._refused(f"names inside the image are expected, and a layer has {name[:100]!r}")
        return parts

    def _look_around(self, parts: tuple[str, ...], entry: TarEntry) -> None:
        """Look at a directory around the disk, or at a mark beside such a directory."""
        if parts == self._directory[: len(parts)]:
            if parts and entry.kind != DIRECTORY:
                what = _KINDS.get(entry.kind, "no directory")
                raise self._refused(f"a directory is expected at /{'/'.join(parts)}, and it is {what}")
            return
        self._look_for_marks(parts)

    def _look_for_marks(self, parts: tuple[str, ...]) -> None:
        around, name = parts[:-1], parts[-1]
        if around != self._directory[: len(around)] or not name.startswith(_REMOVAL):
            return
        # The mark is beside a directory around the disk.
        if name == _OPAQUE or name == _REMOVAL + self._directory[len(around)]:
            self._hides_all = True

    def _refused(self, accepted: str) -> InvalidInput:
        return InvalidInput("image", self._image, accepted)

    def _show(self, name: str) -> str:
        return repr("/" + "/".join((*self._directory, name)))[:200]


__all__ = ["DISK_DIRECTORY", "DiskSearch"]
