# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.chunks import CHUNK, read_chunks
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    FileAccessFailed,
    InvalidInput,
    PathNotAllowed,
)
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.source_file import open_source_file
from refusal import refused


def read(path: Path, check=str) -> bytes:
    with open_source_file(str(path), check) as descriptor:
        return b"".join(read_chunks(descriptor))


def test_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content := b"ab" * CHUNK)
    assert read(tmp_path / "x") == content


def only_in(directory: Path):
    def check(path: str) -> None:
        if not path.startswith(f"{directory}/"):
            raise PathNotAllowed("path", path, "another is expected")

    return check


@pytest.mark.parametrize("swapped", ["file", "directory"])
def test_a_link_that_is_swapped_in_after_the_check_is_not_followed(tmp_path: Path, swapped: str) -> None:
    for name in ("open", "secret"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
    allowed = only_in(tmp_path / "open")
    calls = 0

    def check(path: str) -> None:
        nonlocal calls
        allowed(path)
        calls += 1
        if calls == 1 and swapped == "file":
            os.unlink(tmp_path / "open" / "x")
            (tmp_path / "open" / "x").symlink_to(tmp_path / "secret" / "x")
        elif calls == 1:
            os.rename(tmp_path / "open", tmp_path / "away")
            (tmp_path / "open").symlink_to(tmp_path / "secret")

    with pytest.raises((InvalidInput, FileAccessFailed)):
        read(tmp_path / "open" / "x", check)


def test_what_is_swapped_in_once_it_is_open_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("checked")
    (tmp_path / "y").write_text("other")
    with open_source_file(str(tmp_path / "x"), str) as descriptor:
        os.rename(tmp_path / "y", tmp_path / "x")
        assert b"".join(read_chunks(descriptor)) == b"checked"


def test_what_is_refused_is_not_even_looked_for(tmp_path: Path) -> None:
    with pytest.raises(PathNotAllowed):
        read(tmp_path / "missing", only_in(tmp_path / "open"))
    with refused(FileAccessFailed, says=f"Could not open {tmp_path}/missing: No such file or directory."):
        read(tmp_path / "missing")


def test_a_pipe_or_a_device_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/full")):
        with refused(InvalidInput, option="path", value=str(path)):
            read(path)
