# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is in a datastore's directory. Names, links and headers there can be anybody's: no link counts that leads elsewhere; only regular files are opened."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator

from .._core.errors import NotFound, os_errors

_IMAGE = re.compile("[0-9a-f]{32}")
_SNAPSHOT = re.compile("[0-9]{1,9}")


def stored_images(directory: str) -> list[str]:
    """The names of the images in ``directory`` whose data is there.

    :raises NotFound: there is no such directory; :raises FileAccessFailed: it can't be read.
    """
    with _entries(directory) as entries:
        return [entry.name for entry in entries if _IMAGE.fullmatch(entry.name) and _has_data(entry)]


@contextlib.contextmanager
def _entries(directory: str) -> Iterator[Iterator[os.DirEntry[str]]]:
    with os_errors(f"read the directory {directory}"):
        try:
            entries = os.scandir(directory)
        except FileNotFoundError as error:
            raise NotFound(f"The directory {directory} could not be read: it does not exist.") from error
        with entries:
            yield entries


def _has_data(entry: os.DirEntry[str]) -> bool:
    """Costs a system call only for links, which images with qcow2 snapshots are."""
    if entry.is_symlink():
        return _data_file(entry.path) is not None
    return entry.is_file(follow_symlinks=False)


def _data_file(image: str) -> str | None:
    """The regular file that has an image's data: its own or, where it is a link, one of its snapshots; ``None`` when it is neither."""
    path = image
    with contextlib.suppress(OSError):
        if os.path.islink(image):
            directory, number = os.path.split(os.path.join(os.path.dirname(image), os.readlink(image)))
            own = f"{image}.snap"
            if _SNAPSHOT.fullmatch(number) is None or os.path.islink(own) or os.path.realpath(directory) != os.path.realpath(own):
                return None
            path = os.path.join(own, number)
        if stat.S_ISREG(os.lstat(path).st_mode):
            return path
    return None


__all__ = ["stored_images"]
