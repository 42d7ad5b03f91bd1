# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The exchange of a tree between two peers: the receiver gets exactly the tree, or keeps its old files."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core import errors
from ansible_collections.granary.vmstore.plugins.module_utils._core.part_directory import open_part_directory
from ansible_collections.granary.vmstore.plugins.module_utils._core.temporary import new_part_name
from ansible_collections.granary.vmstore.plugins.module_utils._remote import staging, tree_stream
from ansible_collections.granary.vmstore.plugins.module_utils._remote.stream import DATA, END, FRAME, HOLE
from ansible_collections.granary.vmstore.plugins.module_utils._remote.tree import FILE, Entry, Source, digest_of
from ansible_collections.granary.vmstore.plugins.module_utils._remote.tree_exchange import Broken
from ansible_collections.granary.vmstore.plugins.module_utils._remote.tree_peer import TreePeer
from ansible_collections.granary.vmstore.plugins.module_utils._remote.tree_stream import (
    FAILURE,
    SEGMENT_END,
    BadData,
    Digest,
)
from refusal import refused
from trees import announce, receive, record

MIB = 1 << 20
RANDOM = random.Random(1).randbytes(MIB)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (path := tmp_path / "target").mkdir()
    return path


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    """Return a tree with a file of 8 MiB, with data in its middle, and a small file behind."""
    (directory := tmp_path / "source").mkdir()
    with (directory / "a").open("wb") as file:
        file.seek(3 * MIB)
        file.write(RANDOM)
        file.truncate(8 * MIB)
    (directory / "b").write_bytes(b"small")
    descriptor = os.open(directory, os.O_RDONLY)
    yield Source(descriptor, str(directory), {"a": "a", "b": "b"})
    os.close(descriptor)


def test_a_tree_with_holes(source: Source, target: Path) -> None:
    sent = record(source)
    assert len(sent) < MIB + 2000
    answers = receive(sent, target)
    assert [list(answer) for answer in answers] == [["position"], ["received"]]
    assert sorted(os.listdir(target)) == ["a", "b"]
    assert (target / "a").read_bytes() == bytes(3 * MIB) + RANDOM + bytes(4 * MIB)
    assert (target / "a").stat().st_blocks * 512 < 2 * MIB
    assert (target / "b").read_bytes() == b"small"


def test_allocated_storage_that_another_program_reads_meanwhile(target: Path, tmp_path: Path) -> None:
    """lseek(2) reports such storage as data after it was read."""
    (directory := tmp_path / "source").mkdir()
    with (directory / "a").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 4 * MIB)
        file.write(RANDOM[:8192])
        os.fsync(file.fileno())
    descriptor = os.open(directory, os.O_RDONLY)
    source = Source(descriptor, str(directory), {"a": "a"})
    tree = source.describe()
    (directory / "a").read_bytes()
    assert tree[0].data == 8192 < source.describe()[0].data
    assert digest_of(tree) == digest_of(source.describe())
    receive(record(source, tree), target)
    os.close(descriptor)
    assert (target / "a").read_bytes() == RANDOM[:8192] + bytes(4 * MIB - 8192)


def test_old_and_outdated_files_disappear(source: Source, target: Path) -> None:
    (target / "a" / "inner").mkdir(parents=True)
    (target / "b").symlink_to("/etc/passwd")
    (target / "outdated" / "inner").mkdir(parents=True)
    (target / "kept").touch()
    receive(record(source), target, commit=lambda tree: tree.publish(outdated=["outdated", "none"]))
    assert sorted(os.listdir(target)) == ["a", "b", "kept"]
    assert (target / "b").read_bytes() == b"small" and not (target / "b").is_symlink()
    assert (target / "a").stat().st_size == 8 * MIB


def test_modes_and_times(source: Source, target: Path, tmp_path: Path) -> None:
    (tmp_path / "source" / "a").chmod(0o400)
    os.utime(tmp_path / "source" / "b", ns=(1, 1_234_567_890_123_456_789))
    receive(record(source), target)
    assert (target / "a").stat().st_mode & 0o7777 == 0o400
    assert (target / "b").stat().st_mtime_ns == 1_234_567_890_123_456_789


def test_a_byte_that_changed_on_the_way(source: Source, target: Path) -> None:
    (target / "a").write_text("old")
    sent = record(source)
    begin = sent.index(b"\n") + 1
    for position in (begin, begin + 3, begin + 8, begin + 30, begin + MIB, len(sent) - 60, len(sent) - 1):
        damaged = bytearray(sent)
        damaged[position] ^= 1
        with pytest.raises(errors.TransferFailed):
            receive(bytes(damaged), target)
        assert (target / "a").read_text() == "old"
        assert sorted(name for name in os.listdir(target) if not name.startswith(".")) == ["a"]


