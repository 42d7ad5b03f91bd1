# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Words of a command, as parsed by the shell of the other host. tests/integration/catalog/test_bridge.py has real
connections.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.command import run
from ansible_collections.granary.vmstore.plugins.module_utils._remote.ssh import TIMED_OUT, script_command


@pytest.fixture(autouse=True)
def other_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pass the last word to a shell, like sshd(8)."""
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.parametrize("name", ["plain", "it's", '"$(touch pwned)`id`" ; exit 9', "-n", "\\", "a  b\t* ~", "é\u2028"])
def test_quoted_words_arrive_as_they_are(name: str) -> None:
    completed = run(script_command("host", f"printf '%s' {shlex.quote(name)}", timeout=20))
    assert (completed.returncode, completed.stdout) == (0, name)


def test_the_other_host_ends_what_takes_too_long() -> None:
    assert run(script_command("host", "exec sleep 60", timeout=0.1), accept=None).returncode == TIMED_OUT
