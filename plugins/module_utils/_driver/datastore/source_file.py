# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files and directories of the front-end that a user names. The rules are checked for the file that is open, because
another file can replace its path at any time.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator

from ..._core.directory import descriptor_path, is_writable_for_others, open_file_at, opened_parent
from ..._core.errors import InvalidInput, os_errors
from ..._core.paths import absolute, is_within
from ..._core.records import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import DatastoreDriver

#: The directory in which the kernel and root's programs create devices.
DEVICES = "/dev"


@contextlib.contextmanager
def open_source_file(path: str, check: Callable[..., object]) -> Iterator[int]:
    """Yield a descriptor for reading the regular file or block device ``path``. Devices outside /dev are refused,
    because only root creates devices in /dev.

    :arg check: raises if a path isn't allowed. It gets the resolved path, and for a device also the device's name. The
        first call comes before the file is opened, so that a refusal discloses nothing about the file. The second call
        gets the path of the open file.
    :raises InvalidInput: ``path`` is neither a regular file nor a block device.
    :raises PathNotAllowed: a link of another user leads to ``path``.
    :raises FileAccessFailed: ``path`` can't be read.
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
    """Return the name of a link in /dev that root created, such as udev's ``/dev/GROUP/VOLUME``. The device's own name
    (dm-3) can change at a boot.

    :raises OSError: the directory of ``path`` can't be read.
    """
    real, directory = os.path.realpath(path), os.path.realpath(os.path.dirname(path))
    name = os.path.join(directory, os.path.basename(path))
    if name == real or not (is_within(directory, DEVICES) and is_within(real, DEVICES)):
        return []
    status = os.stat(directory)
    return [name] if status.st_uid == 0 and not is_writable_for_others(status) else []


def size_of_directory(driver: DatastoreDriver, path: str) -> int:
    """Return the size of a directory of this host in MiB, rounded up.

    :raises VmstoreError: the directory isn't allowed, or can't be measured.
    """
    from ..._host.directory import Measuring, look

    return look(path, check=driver.check, measuring=Measuring(driver.timeout, driver.log)).size_mb or 0


__all__ = ["open_source_file", "size_of_directory"]
