# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Data in frames: the receiver gets exactly the sent data, holes included, or an error."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import StaleState, TransferFailed
from ansible_collections.granary.vmstore.plugins.module_utils._remote.stream import (
    UNKNOWN,
    Received,
    frames_of_file,
    frames_of_stream,
    seal,
)
from refusal import refused

MIB = 1 << 20


def receive(data: bytes) -> tuple[bytes, bytes, list[str]]:
    """Return the beginning of the received data, all of the data, and the calls at its end."""
    ended: list[str] = []
    head, chunks = Received(io.BytesIO(data), UNKNOWN, lambda: ended.append("ended")).begin(512)
    return head, b"".join(chunks), ended


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """Yield a file of 8 MiB with data in the middle."""
    with (tmp_path / "x").open("w+b") as opened:
        os.pwrite(opened.fileno(), random.Random(1).randbytes(MIB), 3 * MIB)
        opened.truncate(8 * MIB)
        yield opened.fileno()


def test_holes_are_not_sent(file: int) -> None:
    sent = b"".join(seal(frames_of_file(file, 8 * MIB, [(3 * MIB, 4 * MIB)])))
    assert len(sent) < MIB + 1000
    head, data, ended = receive(sent)
    assert (data, ended) == (os.pread(file, 8 * MIB, 0), ["ended"])
    assert len(head) >= 512 and data.startswith(head)


@pytest.mark.parametrize("chunks", [[], [b"a"], [b"a" * 600, b"", b"b"]])
def test_a_stream(chunks: list[bytes]) -> None:
    assert receive(b"".join(seal(frames_of_stream(chunks))))[1:] == (b"".join(chunks), ["ended"])


@pytest.mark.parametrize("position", [0, 5, 9, 300, -1, -40])
def test_a_byte_that_changed_on_the_way(position: int) -> None:
    sent = bytearray(b"".join(seal(frames_of_stream([b"x" * 600]))))
    sent[position] ^= 1
    with pytest.raises(TransferFailed):
        receive(bytes(sent))


def test_an_end_that_is_missing() -> None:
    sent = b"".join(seal(frames_of_stream([b"x" * 600])))
    for length in range(0, len(sent), 37):
        with refused(TransferFailed, says="The front-end is gone."):
            receive(sent[:length])


def test_a_file_that_becomes_shorter(file: int) -> None:
    frames = frames_of_file(file, 8 * MIB, [(0, 8 * MIB)])
    next(frames)
    os.ftruncate(file, 2 * MIB)
    with refused(
        StaleState,
        says="The file that an image is copied from became shorter meanwhile; copy it when nothing writes to it.",
    ):
        list(frames)


def test_what_is_checked_before_the_end() -> None:
    def check() -> None:
        raise StaleState("It changed.")

    sent = seal(frames_of_stream([b"x"]), check)
    assert next(sent).endswith(b"x")
    with pytest.raises(StaleState):
        next(sent)
