# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Chunks that a thread reads ahead, so that two processors share the work on a stream: one receives and verifies, the
other decompresses and writes.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator

#: Upper bound of the chunks that are read ahead.
AHEAD = 64


def read_ahead(chunks: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
    """Yield ``chunks``, which a thread reads. Errors of ``chunks`` are raised here. When the generator is closed, the
    thread has ended.
    """
    slots = threading.Semaphore(AHEAD)
    found: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()
    stopping = threading.Event()

    def work() -> None:
        try:
            for chunk in chunks:
                slots.acquire()
                if stopping.is_set():
                    break
                found.put(chunk)
            found.put(None)
        except BaseException as error:  # pylint: disable=broad-except  # raised again below
            found.put(error)
        finally:
            chunks.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := found.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
            slots.release()
    finally:
        stopping.set()
        slots.release()
        thread.join()


__all__ = ["read_ahead"]
