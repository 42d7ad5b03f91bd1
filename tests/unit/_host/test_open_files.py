# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._host import open_files as module
from ansible_collections.granary.vmstore.plugins.module_utils._host.open_files import open_files


def test_programs_and_loop_devices_are_seen(tmp_path: Path) -> None:
    for name in ("read", "attached", "closed"):
        (tmp_path / name).write_bytes(bytes(4096))
    loop = subprocess.run(
        ["losetup", "--find", "--show", tmp_path / "attached"], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        with (
            (tmp_path / "read").open("rb") as file,
            subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[file.fileno()]) as process,
        ):
            found = open_files(str(tmp_path))
            process.stdin.close()
        assert found == {
            f"{tmp_path}/read": [f"the program cat (process {process.pid})"],
            f"{tmp_path}/attached": [f"the loop device {loop}"],
        }
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)


def test_what_this_process_has_open_does_not_count(tmp_path: Path) -> None:
    with (tmp_path / "own").open("wb"):
        assert open_files(str(tmp_path)) == {}


def test_who_only_looks_at_a_file_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    script = 'exec 3< "$0"; echo open; read line; exec 3<&-; echo closed; read line'
    with subprocess.Popen(
        ["sh", "-c", script, tmp_path / "file"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"open\n"
        look = module.list_paths
        looked: list[str] = []

        def close_after_look(number: str) -> Iterator[str]:
            yield from look(number)
            if number == str(process.pid):
                looked.append(number)
                if len(looked) == 1:
                    process.stdin.write(b"\n")
                    process.stdin.flush()
                    assert process.stdout.readline() == b"closed\n"

        monkeypatch.setattr(module, "list_paths", close_after_look)
        assert open_files(str(tmp_path)) == {}
        assert len(looked) == 2
        process.stdin.close()
