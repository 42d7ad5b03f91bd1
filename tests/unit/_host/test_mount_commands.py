# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.commands import users_of


def make_process(proc: Path, number: int, directory: str, name: str | None) -> None:
    """Create the files of a process. Without a ``name``, its name can't be read, like that of one that has ended."""
    (proc / f"{number}/fd").mkdir(parents=True)
    (proc / f"{number}/cwd").symlink_to(directory)
    if name is None:
        (proc / f"{number}/comm").mkdir()
    else:
        (proc / f"{number}/comm").write_text(f"{name}\n")


def test_users_are_found_by_their_files(tmp_path: Path) -> None:
    make_process(tmp_path, 20, "/mnt/a/below", "qemu")
    make_process(tmp_path, 3, "/mnt/a", "ba\x1bsh")
    make_process(tmp_path, 4, "/mnt/ab", "other")
    make_process(tmp_path, 5, "/", "reader")
    (tmp_path / "5/fd/7").symlink_to("/mnt/a/disk (deleted)")
    (tmp_path / "5/fd/8").symlink_to("socket:[1]")
    (tmp_path / "self").symlink_to("3")
    assert users_of("/mnt/a", str(tmp_path)) == ["ba?sh (3)", "reader (5)", "qemu (20)"]


def test_a_process_that_ends_meanwhile_is_left_out(tmp_path: Path) -> None:
    make_process(tmp_path, 3, "/mnt/a", None)
    make_process(tmp_path, 4, "/mnt/a", "bash")
    (tmp_path / "5").mkdir()
    assert users_of("/mnt/a", str(tmp_path)) == ["bash (4)"]
