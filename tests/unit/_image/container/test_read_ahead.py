# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Chunks that a thread reads ahead."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.read_ahead import (
    AHEAD,
    read_ahead,
)


class Broken(Exception):
    """The error of a source."""


class Counter:
    """A source of numbered chunks.

    :ivar given: number of the chunks so far.
    :ivar thread: the thread that reads the source.
    :ivar is_closed: whether the source has ended or was closed.
    """

    def __init__(self, error_at: int | None = None) -> None:
        self.given = 0
        self.thread: threading.Thread | None = None
        self.is_closed = False
        self._error_at = error_at

    def chunks(self, count: int) -> Generator[bytes, None, None]:
        try:
            self.thread = threading.current_thread()
            for number in range(count):
                if number == self._error_at:
                    raise Broken
                self.given += 1
                yield str(number).encode()
        finally:
            self.is_closed = True


def test_all_chunks_in_their_order() -> None:
    source = Counter()
    assert list(read_ahead(source.chunks(1000))) == [str(number).encode() for number in range(1000)]
    assert source.thread is not threading.current_thread()
    assert source.is_closed and source.thread and not source.thread.is_alive()


def test_an_error_of_the_source_is_raised_behind_its_chunks() -> None:
    source = Counter(error_at=3)
    found = []
    with pytest.raises(Broken):
        for chunk in read_ahead(source.chunks(10)):
            found.append(chunk)
    assert found == [b"0", b"1", b"2"]
    assert source.thread and not source.thread.is_alive()


def test_a_consumer_that_stops_ends_the_thread() -> None:
    source = Counter()
    chunks = read_ahead(source.chunks(10 * AHEAD))
    assert next(chunks) == b"0"
    chunks.close()
    assert source.is_closed and source.thread and not source.thread.is_alive()
    assert source.given <= AHEAD + 2
