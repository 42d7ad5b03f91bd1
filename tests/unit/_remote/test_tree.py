# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The description of a tree: complete, and refused if it could touch anything outside of the new directory."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import Conflict, NotFound, StaleState
from ansible_collections.granary.vmstore.plugins.module_utils._remote import tree as trees
from ansible_collections.granary.vmstore.plugins.module_utils._remote.tree import (
    DIRECTORY,
    FILE,
    LINK,
    BadTree,
    Entry,
    Source,
    check_tree,
    digest_of,
)
from refusal import refused

MIB = 1 << 20


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def entry(path: str, kind: str = FILE, **more: Any) -> Entry:
    return Entry(path, kind, more.pop("mode", 0o644), 1, **more)


def test_a_description(tmp_path: Path, opened: int) -> None:
    (tmp_path / "a.snap").mkdir(mode=0o750)
    with (tmp_path / "a.snap" / "0").open("wb") as file:
        file.seek(3 * MIB)
        file.write(random.Random(1).randbytes(MIB))
        file.truncate(8 * MIB)
    (tmp_path / "a.snap" / f".{'0' * 32}.part").touch()
    (tmp_path / "a").symlink_to("a.snap/0")
    found = Source(opened, str(tmp_path), {"a": "b", "a.snap": "b.snap", "none": "none"}).describe()
    assert [(one.path, one.kind, one.target, one.size) for one in found] == [
        ("b", LINK, "b.snap/0", 0),
        ("b.snap", DIRECTORY, "", 0),
        ("b.snap/0", FILE, "", 8 * MIB),
    ]
    assert found[1].mode == 0o750
    assert found[2].data == MIB and found[2].mtime == (tmp_path / "a.snap" / "0").stat().st_mtime_ns


def test_the_first_name_has_to_exist(tmp_path: Path, opened: int) -> None:
    with refused(NotFound, says=f"There is no {tmp_path}/none to transfer."):
        Source(opened, str(tmp_path), {"none": "x"}).describe()


def test_special_files_and_large_trees_are_refused(
    tmp_path: Path, opened: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory := tmp_path / "vm").mkdir()
    os.mkfifo(directory / "fifo")
    source = Source(opened, str(tmp_path), {"vm": "vm"})
    with refused(
        Conflict,
        says=f"{tmp_path} can't be transferred: 'vm/fifo' is neither a regular file, a directory nor a symbolic link.",
    ):
        source.describe()
    (directory / "fifo").unlink()
    (directory / "out").symlink_to("../../etc/passwd")
    with refused(Conflict, names=[tmp_path, "vm/out"]):
        source.describe()
    (directory / "out").unlink()
    monkeypatch.setattr(trees, "MOST_ENTRIES", 10)
    for number in range(11):
        (directory / str(number)).touch()
    with refused(Conflict, names=[tmp_path, 10]):
        source.describe()
    deep = tmp_path / "deep"
    (deep / "1/2/3/4/5/6/7/8").mkdir(parents=True)
    with refused(Conflict, names=["deep/1/2/3/4/5/6/7"]):
        Source(opened, str(tmp_path), {"deep": "deep"}).describe()


def test_a_file_that_becomes_another_one(tmp_path: Path, opened: int) -> None:
    (tmp_path / "x").write_bytes(b"x" * 100)
    source = Source(opened, str(tmp_path), {"x": "y"})
    (described,) = source.describe()
    with source.opened(described) as descriptor:
        assert os.read(descriptor, 200) == b"x" * 100
    with (
        refused(
            StaleState,
            says=f"{tmp_path}/x changed while it was transferred; transfer it when nothing writes to it.",
        ),
        source.opened(described),
        (tmp_path / "x").open("ab") as file,
    ):
        file.write(b"x")
    (tmp_path / "x").unlink()
    (tmp_path / "x").symlink_to("/etc/passwd")
    with pytest.raises(OSError), source.opened(described):
        pass


def test_a_digest_covers_each_field_except_the_amount_of_data() -> None:
    one = entry("x", size=5, data=4)
    others = [
        entry("y", size=5, data=4),
        entry("x", size=6, data=4),
        entry("x", size=5, data=4, mode=0o600),
        entry("x", size=5, data=4, version=7),
    ]
    assert len({digest_of((each,)) for each in [one, *others]}) == 5
    assert digest_of((entry("x", size=5, data=3),)) == digest_of((one,))


@pytest.mark.parametrize(
    "entries",
    [
        [entry("..")],
        [entry("../x")],
        [entry("/x")],
        [entry("")],
        [entry(".")],
        [entry("a\0b")],
        [entry("\ud800")],
        [entry("x" * 256)],
        [entry(f".{'0' * 32}.part")],
        [entry("a/b")],
        [entry("a"), entry("a/b")],
        [entry("a", LINK, target="b"), entry("a/b")],
        [entry("a", DIRECTORY), entry("a/../b")],
        [entry("a", DIRECTORY), entry("a//b")],
        [entry("b"), entry("a")],
        [entry("a"), entry("a")],
        [entry("a", "fifo")],
        [entry("a", mode=0o4755)],
        [entry("a", mode=-1)],
        [entry("a", size=-1)],
        [entry("a", size=1, data=2)],
        [entry("a", size=1 << 63)],
        [entry("a", DIRECTORY, size=1)],
        [Entry("a", FILE, 0o644, 1 << 63)],
        *([entry("a", LINK, target=target)] for target in ("/etc/passwd", "", "a\0", "..", "../x", "x/..", "x" * 4096)),
        [entry("a", DIRECTORY), entry("a/b", LINK, target="../../x")],
        [entry("a", DIRECTORY), entry("a/b", LINK, target="c/../../../x")],
        [entry("/".join("a" * depth), DIRECTORY) for depth in range(1, 10)],
    ],
)
def test_trees_that_are_not_received(entries: list[Entry]) -> None:
    with pytest.raises(BadTree):
        check_tree(entries)


def test_trees_that_are_received() -> None:
    check_tree(
        [
            entry("disk.0", LINK, target="disk.0.snap/1"),
            entry("disk.0.snap", DIRECTORY),
            entry("disk.0.snap/1", size=1 << 62, data=1 << 62),
            entry("disk.0.snap/disk.0.snap", LINK, target="."),
            entry("disk.0.snap/up", LINK, target="../disk.0"),
            entry("disk.0.snap.x"),
            entry("é \udcff\n"),
        ]
    )


def test_the_number_of_entries_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "MOST_ENTRIES", 2)
    with pytest.raises(BadTree):
        check_tree(entry(name) for name in "abc")
