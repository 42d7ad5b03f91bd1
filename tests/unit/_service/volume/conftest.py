# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""A catalog for the volumes of domains."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._service.datastore.desired import (
    DATASTORE_SPEC,
    DatastoreService,
)


@pytest.fixture
def catalog(tmp_path: Path) -> str:
    """Create a catalog with the datastore ``more``, and return its path."""
    path = str(tmp_path / "catalog.sqlite")
    (tmp_path / "ds").mkdir()
    options = {name: option.get("default") for name, option in DATASTORE_SPEC.argument_spec.items()}
    given = {"name": "more", "type": "image", "ds_driver": "fs", "tm_driver": "shared", "catalog": path}
    DatastoreService({**options, **given, "datastore_location": str(tmp_path / "ds")}).converge()
    return path
