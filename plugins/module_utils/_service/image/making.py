# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The creation of the data of images, before the transaction that records the images, and in batches of the drivers."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import NoReturn

from ..._core.errors import VmstoreError
from ..._core.plan import nothing
from ..._driver.datastore.base import CopiedImage, DatastoreDriver

#: Upper bound of the number of images that become durable together. Each needs an open descriptor until then.
BATCH = 100


class NewData:
    """The data of one image. A failure is kept as the error of this image, and the creation of other data continues.

    :arg make: creates the data and returns its description.
    """

    def __init__(self, driver: DatastoreDriver, make: Callable[[], CopiedImage], batch: Batch) -> None:
        self.driver = driver
        self.made: CopiedImage | None = None
        self.error: VmstoreError | None = None
        self._make = make
        self._batch = batch

    @property
    def is_done(self) -> bool:
        return self.made is not None or self.error is not None

    def prepare(self) -> Callable[[], None]:
        try:
            self.made = self._make()
        except VmstoreError as error:
            self.error = error
        else:
            self._batch.add(self)
        return self._remove

    def _remove(self) -> None:
        if self.made is not None:
            self.driver.rm(self.made.source)


class Growth:
    """The enlargement of the data of one image. A failure is kept as its error.

    It has no undo, because data larger than its record does no harm.

    :arg path: path of the data.
    :arg size: the new size in MiB.
    """

    def __init__(self, path: str, size: int, grow: Callable[[], None]) -> None:
        self.target = path, size
        self.error: VmstoreError | None = None
        self.is_done = False
        self._grow = grow

    def prepare(self) -> Callable[[], None]:
        try:
            self._grow()
        except VmstoreError as error:
            self.error = error
        self.is_done = True
        return nothing


class Batch:
    """New data that is published together. The data gets its names, and becomes durable, only by the publication."""

    def __init__(self) -> None:
        self._waiting: list[NewData] = []

    def add(self, data: NewData) -> None:
        self._waiting.append(data)
        if len(self._waiting) >= BATCH:
            self.publish()

    def holds(self, data: NewData) -> bool:
        return data in self._waiting

    def publish(self) -> None:
        """Let the drivers publish the data that was created since the last call. Data that can't be published gets
        an error.
        """
        waiting, self._waiting = self._waiting, []
        for driver in {id(data.driver): data.driver for data in waiting}.values():
            errors = driver.publish()
            for data in waiting:
                if data.driver is driver and data.made is not None and data.made.source in errors:
                    data.error = errors[data.made.source]
                    data.made = None

    @contextlib.contextmanager
    def open(self, planned: list[NewData]) -> Iterator[None]:
        """Create ``planned`` in a block, and publish everything at its end.

        A signal ends the block by an exception, so that the data that was created is removed again.
        """
        drivers = {id(data.driver): data.driver for data in planned} if len(planned) > 1 else {}
        with _raise_on_signals(), contextlib.ExitStack() as batches:
            for driver in drivers.values():
                batches.enter_context(driver.batch())
            yield
            self.publish()


@contextlib.contextmanager
def _raise_on_signals() -> Iterator[None]:
    """Turn signals into an exception in a block. Not to be used where the catalog is written."""

    def end(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    numbers = [number for number in (signal.SIGHUP, signal.SIGTERM) if signal.getsignal(number) == signal.SIG_DFL]
    try:
        for number in numbers:
            signal.signal(number, end)
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


__all__ = ["Batch", "Growth", "NewData"]