def test_a_connection_that_breaks_anywhere_goes_on_from_the_verified_data(
    source: Source, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_stream, "SEGMENT", MIB // 4)
    monkeypatch.setattr(tree_stream, "CHUNK", MIB // 16)
    sent = record(source)
    for length in range(0, len(sent), 111_111):
        part = new_part_name()
        with pytest.raises(Broken):
            receive(sent[:length], target, part=part)
        assert set(os.listdir(target)) <= {part}
        answers: list[dict[str, Any]] = []
        answer_from(source, target, part, answers)
        index, offset, _digest = answers[0]["position"]
        if length > MIB // 2:
            assert (index, offset) > (0, 3 * MIB)
        assert (target / "a").read_bytes() == bytes(3 * MIB) + RANDOM + bytes(4 * MIB)
        assert sorted(os.listdir(target)) == ["a", "b"]
        for name in os.listdir(target):
            (target / name).unlink()


@pytest.fixture
def broken(source: Source, target: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of the part directory of a connection that broke after some segments."""
    monkeypatch.setattr(tree_stream, "SEGMENT", MIB // 4)
    monkeypatch.setattr(tree_stream, "CHUNK", MIB // 16)
    part = new_part_name()
    sent = record(source)
    with refused(Broken):
        receive(sent[: len(sent) - MIB // 4], target, part=part)
    assert os.listdir(target) == [part]
    return part


def positions(source: Source, target: Path, part: str) -> list[int]:
    """Return the position from which the receiver needs data."""
    answers: list[dict[str, Any]] = []
    answer_from(source, target, part, answers)
    assert sorted(os.listdir(target)) == ["a", "b"]
    assert (target / "a").read_bytes() == bytes(3 * MIB) + RANDOM + bytes(4 * MIB)
    return answers[0]["position"][:2]


def test_after_a_boot_the_data_is_sent_again(source: Source, target: Path, broken: str) -> None:
    """The host may have lost the data that was in the page cache."""
    with (target / broken / "lock").open("r+b") as file:
        file.write(b"another boot")
    assert positions(source, target, broken) == [0, 0]


def test_a_changed_source_is_sent_again(source: Source, target: Path, broken: str, tmp_path: Path) -> None:
    (tmp_path / "source" / "b").write_bytes(b"other")
    assert positions(source, target, broken) == [0, 0]
    assert (target / "b").read_bytes() == b"other"


def test_unverified_data_is_discarded(source: Source, target: Path, broken: str) -> None:
    with (target / broken / "data" / "a").open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"no data of the sender")
    index, offset = positions(source, target, broken)
    assert index == 0 and 3 * MIB < offset < 4 * MIB


def test_the_next_transfer_removes_what_a_broken_one_left(source: Source, target: Path, broken: str) -> None:
    assert positions(source, target, new_part_name()) == [0, 0]


def test_a_part_that_another_process_holds(
    source: Source, target: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "RELEASE", 0.2)
    descriptor = os.open(target, os.O_RDONLY)
    part = open_part_directory(descriptor, broken)
    with refused(errors.LockTimeout, names=[target, broken]):
        receive(record(source), target, part=broken)
    assert (target / broken / "data" / "a").exists()
    part.close()
    os.close(descriptor)


def answer_from(source: Source, target: Path, part: str, answers: list[dict[str, Any]]) -> None:
    """Send a tree with a second connection, from the position that the receiver names."""
    (there, to_there), (here, to_here) = os.pipe(), os.pipe()

    def send() -> None:
        with open(here, "rb") as stdin, open(to_there, "wb", buffering=0) as out:
            Noting(stdin, out, {"transfer": part}, answers).send(source)

    (thread := threading.Thread(target=send)).start()
    descriptor = os.open(target, os.O_RDONLY)
    try:
        with open(there, "rb") as stdin, open(to_here, "wb", buffering=0) as out:
            TreePeer(stdin, out, {"transfer": part}).receive(descriptor, str(target))
    finally:
        os.close(descriptor)
        thread.join()


class Noting(TreePeer):
    """A peer that notes all messages."""

    def __init__(self, stdin: Any, answers: Any, request: dict[str, Any], noted: list[dict[str, Any]]) -> None:
        super().__init__(stdin, answers, request)
        self._noted = noted

    def read_message(self, seconds: float = 0) -> Any:
        self._noted.append(dict(super().read_message(seconds)))
        return self._noted[-1]


# Hostile senders


def sealed(entries: tuple[Entry, ...], *frames: bytes, kind: bytes = END) -> bytes:
    """Return an announced tree with frames and a right digest."""
    digest = Digest(digest_of(entries))
    for frame in frames:
        digest.update(frame)
    return announce(*entries) + b"".join(frames) + FRAME.pack(kind, 32) + digest.cut()


SMALL = (Entry("x", FILE, 0o644, 1, size=10, data=10),)
SPARSE = (Entry("x", FILE, 0o644, 1, size=10, data=0),)


def data(length: int) -> bytes:
    return FRAME.pack(DATA, length) + bytes(length)


@pytest.mark.parametrize(
    ("tree", "frames"),
    [
        (SMALL, [data(11)]),
        (SMALL, [data(5), data(6)]),
        (SMALL, [data(10), data(1)]),
        (SMALL, [data(5)]),
        (SMALL, [FRAME.pack(HOLE, 11)]),
        (SMALL, [FRAME.pack(HOLE, 1 << 63)]),
        (SMALL, [data(5), FRAME.pack(HOLE, 6)]),
        (SMALL, [data(0)]),
        (SMALL, [FRAME.pack(HOLE, 0)]),
        (SMALL, [FRAME.pack(b"Z", 1)]),
        (SMALL, [FRAME.pack(END, 1 << 40)]),
        (SMALL, [FRAME.pack(FAILURE, 1 << 40)]),
        (SMALL, [FRAME.pack(FAILURE, 2) + b"{}"]),
        (SPARSE, [data(10)]),
    ],
)
def test_frames_that_are_not_those_of_the_tree(target: Path, tree: tuple[Entry, ...], frames: list[bytes]) -> None:
    (target / "x").write_text("old")
    with pytest.raises(BadData):
        receive(sealed(tree, *frames), target)
    assert {path.name: path.read_text() for path in target.iterdir()} == {"x": "old"}


def test_what_was_sent_differs(target: Path) -> None:
    sent = bytearray(sealed(SMALL, data(10)))
    sent[-1] ^= 1
    with refused(BadData, says="The data from the front-end was damaged on its way: the digests differ."):
        receive(bytes(sent), target)
    with refused(
        BadData,
        says="The front-end did not send the data that it announced: 11 bytes at 0 of 'x'.",
    ):
        receive(sealed(SMALL, data(11)), target)


def test_empty_segments_for_ever(target: Path) -> None:
    digest = Digest(digest_of(SMALL))
    ends = b"".join(FRAME.pack(SEGMENT_END, 32) + digest.cut() for _number in range(5))
    with refused(BadData, names=["empty segment"]):
        receive(announce(*SMALL) + ends, target)


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"tree": []},
        {"tree": 1},
        {"tree": [{"path": "x"}]},
        {"tree": [vars(Entry("../x", FILE, 0o644, 1))]},
        {"tree": [{**vars(Entry("x", FILE, 0o644, 1)), "more": 1}]},
        {"tree": [{**vars(Entry("x", FILE, 0o644, 1)), "size": "1"}]},
    ],
)
def test_descriptions_that_are_none(target: Path, line: dict[str, Any]) -> None:
    with pytest.raises(errors.TransferFailed):
        receive(json.dumps(line).encode() + b"\n", target)
    assert os.listdir(target) == []


def test_a_description_that_leads_out(target: Path) -> None:
    with refused(
        errors.TransferFailed,
        says="The front-end sent an invalid message about files: '../x' isn't a path of names.",
    ):
        receive(announce(Entry("../x", FILE, 0o644, 1)), target)


def test_more_data_than_there_is_room_for(target: Path) -> None:
    with refused(
        errors.NoSpace,
        says=f"{target} has room for * bytes, and the data to receive has {1 << 60} bytes. Nothing was changed.",
    ):
        receive(announce(Entry("x", FILE, 0o644, 1, size=1 << 60, data=1 << 60)), target)
    assert os.listdir(target) == []


def test_a_file_larger_than_the_file_system_allows(target: Path) -> None:
    with pytest.raises(errors.FileAccessFailed):
        receive(announce(Entry("x", FILE, 0o644, 1, size=(1 << 63) - 1)), target)
    assert os.listdir(target) == []


def test_an_error_of_the_sender(target: Path) -> None:
    message = json.dumps({"error": "StaleState", "message": "It changed."}).encode()
    with refused(errors.StaleState, says="On the front-end: It changed."):
        receive(announce(*SMALL) + data(5) + FRAME.pack(FAILURE, len(message)) + message, target)
    assert os.listdir(target) == []
