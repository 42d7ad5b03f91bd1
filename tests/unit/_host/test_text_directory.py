# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories with texts, as ls and cat see them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import FileAccessFailed
from ansible_collections.granary.vmstore.plugins.module_utils._host.passing import let_only_pass
from ansible_collections.granary.vmstore.plugins.module_utils._host.text_directory import TextDirectory
from refusal import refused


@pytest.fixture
def directory(tmp_path: Path) -> TextDirectory:
    return TextDirectory(str(tmp_path / "texts"))


def listed(directory: TextDirectory) -> list[str]:
    return subprocess.run(["ls", directory.path], capture_output=True, text=True, check=True).stdout.split()


def test_texts(directory: TextDirectory) -> None:
    assert directory.read() is None
    old = os.umask(0o077)
    try:
        directory.write({"a.conf": b"x=1\n", "sub/b": b"2"})
    finally:
        os.umask(old)
    path = Path(directory.path)
    assert listed(directory) == ["a.conf", "sub"]
    assert ((path / "a.conf").read_bytes(), (path / "sub" / "b").read_bytes()) == (b"x=1\n", b"2")
    command = ["find", path, "-not", "-type", "l", "-printf", "%y%m %u\n"]
    modes = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(modes.stdout.splitlines()) == {"d755 root", "f644 root"}
    assert directory.read() == {"a.conf": b"x=1\n", "sub/b": b"2"}


def test_one_rename_changes_all_texts(directory: TextDirectory) -> None:
    directory.write({"a": b"1", "b": b"1", "gone": b""})
    before = os.open(os.path.join(directory.path, "..data"), os.O_RDONLY)
    directory.write({"a": b"2", "b": b"2", "new": b""})
    assert listed(directory) == ["a", "b", "new"]
    assert (Path(directory.path) / "a").read_bytes() == b"2"
    # Who reads the old texts still finds all of them.
    with open(os.open("b", os.O_RDONLY, dir_fd=before), "rb") as file:
        assert file.read() == b"1"
    os.close(before)
    assert len(os.listdir(directory.path)) == 6
    directory.sweep()
    assert len(os.listdir(directory.path)) == 5


def test_a_failed_write_leaves_nothing_but_the_old_texts(directory: TextDirectory) -> None:
    directory.write({"a": b"1"})
    before = sorted(os.listdir(directory.path))
    with refused(FileAccessFailed):
        directory.write({"a": b"2", "b": b"2", f"sub/{'x' * 300}": b"2"})
    assert sorted(os.listdir(directory.path)) == before
    assert (Path(directory.path) / "a").read_bytes() == b"1"


def test_an_interrupted_run_leaves_the_old_texts(directory: TextDirectory) -> None:
    directory.write({"a": b"1"})
    os.mkdir(os.path.join(directory.path, "..half"))
    os.symlink("..half", os.path.join(directory.path, "..data_tmp"))
    assert directory.read() == {"a": b"1"}
    directory.write({"a": b"2"})
    assert directory.read() == {"a": b"2"} and not os.path.exists(os.path.join(directory.path, "..half"))
    directory.remove()
    directory.remove()
    assert not os.path.exists(directory.path)


def test_a_failed_write_leaves_the_old_texts(directory: TextDirectory) -> None:
    directory.write({"a": b"1"})
    with pytest.raises(FileAccessFailed):
        directory.write({"a": b"2", "x" * 300: b""})
    assert directory.read() == {"a": b"1"} and listed(directory) == ["a"]


def test_a_directory_that_one_user_can_pass(tenant: Path) -> None:
    os.chown(tenant, 0, 0)
    user = 4242
    inside = tenant / "inside"
    inside.mkdir()
    (inside / "text").write_text("secret")
    let_only_pass(str(inside), [user, 0])

    def reads(uid: int) -> bool:
        command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "cat", inside / "text"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    assert (reads(user), reads(user + 1)) == (True, False)
    shown = subprocess.run(["getfacl", "-pn", inside], capture_output=True, text=True, check=True).stdout
    assert [line for line in shown.splitlines() if ":" in line and line[0] != "#"] == [
        "user::rwx",
        f"user:{user}:--x",
        "group::---",
        "mask::--x",
        "other::---",
    ]


@pytest.mark.parametrize(
    "script",
    [
        "ln -s /etc/hostname ..data/evil",
        "mkfifo ..data/evil",
        "ln -s /etc ..data/evil",
        "ln -sfn /etc ..data",
        "ln -sfn .. ..data",
        "rm ..data; mkdir ..data",
        "truncate -s 1T ..data/a",
        f"mkdir -p ..data/{'d/' * 300}",
        "mkdir ..data_tmp",
        "ln -s /etc ..evil; mkdir -p evil/evil; mkfifo ..evil2",
    ],
)
def test_a_guest_whose_root_is_root_here_leads_nowhere(directory: TextDirectory, script: str) -> None:
    directory.write({"a": b"1"})
    subprocess.run(["sh", "-ec", script], cwd=directory.path, check=True)
    assert directory.read() in ({}, {"a": b"1"})
    directory.write({"a": b"2"})
    directory.sweep()
    assert directory.read() == {"a": b"2"} and listed(directory) == ["a"]
