# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of this host that get into an ISO image."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from .._core.directory import open_file_at, opened_parent
from .._core.errors import DependencyNotFound, InvalidInput, from_os_error

#: Upper bound of the files of an image in bytes.
LARGEST = 64 * 1024 * 1024


def add_sources(files: Mapping[str, bytes], sources: Mapping[str, str]) -> dict[str, bytes]:
    """Return ``files`` with the contents of further files by name. Links of other users aren't followed to files that
    aren't theirs.

    :arg sources: paths on this host by name.
    :raises DependencyNotFound: a file is missing; :raises InvalidInput: a file isn't regular, or the files are too
        large; :raises PathNotAllowed: a link of another user leads elsewhere.
    """
    contents = dict(files)
    left = LARGEST - sum(map(len, contents.values()))
    for name, path in sources.items():
        contents[name] = _read(path, max(left, 0))
        left -= len(contents[name])
    if left < 0:
        raise InvalidInput("files", sorted(contents), f"files of at most {LARGEST} bytes in all are expected")
    return contents


def _read(path: str, most: int) -> bytes:
    """Return at most ``most + 1`` bytes of a file."""
    try:
        with opened_parent(path, option="files.path") as (directory, name):
            with os.fdopen(open_file_at(directory, name), "rb") as file:
                return file.read(most + 1)
    except FileNotFoundError as error:
        raise DependencyNotFound(f"files.path: this host has no file {path}.") from error
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ELOOP, errno.ENXIO):
            raise InvalidInput("files.path", path, "the path of a regular file is expected") from error
        raise from_os_error(error, f"read {path}") from error


__all__ = ["LARGEST", "add_sources"]
