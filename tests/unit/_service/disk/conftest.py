# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""A front-end that is its own host."""

from __future__ import annotations

from pathlib import Path

import pytest
from vm_site import Site, make_site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path, tmp_path)
