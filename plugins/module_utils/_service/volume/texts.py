# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The texts of config maps, secrets and service accounts, also of those in a directory of this host."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from ..._core.directory import list_directory, opened_directory, opened_file_at
from ..._core.errors import InvalidInput, NotFound, os_errors
from ..._image.iso_image import MOST_FILES, check_file_name
from ..._model.volume_sources import KeyedData

#: Upper bound of all texts in a directory in bytes.
MOST_BYTES = 16 << 20


def read_keyed_data(data: KeyedData) -> Mapping[str, bytes]:
    """Return the texts by key. A directory has a regular file for each key; other files in it are ignored.

    :raises NotFound: there is no such directory.
    :raises InvalidInput: a file name is no key, or the texts are too many or too large.
    :raises FileAccessFailed, PathNotAllowed: the directory can't be read.
    """
    if data.directory is None:
        return data.data
    if not os.path.isdir(data.directory):
        raise NotFound(f"directory: there is no directory {data.directory} on this host.")
    found: dict[str, bytes] = {}
    left = MOST_BYTES
    with os_errors(f"read {data.directory}"), opened_directory(data.directory, option="directory") as directory:
        for name in sorted(list_directory(directory)):
            if name.startswith(".") or not _is_file(directory, name):
                continue
            check_file_name("directory", name)
            with opened_file_at(directory, name) as descriptor:
                found[name] = os.pread(descriptor, left + 1, 0)
            left -= len(found[name])
            if left < 0 or len(found) > MOST_FILES:
                accepted = f"at most {MOST_FILES} files with {MOST_BYTES >> 20} MiB are expected"
                raise InvalidInput("directory", data.directory, accepted)
    return found


def _is_file(directory: int, name: str) -> bool:
    return stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)


__all__ = ["MOST_BYTES", "read_keyed_data"]
