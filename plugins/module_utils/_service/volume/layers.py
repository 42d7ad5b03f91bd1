# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Facts about a disk's data on this host: a file or a block device that exists, or a file that is going to be made."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from ..._core.block_device import block_sizes, length_of, require_storage
from ..._core.direct_io import supports_direct_io
from ..._core.directory import open_file_at, opened_parent
from ..._core.errors import NotFound, os_errors
from ..._core.records import dataclass
from ..._image.image_file import disk_size
from ..._libvirt.devices.volume_disk import DiskLayer
from ..._model.volume_disks import BlockSize

_SECTOR = 512


@dataclass(frozen=True)
class LayerState:
    """A file or block device with the data of a disk.

    :arg size: virtual size of the disk in bytes.
    :arg is_allocated: whether storage is allocated for all of the disk.
    :arg block_size: the sizes of blocks of the device or of the file system.
    """

    layer: DiskLayer
    size: int
    is_allocated: bool
    block_size: BlockSize


def look_at_layer(path: str, format: str, option: str) -> LayerState:
    """Return the state of existing data.

    :arg option: the place in the declaration that the path comes from.
    :raises NotFound: there is no such file.
    :raises PathNotAllowed: a symbolic link of another user leads elsewhere.
    :raises FileAccessFailed: the file can't be read.
    """
    with _opened(path, option) as descriptor, os_errors(f"read {path}"):
        status = os.fstat(descriptor)
        if stat.S_ISBLK(status.st_mode):
            logical, physical, granularity = block_sizes(descriptor)
            sizes = BlockSize(logical, physical, granularity if granularity % logical == 0 else physical)
            return LayerState(DiskLayer(path, True, format), length_of(descriptor), True, sizes)
        size = disk_size(descriptor, format, path)
        unit = os.fstatvfs(descriptor).f_bsize
        is_allocated = status.st_blocks * _SECTOR >= size
        return LayerState(DiskLayer(path, False, format), size, is_allocated, BlockSize(unit, unit, unit))


@contextlib.contextmanager
def _opened(path: str, option: str) -> Iterator[int]:
    with contextlib.ExitStack() as stack:
        if not os.path.exists(path):
            raise NotFound(f"{option}: there is no file {path} on this host.")
        with os_errors(f"open {path}"):
            directory, name = stack.enter_context(opened_parent(path, option=option))
            descriptor = open_file_at(directory, name, os.O_RDONLY | os.O_NONBLOCK, check=require_storage)
        stack.callback(os.close, descriptor)
        yield descriptor


def have_direct_io(*paths: str) -> bool:
    """Return whether all files of a chain can be read without the host's page cache. A missing file is asked for by its
    directory.
    """
    return all(map(supports_direct_io, paths))


__all__ = ["LayerState", "have_direct_io", "look_at_layer"]
