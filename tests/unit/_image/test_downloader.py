# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""A front-end's downloader as a program. tests/unit/_face/driver_script/test_entry.py tests its use by the actions."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput, TimedOut
from ansible_collections.granary.vmstore.plugins.module_utils._image import downloader
from ansible_collections.granary.vmstore.plugins.module_utils._image.fetch import open_source, read_head
from ansible_collections.granary.vmstore.plugins.module_utils._image.source import Source
from refusal import refused

URL = "restic://100/23/0:25f4b298//disk.0"


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], str]:
    def make(script: str) -> str:
        (path := tmp_path / "downloader.sh").write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


@pytest.mark.parametrize("script", ["exec sleep 60", "echo begun; exec sleep 60", "exec 1>&-; exec sleep 60"])
def test_a_downloader_that_stalls_is_stopped(
    program: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(downloader, "TIMEOUT", 0.1)
    command = program(script)
    with open_source(URL, downloader=command, log=str) as chunks, refused(TimedOut, names=[command, 0.1]):
        list(chunks)


def test_a_downloader_that_nobody_reads_any_more_is_stopped(program: Callable[[str], str]) -> None:
    with open_source(URL, downloader=program("echo $$; exec yes"), log=str) as chunks:
        pid = int(next(chunks).split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_only_other_schemes_are_for_the_downloader(program: Callable[[str], str]) -> None:
    path = program("echo x")
    for known in ("http://host/x", "HTTPS://host/x", "ssh://host/x", "/srv/rbd://x"):
        assert not Source(known, path).is_for_downloader
    assert Source(URL, path).is_for_downloader
    for use in (lambda: open_source(URL, log=str).__enter__(), lambda: read_head(URL, 10), lambda: Source(URL)):
        with refused(
            InvalidInput,
            says=f"path: '{URL}' is not accepted: an absolute path or a URL with http, https or ssh is expected.",
        ):
            use()
