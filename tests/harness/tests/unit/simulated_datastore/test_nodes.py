# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The table of the clients' nodes."""

from __future__ import annotations

import os
from pathlib import Path

from simulated_datastore.nodes import NodeTable


def test_a_file_that_was_just_made_is_none_that_a_client_knows(tmp_path: Path) -> None:
    """After a crash a client may keep a file whose number the backing file system has reused."""
    table = NodeTable(tmp_path, limit=10)
    (tmp_path / "old").touch()
    old = table.meet(table.root, b"old", os.lstat(tmp_path / "old"))
    old.lookups = 1
    (tmp_path / "old").rename(tmp_path / "new")
    new = table.meet(table.root, b"new", os.lstat(tmp_path / "new"), is_new=True)
    assert (new.ino, new.generation, new.lookups, new.links) == (old.ino, old.generation + 1, 1, [(table.root, b"new")])
    assert table.stat(new).st_ino == new.ino
    assert old.stale
    table.close()
