# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Open a file that a user names: what is read is what the rules were compared with, whatever becomes of its path meanwhile."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator

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
    :raises FileAccessFailed: it can't be read.
    """
    real = os.path.realpath(absolute("path", path))
    check(real)
    descriptors = []
    try:
        with os_errors(f"open {path}"):
            # O_PATH opens nothing yet: no device is touched, no pipe waited for.
            descriptors.append(os.open(real, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))
            found = f"/proc/self/fd/{descriptors[0]}"
            check(absolute("path", os.readlink(found)))
            if not stat.S_ISREG(os.fstat(descriptors[0]).st_mode):
                raise InvalidInput("path", path, "a regular file is expected")
            descriptors.append(os.open(found, os.O_RDONLY | os.O_CLOEXEC))
        yield descriptors[1]
    finally:
        for descriptor in descriptors:
            with contextlib.suppress(OSError):  # nothing was written
                os.close(descriptor)


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
