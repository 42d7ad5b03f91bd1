# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def shadow_files(tmp_path: Path) -> Path:
    """Create an ``etc`` directory with the account files that usermod(8) needs, and a user ``alice``."""
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n")
    (etc / "shadow").write_text("root:*:1::::::\nalice:*:1::::::\n")
    (etc / "group").write_text("root:x:0:\nalice:x:1000:\n")
    (etc / "gshadow").write_text("root:*::\nalice:*::\n")
    (etc / "subuid").touch()
    (etc / "subgid").touch()
    return etc
