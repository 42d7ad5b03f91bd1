# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files with holes."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator

from .block_device import is_block_device


def extents(descriptor: int, size: int, start: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the ranges with data from ``start`` on as (start, end). A block device has no holes."""
    if start < size and is_block_device(descriptor):
        yield start, size
        return
    end = start
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # no data up to the end
                raise
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end


def start_write_out(descriptor: int, position: int, length: int) -> None:
    """Start to write data to the disk while the next data is copied. Then fsync(2) is fast, which halves the time for a
    large image.

    Linux writes dirty pages that are declared unneeded (mm/fadvise.c). This also keeps the image out of the page cache.
    """
    os.posix_fadvise(descriptor, position, length, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def writing_out(descriptor: int) -> Iterator[Callable[[int, int], object]]:
    """Yield a function that lets a thread call :func:`start_write_out`, which waits for a busy disk. So this thread
    goes on to take data from a pipe. The thread has ended after the block.
    """
    import queue
    import threading

    ranges: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()

    def work() -> None:
        while (found := ranges.get()) is not None:
            with contextlib.suppress(OSError):  # fsync(2) returns errors of the disk
                start_write_out(descriptor, *found)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield lambda position, length: ranges.put((position, length))
    finally:
        ranges.put(None)
        thread.join()


__all__ = ["extents", "start_write_out", "writing_out"]
