# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Direct input and output, as dd finds it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.direct_io import supports_direct_io
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import FileAccessFailed, PathNotAllowed


def dd_works(path: Path) -> bool:
    command = ["dd", f"if={path}", "of=/dev/null", "bs=4096", "count=1", "iflag=direct"]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.parametrize("place", ["/proc/self", "/sys/kernel", "tmp"])
def test_files(tmp_path: Path, place: str) -> None:
    path = {"/proc/self": Path("/proc/version"), "/sys/kernel": Path("/sys/kernel/notes")}.get(place)
    if path is None:
        path = tmp_path / "file"
        path.write_bytes(b"x" * 8192)
    assert supports_direct_io(str(path)) == dd_works(path)


def test_a_missing_file_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 8192)
    expected = dd_works(tmp_path / "file")
    assert supports_direct_io(str(tmp_path / "a" / "b" / "c")) == expected
    assert os.listdir(tmp_path) == ["file"]


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileAccessFailed):
        supports_direct_io(str(tmp_path / "pipe"))


def test_a_link_of_another_user(tmp_path: Path, tenant: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 8192)
    os.symlink(tmp_path / "file", tenant / "link")
    os.lchown(tenant / "link", tenant.stat().st_uid, tenant.stat().st_gid)
    with pytest.raises(PathNotAllowed):
        supports_direct_io(str(tenant / "link"))


def test_a_relative_name_ends_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert supports_direct_io("json:{") == supports_direct_io(str(tmp_path / "missing"))
