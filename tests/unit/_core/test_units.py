# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Times as users write them."""

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._core.units import read_duration
from refusal import refused


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(0, 0), ("90", 90), (" 90s ", 90), ("2m", 120), ("36h", 129_600), ("7d", 604_800), ("2w", 1_209_600)],
)
def test_times(text: object, seconds: int) -> None:
    assert read_duration("max_age", text) == seconds


@pytest.mark.parametrize("text", ["", "d", "-1", "1.5h", "1 h", "1y", "1H", "1e9", "9" * 10, "١"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with refused(
        InvalidInput,
        says=f"max_age: {text!r} is not accepted: a number of seconds is expected, or one with m, h, d or w, such as "
        "7d.",
    ):
        read_duration("max_age", text)
