# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Open a file that a user names: what is read is what the rules were compared with, whatever becomes of its path meanwhile."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator

from .._core.directory import descriptor_path, opened_parent
from .._core.errors import InvalidInput, os_errors
from .._core.paths import absolute

#: Bytes read at once.
CHUNK = 1 << 20


@contextlib.contextmanager
def opened(path: str, check: Callable[[str], object]) -> Iterator[int]:
    """A descriptor to read the regular file ``path`` by.

    :arg check: gets the resolved path and raises when it isn't allowed: before anything is opened, so that a refusal tells nothing
        about the file, and again with the path of what was opened.
    :raises InvalidInput: it isn't a regular file.
    :raises PathNotAllowed: a link of another user leads to it.
    :raises FileAccessFailed: it can't be read.
    """
    path = absolute("path", path)
    with contextlib.ExitStack() as stack:
        with os_errors(f"open {path}"):
            check(os.path.realpath(path))
            directory, name = stack.enter_context(opened_parent(path))
            # O_PATH opens nothing yet: no device is touched, no pipe waited for.
            found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            stack.callback(os.close, found)
            check(absolute("path", os.readlink(descriptor_path(found))))
            if not stat.S_ISREG(os.fstat(found).st_mode):
                raise InvalidInput("path", path, "a regular file is expected")
            descriptor = os.open(descriptor_path(found), os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
        yield descriptor


def chunks_of(descriptor: int) -> Iterator[bytes]:
    """The file from its beginning."""
    offset = 0
    while True:
        data = os.pread(descriptor, CHUNK, offset)
        if not data:
            return
        offset += len(data)
        yield data


__all__ = ["chunks_of", "opened"]
