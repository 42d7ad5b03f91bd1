# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The role and the scenario of docs/testing.md, word by word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from documentation import block, files_of


def test_a_role_of_ones_own_is_tested(tmp_path: Path) -> None:
    for name, text in files_of("docs/testing.md").items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.text, encoding="utf-8")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "NO_COLOR": "1"}
    try:
        command = ["bash", "-euc", block("docs/testing.md", "Run it").text]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "idempotence" in done.stdout + done.stderr
        labs = subprocess.run(
            ["lab", "status", "--lab", "web-storage"], env=environment, capture_output=True, text=True, check=False
        )
        assert "There is no lab 'web-storage'" in labs.stderr
    finally:
        subprocess.run(["lab", "down", "--lab", "web-storage"], env=environment, check=True)
