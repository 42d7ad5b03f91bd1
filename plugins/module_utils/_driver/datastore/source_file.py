# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Open a file that a user names: what is read is what the rules were compared with, whatever becomes of its path
meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator

from ..._core.directory import descriptor_path, is_writable_for_others, open_file_at, opened_parent
from ..._core.errors import InvalidInput, os_errors
from ..._core.paths import absolute, is_within

#: Bytes read at once.
CHUNK = 1 << 20

#: Where the kernel and root's programs make devices.
DEVICES = "/dev"


@contextlib.contextmanager
def opened(path: str, check: Callable[..., object]) -> Iterator[int]:
    """A descriptor to read the regular file or the block device ``path`` by. Nobody but root makes devices in /dev, so
    elsewhere they don't count.

    :arg check: gets the resolved path, and the name of a device, and raises when it isn't allowed: before anything is
        opened, so that a refusal tells nothing about the file, and again with the path of what was opened.
    :raises InvalidInput: it is neither.
    :raises PathNotAllowed: a link of another user leads to it.
    :raises FileAccessFailed: it can't be read.
    """
    path = absolute("path", path)
    with contextlib.ExitStack() as stack:
        with os_errors(f"open {path}"):
            names = _names_of_device(path)
            check(os.path.realpath(path), *names)
            directory, name = stack.enter_context(opened_parent(path))

            def check_found(found: int) -> None:
                real, mode = absolute("path", os.readlink(descriptor_path(found))), os.fstat(found).st_mode
                is_device = stat.S_ISBLK(mode) and is_within(real, DEVICES)
                check(real, *(names if is_device else ()))
                if not (stat.S_ISREG(mode) or is_device):
                    raise InvalidInput("path", path, f"a regular file is expected, or a block device in {DEVICES}")

            descriptor = open_file_at(directory, name, check=check_found)
            stack.callback(os.close, descriptor)
        yield descriptor


def _names_of_device(path: str) -> list[str]:
    """Return the name of a link in /dev that root made, such as udev's ``/dev/GROUP/VOLUME``: the device's own name
    (dm-3) can be another after a boot.

    :raises OSError: the directory of ``path`` can't be looked at.
    """
    real, directory = os.path.realpath(path), os.path.realpath(os.path.dirname(path))
    name = os.path.join(directory, os.path.basename(path))
    if name == real or not (is_within(directory, DEVICES) and is_within(real, DEVICES)):
        return []
    status = os.stat(directory)
    return [name] if status.st_uid == 0 and not is_writable_for_others(status) else []


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
