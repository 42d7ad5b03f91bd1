# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Models without a mount."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from sd_model import Model  # noqa: E402


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Model]]:
    made: list[Model] = []

    def factory(**options: Any) -> Model:
        root = tmp_path / f"backing-{len(made)}"
        root.mkdir()
        made.append(Model(root, **options))
        return made[-1]

    yield factory
    for model in made:
        model.datastore.close()


@pytest.fixture
def model(make: Callable[..., Model]) -> Model:
    return make()
